"""The picture of a fleet: who has how many samples of what; and the look that all pictures have (extra `plot`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedthings.errors import SpecError
from fedthings.vector import Array

if TYPE_CHECKING:
    from fedthings.learn.fleet import Fleet

LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
"""Colours that colour-blind people tell apart (Okabe & Ito 2008)."""
INK, PALE = "#2b2b2b", "#8a8a8a"
STYLE = {
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10.5,
    "grid.color": "#e6e6e6",
    "lines.solid_capstyle": "round",
    "text.color": INK,
    "xtick.color": PALE,
    "xtick.labelcolor": INK,
    "ytick.color": PALE,
    "ytick.labelcolor": INK,
}
LIGHT = "#a6cbe0"
"""What belongs to the first of the colours."""
ENDINGS = (".png", ".svg", ".pdf")
SEVERAL = 40
"""Devices that are drawn one by one; more are drawn as a distribution."""
ASKED = 5000
"""Devices at most whose data is looked at, evenly spaced among all."""
LABELS = 20
"""Labels at most in a picture; of more, the most frequent ones and the others together."""
FEWEST = 6
"""Rows of discs that the picture has room for at least, so that the name of the axis fits beside it."""
CLASSES = 100
"""Whole numbers with more values than these are a quantity, not labels."""
LEAST = 5.0
"""Square points of the smallest disc: one sample is to be seen."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Census(NamedTuple):
    """What `names` have: `sizes` `(n, 2)` training and test samples; `counts` `(n, labels)` of each of `labels`.

    `held` `(n,)` is how many labels each has, of `known`. Of real targets there are `quantiles` `(n, 5)` instead.
    """

    names: Sequence[str]
    sizes: Array
    labels: Sequence[str]
    counts: Array
    held: Array
    known: int
    quantiles: Array


def draw(fleet: Fleet, path: Path, title: str = "", at: float = 0.0) -> None:
    """Draw `fleet` at time `at` (seconds) into `path`. Raises SpecError without matplotlib, DataError."""
    if path.suffix.lower() not in ENDINGS:
        raise SpecError(f"{path} is to be a picture: end its name in {', '.join(ENDINGS)}")
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise SpecError("a picture needs matplotlib: install the extra, `pip install fedthings[plot]`") from None
    census = taken(fleet, at)
    with pyplot.rc_context(STYLE):
        figure = _each(pyplot, census) if len(census.names) <= SEVERAL else _together(pyplot, census)
        lines = [title, said(fleet, census)] if title else [said(fleet, census)]
        figure.suptitle("\n".join(lines), x=0.012, ha="left")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160)
        pyplot.close(figure)


def said(fleet: Fleet, census: Census) -> str:
    """Return in words how many there are."""
    train, test = census.sizes.sum(0).tolist()
    seen = f", {len(census.names):,} of them looked at" if len(census.names) < len(fleet) else ""
    return f"{len(fleet):,} device{'s' * (len(fleet) > 1)}{seen}; {train:,} training samples" + (
        f", {test:,} for testing" if test else ""
    )


def taken(fleet: Fleet, at: float) -> Census:
    """Return what the devices of `fleet`, or `ASKED` of them, have at time `at`."""
    names = list(fleet.names[:: -(-len(fleet) // ASKED)])
    shards = fleet.cohort(names, [at] * len(names))
    sizes = np.array([(len(shard.X), len(shard.test_X)) for shard in shards])
    targets = [shard.y.reshape(-1) for shard in shards]
    values = np.unique(np.concatenate([np.unique(y) for y in targets]))
    if shards[0].y.dtype.kind == "f" or len(values) > CLASSES:
        nothing = np.empty((len(names), 0))
        return Census(names, sizes, (), nothing, nothing, 0, np.array([np.quantile(y, QUANTILES) for y in targets]))
    counts = np.stack([np.bincount(np.searchsorted(values, y), minlength=len(values)) for y in targets])
    held, known = (counts > 0).sum(1), len(values)
    labels = [fleet.classes[v] if 0 <= v < len(fleet.classes) else str(v) for v in values.tolist()]
    if known > LABELS:
        most = np.sort(np.argsort(-counts.sum(0), kind="stable")[: LABELS - 1])
        others = counts.sum(1) - counts[:, most].sum(1)
        labels = [*(labels[i] for i in most), f"{known - LABELS + 1} others"]
        counts = np.concatenate([counts[:, most], others[:, None]], 1)
    return Census(names, sizes, labels, counts, held, known, np.empty((len(names), 0)))


# --------------------------------------------------------------------- a few


def _each(pyplot: Any, census: Census) -> Any:
    """Draw every device: its size above, what it has below."""
    n = len(census.names)
    rows = len(census.labels) or 12
    width = min(12.0, 2.6 + 0.3 * max(n, 12))
    low = 0.6 + 0.26 * max(rows, FEWEST)
    figure, (above, below) = pyplot.subplots(
        2,
        1,
        figsize=(width, 2.2 + low + _lettering(census.names)),
        sharex=True,
        height_ratios=(1.3, low),
        layout="constrained",
    )
    _sizes(above, census)
    if census.labels:
        _bubbles(below, census, (width - 1.6) / n, low / rows)
    else:
        _ranges(below, census)
    below.set_xticks(range(n), _short(census.names), rotation=90 if _lettering(census.names) > 0.3 else 0)
    below.tick_params(axis="x", length=0)
    below.set_xlim(-0.7, n - 0.3)
    below.set_xlabel("device")
    return figure


def _sizes(axes: Any, census: Census) -> None:
    train, test = census.sizes.T
    places = np.arange(len(train))
    axes.bar(places, train, 0.62, color=LINES[0], label="training")
    if test.any():
        axes.bar(places, test, 0.62, bottom=train, color=LIGHT, label="test")
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=2, frameon=False, fontsize=9.5)
    axes.set_ylabel("samples")
    axes.tick_params(axis="x", length=0)
    _grid(axes, "y")
    axes.yaxis.get_major_locator().set_params(nbins=4, integer=True)
    axes.yaxis.set_major_formatter(_thousands)


def _bubbles(axes: Any, census: Census, across: float, down: float) -> None:
    """Draw a disc for each device and label, its area the number of samples; the largest just fits its cell."""
    device, label = np.nonzero(census.counts)
    found = census.counts[device, label]
    largest = (0.88 * 72 * min(across, down)) ** 2
    area = np.maximum(largest * found / found.max(), LEAST)
    axes.scatter(device, label, area, color=LINES[0], linewidths=0, clip_on=False, zorder=3)
    axes.set_yticks(range(len(census.labels)), census.labels)
    axes.set_ylim(len(census.labels) - 0.4, -0.6)
    axes.set_ylabel("label of training samples")
    axes.tick_params(axis="y", length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.grid(True, lw=0.7)
    axes.set_axisbelow(True)
    axes.annotate(
        f"the largest disc: {found.max():,} samples",
        (1.0, 1.0),
        (0, 3),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=9.5,
        color=PALE,
    )


def _ranges(axes: Any, census: Census) -> None:
    low, lower, middle, upper, high = census.quantiles.T
    places = np.arange(len(middle))
    axes.vlines(places, low, high, color=LINES[0], lw=1.2, label="5 to 95 %")
    axes.vlines(places, lower, upper, color=LINES[0], lw=5, label="25 to 75 %")
    axes.plot(places, middle, "o", color="white", mec=LINES[0], ms=5.5, label="median")
    axes.set_ylabel("target of training samples")
    _grid(axes, "y")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=3, frameon=False, fontsize=9.5)


# ---------------------------------------------------------------------- many


def _together(pyplot: Any, census: Census) -> Any:
    """Draw how sizes and labels, or targets, are distributed over the devices."""
    if not census.labels:
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 4.0), width_ratios=(1, 1.5), layout="constrained")
        _histogram(left, census.sizes[:, 0])
        _curves(right, census)
    else:
        height = max(4.0, 1.2 + 0.24 * len(census.labels))
        figure, (left, middle, right) = pyplot.subplots(
            1, 3, figsize=(12, height), width_ratios=(1, 1, 1.35), layout="constrained"
        )
        _histogram(left, census.sizes[:, 0])
        _variety(middle, census)
        _shares(right, census)
    figure.get_layout_engine().set(wspace=0.06)
    return figure


def _histogram(axes: Any, sizes: Array) -> None:
    """Draw how many devices have how many samples, by factors of ten where they differ much."""
    least, most = int(sizes.min()), int(sizes.max())
    if most == least:
        edges = np.array([0.96, 1.04]) * most
        axes.set_xlim(0.5 * most, 1.5 * most)
    elif most > 30 * least:
        edges = np.geomspace(least * 0.999, most * 1.001, 25)
        axes.set_xscale("log")
    else:
        step = max(1, -(-(most - least + 1) // 24))
        edges = np.arange(least - 0.5, most + step, step)
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
    axes.xaxis.set_major_formatter(_thousands)
    axes.hist(sizes, edges, color=LINES[0], rwidth=0.9)
    middle = float(np.median(sizes))
    axes.axvline(middle, color=LINES[1], lw=1.4)
    axes.annotate(
        f"median {middle:,.0f}",
        (middle, 1.0),
        (4, -2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        color=LINES[1],
        fontsize=9.5,
    )
    axes.set_xlabel("training samples")
    axes.set_ylabel("devices")
    _grid(axes, "y")
    axes.margins(y=0.14)


def _variety(axes: Any, census: Census) -> None:
    """Draw how many labels devices have."""
    number, devices = np.unique(census.held, return_counts=True)
    axes.bar(number, devices, 0.8, color=LINES[0])
    axes.set_xlim(0.3, census.known + 0.7)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel(f"labels that a device has, of {census.known}")
    axes.set_ylabel("devices")
    _grid(axes, "y")


def _shares(axes: Any, census: Census) -> None:
    """Draw how large a part of a device each label is."""
    shares = census.counts / census.counts.sum(1, keepdims=True)
    low, lower, middle, upper, high = np.quantile(shares, QUANTILES, axis=0)
    places = np.arange(len(census.labels))
    axes.hlines(places, low, high, color=LINES[0], lw=1.2, label="5 to 95 % of devices")
    axes.hlines(places, lower, upper, color=LINES[0], lw=5, label="25 to 75 %")
    axes.plot(middle, places, "o", color="white", mec=LINES[0], ms=5.5, label="median")
    whole = census.counts.sum(0) / census.counts.sum()
    axes.plot(whole, places, "|", color=LINES[1], ms=11, mew=2, label="whole fleet")
    axes.set_yticks(places, census.labels)
    axes.set_ylim(len(places) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(-0.02, max(1.02 * high.max(), 0.1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set_xlabel("share of a device's training samples")
    _grid(axes, "x")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, frameon=False, fontsize=9.5)


def _curves(axes: Any, census: Census) -> None:
    """Draw the targets of devices, sorted by their medians."""
    low, lower, middle, upper, high = census.quantiles[np.argsort(census.quantiles[:, 2], kind="stable")].T
    places = np.arange(1, len(middle) + 1)
    axes.fill_between(places, low, high, color=LINES[0], alpha=0.18, lw=0, label="5 to 95 % of a device")
    axes.fill_between(places, lower, upper, color=LINES[0], alpha=0.35, lw=0, label="25 to 75 %")
    axes.plot(places, middle, color=LINES[0], lw=1.8, label="median")
    axes.set_xlim(1, len(places))
    axes.set_xlabel("devices, by their medians")
    axes.set_ylabel("target of training samples")
    _grid(axes, "y")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False, fontsize=9.5)


def _grid(axes: Any, axis: str) -> None:
    axes.grid(True, axis=axis)
    axes.set_axisbelow(True)


def _thousands(value: float, place: int) -> str:
    return f"{value:,.0f}"


def _short(names: Sequence[str]) -> list[str]:
    """Return the names without what all begin with, up to the last mark, and without the middle of long ones."""
    first, last = min(names), max(names)
    whole = 0 if first == last else len(first)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), whole)
    cut = max(first.rfind(mark, 0, same) + 1 for mark in "-_.")
    names = [name[cut:] for name in names]
    return [name if len(name) <= 22 else f"{name[:10]}…{name[-11:]}" for name in names]


def _lettering(names: Sequence[str]) -> float:
    """Return the inches that the names take below the axis; they stand upright where they are long."""
    longest = max(map(len, _short(names)))
    return 0.2 if longest <= 3 else 0.1 + 0.085 * longest
