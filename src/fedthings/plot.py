"""Pictures of a run, drawn with matplotlib (extra `plot`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedthings.errors import SpecError
from fedthings.history import Line

INK, LINES = "#22313f", ("#1f7a8c", "#e07a5f", "#6a4c93", "#81b29a", "#c98b00")


def curve(history: Sequence[Line], path: Path, title: str = "") -> None:
    """Draw each metric, its worst decile and the training loss over versions. Raises SpecError without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise SpecError("a picture needs matplotlib: install the extra, `pip install fedthings[plot]`") from None
    versions = [line["version"] for line in history]
    names = [name for name in (history[-1]["metrics"] if history else {}) if name != "loss"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, color in zip(names, LINES, strict=False):
        left.plot(versions, _column(history, "metrics", name), color=color, label=name.replace("_", " "))
        worst = _column(history, "worst_decile", name)
        left.plot(versions, worst, color=color, linewidth=1, linestyle=":", label="  worst tenth of the devices")
        if any("test" in line for line in history):
            left.plot(
                versions,
                _column(history, "test", name),
                color=color,
                linestyle="--",
                label="  central test set",
            )
    right.plot(versions, [line["loss"] for line in history], color=LINES[0], label="training loss")
    right.plot(versions, _column(history, "metrics", "loss"), color=LINES[1], label="test loss on the devices")
    for axes, what in ((left, "metric"), (right, "loss")):
        axes.set_xlabel("version")
        axes.set_ylabel(what)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
    figure.suptitle(title, color=INK, fontsize=13)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _column(history: Sequence[Line], part: str, name: str) -> list[Any]:
    return [line.get(part, {}).get(name) for line in history]
