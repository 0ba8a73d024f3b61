"""Pictures of runs, drawn with matplotlib (extra `plot`); how pictures look is told in `learn.picture`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from fedthings.comparison import Comparison, Course, band
from fedthings.errors import SpecError, StoreError
from fedthings.history import Line
from fedthings.learn.metrics import METRICS
from fedthings.learn.picture import ENDINGS, INK, LINES, PALE, STYLE
from fedthings.units import BYTES, JOULES, SECONDS, said, unit

STYLES = {"worst_decile": (":", "worst tenth of the devices"), "test": ("--", "central test set")}
"""Beside the solid line over all samples: each part of a line of history, its dashes, and what it is."""
PANELS = {"seconds": ("time", SECONDS), "bytes": ("bytes up and down", BYTES), "joules": ("energy of devices", JOULES)}
"""What is spent, as a comparison shows it."""
COLORS = (*LINES, "#56b4e9", INK)
DASHES = ("-", "--", ":", "-.")
WIDE, LONG = 3.9, 52
"""Inches of a panel of a comparison; characters at most that stand before a line of a sweep."""
BEYOND = 2.0
"""So many times what the target took is shown, where all have reached it."""
FAR = 30.0
"""Where one run has spent so many times what another has, the axis goes by factors of ten."""

TIMES = {0.001: "1 ms", 0.01: "10 ms", 0.1: "0.1 s", 1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3600: "1 h"} | {
    36_000: "10 h",
    4 * 86_400: "4 d",
    40 * 86_400: "40 d",
    365 * 86_400: "1 year",
}
"""Seconds that such an axis names."""


def curve(history: Sequence[Line], path: Path, title: str = "") -> None:
    """Draw each metric, its worst decile and the losses over versions. Raises SpecError without matplotlib."""
    with _drawn(path, (9, 4), (1, 1)) as (figure, (left, right)):
        names = [name for name in (history[-1]["metrics"] if history else {}) if name != "loss"]
        _metrics(left, history, names)
        _losses(right, history)
        for axes in (left, right):
            axes.set_xlabel("version")
            axes.xaxis.get_major_locator().set_params(integer=True)
        if title:
            figure.suptitle(title, x=0.012, ha="left", fontweight="bold")


def comparison(found: Comparison, path: Path) -> None:
    """Draw the metric over time, bytes and, where any run counts them, joules; a band where a label has several runs.

    A ring is where the target was reached, on average. Raises SpecError without matplotlib, StoreError.
    """
    panels = [name for name in PANELS if name != "joules" or found.joules]
    goal = f"target {found.target:.4g}"
    across, down = _places([*found.courses, goal], WIDE * len(panels))
    looks = [(COLORS[i % len(COLORS)], DASHES[i // len(COLORS) % len(DASHES)]) for i in range(len(found.courses))]
    size = (0.6 + WIDE * len(panels), 3.9 + 0.2 * down)
    with _drawn(path, size, (1,) * len(panels), alike=True) as (figure, every):
        for axes, name in zip(every, panels, strict=True):
            courses = [[course for course in group if name in course.spent] for group in found.courses.values()]
            scale = _spent(axes, name, [course for group in courses for course in group], _shown(found, name))
            for label, group, (color, dash) in zip(found.courses, courses, looks, strict=True):
                if group:
                    _course(axes, group, name, scale, color, dash, label)
            axes.axhline(found.target, color=PALE, lw=1, ls=(0, (4, 3)), zorder=1)
            for cost, (color, _) in zip(found.costs, looks, strict=True):
                if name in cost.took:
                    place = cost.took[name].mean / scale
                    axes.plot(place, found.target, "o", color="white", mec=color, mew=1.6, ms=6.5, zorder=4)
        every[0].set_ylabel(found.measure)
        for axes in every[1:]:
            axes.tick_params(axis="y", length=0)
        every[0].plot([], [], color=PALE, lw=1, ls=(0, (4, 3)), marker="o", mfc="white", mew=1.4, ms=6, label=goal)
        handles, _ = every[0].get_legend_handles_labels()
        title = f"What it took to reach {found.measure} {found.target:.4g}{_repeated(found)}"
        figure.legend(
            handles=handles,
            loc="outside upper left",
            ncols=across,
            frameon=False,
            fontsize=9.5,
            title=title,
            title_fontsize=10.5,
            alignment="left",
        )


def _places(labels: Sequence[str], width: float) -> tuple[int, int]:
    """Return how many columns and rows a legend of `labels` takes in `width` (inches)."""
    across = max(1, min(len(labels), int(width / (0.65 + 0.08 * max(map(len, labels))))))
    return across, -(-len(labels) // across)


def _repeated(found: Comparison) -> str:
    """Return in words what is drawn of runs with the same label, "" where there are none."""
    runs = sorted({cost.runs for cost in found.costs})
    if runs == [1]:
        return ""
    each = f"{runs[0]} runs each" if len(runs) == 1 else f"{runs[0]} to {runs[-1]} runs each"
    return f"; {each}: mean, lowest and highest"


def _shown(found: Comparison, name: str) -> float:
    """Return how much of what was spent is shown: where all have reached the target, what is far beyond is not."""
    if any(cost.reached < cost.runs for cost in found.costs):
        return inf
    return BEYOND * max(cost.took[name].mean for cost in found.costs if name in cost.took)


def _spent(axes: Any, name: str, courses: Sequence[Course], most: float) -> float:
    """Set up the axis of what was spent in `courses`, up to `most`; return the size of its unit."""
    title, units = PANELS[name]
    begin = min(float(course.spent[name][0]) for course in courses)
    ends = [min(most, float(course.spent[name][-1])) for course in courses]
    if max(ends) <= FAR * min(ends) or begin <= 0:
        chosen = unit(max(ends), units)
        axes.set_xlim(0, 1.03 * max(ends) / chosen.size)
        axes.set_xlabel(f"{title} ({chosen.name})")
        return chosen.size
    axes.set_xscale("log")
    axes.set_xlabel(title)
    if name == "seconds":
        axes.set_xticks(list(TIMES), list(TIMES.values()))
    else:
        axes.xaxis.set_major_formatter(lambda value, _: said(value, units))
    axes.minorticks_off()
    axes.set_xlim(0.8 * begin, 1.25 * max(ends))
    return 1.0


def sweep(found: Comparison, path: Path, title: str = "") -> None:
    """Draw the metric over versions, a band from the lowest to the highest seed, and the last value of every run.

    The settings that end best have colours. Raises SpecError without matplotlib, StoreError.
    """
    high = METRICS[found.metric].better == "high"
    order = sorted(found.costs, key=lambda cost: -cost.last.mean if high else cost.last.mean)
    colors = {cost.label: color for cost, color in zip(order, LINES, strict=False)}
    low = max(3.2, 1.4 + 0.26 * len(found.costs))
    names = min(4.5, 0.085 * max(map(len, found.courses)))  # inches that they take
    with _drawn(path, (9.5 + names, low), (5.2, 3.8)) as (figure, (left, right)):
        for label, courses in found.courses.items():
            _course(left, courses, "version", 1, colors.get(label, "#c9c9c9"), "-", "", 3 if label in colors else 1)
        left.set_xlabel("version")
        left.set_ylabel(found.measure)
        left.xaxis.get_major_locator().set_params(integer=True)
        for row, (label, courses) in enumerate(found.courses.items()):
            last = [course.values[-1] for course in courses]
            color = colors.get(label, PALE)
            right.plot(last, [row] * len(last), "o", color=color, ms=4.5, alpha=0.55, mew=0)
            right.plot(np.mean(last), row, "|", color=color, ms=13, mew=2)
        right.set_yticks(range(len(found.courses)), [_short(label) for label in found.courses])
        for tick, label in zip(right.get_yticklabels(), found.courses, strict=True):
            tick.set_color(colors.get(label, INK))
        right.set_ylim(len(found.courses) - 0.4, -0.6)
        right.tick_params(axis="y", length=0)
        right.xaxis.get_major_locator().set_params(nbins=4)
        right.set_xlabel(f"{found.measure} of the last version")
        figure.suptitle(f"{title}{_repeated(found)}".removeprefix("; "), x=0.012, ha="left", fontsize=10.5)


def _short(label: str) -> str:
    """Return `label` without its middle where it is long."""
    return label if len(label) <= LONG else f"{label[: LONG // 2]}…{label[-(LONG // 2 - 1) :]}"


@contextmanager
def _drawn(
    path: Path, size: tuple[float, float], widths: Sequence[float], alike: bool = False
) -> Iterator[tuple[Any, Any]]:
    """Give a figure of `size` (inches) and its axes, side by side with `widths`; write it to `path`.

    `alike`: all have the same vertical axis. Raises SpecError without matplotlib, StoreError.
    """
    if path.suffix.lower() not in ENDINGS:
        raise SpecError(f"{path} is to be a picture: end its name in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise SpecError("a picture needs matplotlib: install the extra, `pip install fedthings[plot]`") from None
    with pyplot.rc_context(STYLE):
        figure, every = pyplot.subplots(
            1, len(widths), figsize=size, width_ratios=widths, layout="constrained", squeeze=False, sharey=alike
        )
        figure.get_layout_engine().set(wspace=0.06)
        try:
            for axes in every[0]:
                axes.grid(True)
                axes.set_axisbelow(True)
            yield figure, every[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=min(160, 1300 / size[0]))
        except OSError as error:
            raise StoreError(
                f"the picture {path} cannot be written: {error.strerror or error}; name another place, or make room"
            ) from None
        finally:
            pyplot.close(figure)


def _course(
    axes: Any, courses: Sequence[Course], over: str, size: float, color: str, dash: str, label: str, order: int = 3
) -> None:
    """Draw one run as it was, and of several the mean with a band from the lowest to the highest."""
    if len(courses) == 1:
        (course,) = courses
        places, middle = course.spent[over], course.values
    else:
        places, middle, low, high = band(courses, over)
        axes.fill_between(places / size, low, high, color=color, alpha=0.2, lw=0, zorder=order - 1)
    axes.plot(places / size, middle, color=color, ls=dash, lw=1.7, label=label, zorder=order)


def _metrics(axes: Any, history: Sequence[Line], names: Sequence[str]) -> None:
    """Draw the metrics: a colour each, a dash for each way to measure."""
    versions = [line["version"] for line in history]
    parts = [part for part in STYLES if any(line.get(part) for line in history)]
    for i, (name, color) in enumerate(zip(names, LINES, strict=False)):
        # Metrics often lie on each other: the first is wider, so that both are seen.
        width = 3.0 if i == 0 and len(names) > 1 else 1.6
        axes.plot(versions, _column(history, "metrics", name), color=color, lw=width, label=name.replace("_", " "))
        for part in parts:
            axes.plot(versions, _column(history, part, name), color=color, lw=1.5, ls=STYLES[part][0])
    for part in parts:
        axes.plot([], [], color=PALE, lw=1.5, ls=STYLES[part][0], label=STYLES[part][1])
    axes.set_ylabel("on the devices' test samples")
    _legend(axes)


def _losses(axes: Any, history: Sequence[Line]) -> None:
    versions = [line["version"] for line in history]
    measured = _column(history, "metrics", "loss")
    axes.plot(versions, [line["loss"] for line in history], color=LINES[0], lw=1.6, label="while training")
    axes.plot(versions, measured, color=LINES[1], lw=1.6, ls=(0, (5, 1.5)), label="on test samples")
    axes.set_ylabel("loss")
    _legend(axes)


def _legend(axes: Any) -> None:
    """Put the legend above the axes, where no line runs."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 1.01), ncols=2, frameon=False, handlelength=1.8, fontsize=9.5
        )


def _column(history: Sequence[Line], part: str, name: str) -> list[Any]:
    return [line.get(part, {}).get(name) for line in history]
