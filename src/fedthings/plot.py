"""Pictures of a run, drawn with matplotlib (extra `plot`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedthings.errors import SpecError
from fedthings.history import Line

LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
"""Colours that colour-blind people tell apart (Okabe & Ito 2008)."""
INK, PALE = "#2b2b2b", "#8a8a8a"
STYLES = {"worst_decile": (":", "worst tenth of the devices"), "test": ("--", "central test set")}
"""Beside the solid line over all samples: each part of a line of history, its dashes, and what it is."""
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


def curve(history: Sequence[Line], path: Path, title: str = "") -> None:
    """Draw each metric, its worst decile and the losses over versions. Raises SpecError without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise SpecError("a picture needs matplotlib: install the extra, `pip install fedthings[plot]`") from None
    with pyplot.rc_context(STYLE):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
        figure.get_layout_engine().set(wspace=0.06)
        names = [name for name in (history[-1]["metrics"] if history else {}) if name != "loss"]
        _metrics(left, history, names)
        _losses(right, history)
        for axes in (left, right):
            axes.set_xlabel("version")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(True)
            axes.set_axisbelow(True)
        if title:
            figure.suptitle(title, x=0.012, ha="left", fontweight="bold")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160)
        pyplot.close(figure)


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
