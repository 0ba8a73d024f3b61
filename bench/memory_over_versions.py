"""Whether memory grows: 2,000 versions of the simulator, its resident memory after each tenth.

Synchronous and asynchronous, MLP 64-32-10, 30 of 300 devices a version, each keeping a
state of its own (`recipe.keep`), and drop-outs. What grows by right is the history: a line a version.

python bench/memory_over_versions.py [--versions 2000] [--plot memory.png]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is there, as in the commands

import numpy as np

import fedthings as ft
from fedthings.history import Line
from fedthings.simulation.world import Uneven
from processes import memory
from table import table

PACES = {
    "synchronous": ft.Pace(goal=30, concurrency=40, patience=60.0),
    "asynchronous": ft.Pace(goal=30, concurrency=60, staleness=4, patience=60.0),
}


def grown(pace: ft.Pace, versions: int) -> list[tuple[int, float]]:
    """Return the resident memory in MB after each tenth version."""
    recipe = ft.Recipe(lr=0.05, batch=20, keep=0.3)
    task = ft.Task(model=ft.mlp(64, 32, 10), loss="cross_entropy", recipe=recipe)
    found: list[tuple[int, float]] = []

    def look(line: Line) -> None:
        if line["version"] % 10 == 0:
            found.append((line["version"], memory(os.getpid())["rss"]))

    spec = ft.Federation(task, ft.fedavgm(), pace)
    ft.simulate(spec, ft.clusters(300, tests=10), versions, world=Uneven(spread=1.0, lost=0.1), on_version=look)
    return found


def plot(path: Path, runs: dict[str, list[tuple[int, float]]]) -> None:
    """Draw resident memory over versions."""
    import matplotlib.pyplot as plt

    from fedthings.learn.picture import LINES, STYLE

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
        for (name, found), colour in zip(runs.items(), LINES, strict=False):
            axes.plot(*zip(*found, strict=True), color=colour, label=name)
        axes.set(xlabel="versions", ylabel="resident memory, MB", ylim=(0, None))
        axes.set_title("Memory over a long run", loc="left")
        axes.grid(axis="y")
        axes.legend(frameon=False)
        figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=2000)
    parser.add_argument("--plot", type=Path, help="draw it into this file")
    options = parser.parse_args()
    runs = {name: grown(pace, options.versions) for name, pace in PACES.items()}
    lines = []
    for name, found in runs.items():
        versions, sizes = (np.array(column) for column in zip(*found, strict=True))
        late = versions > options.versions // 10
        slope = np.polyfit(versions[late], sizes[late], 1)[0]
        lines.append([name, f"{sizes[late][0]:.1f}", f"{sizes[-1]:.1f}", f"{1000 * slope:.2f}"])
    table(["RSS, MB", f"after {options.versions // 10} versions", "at the end", "MB per 1,000 versions"], lines)
    if options.plot:
        plot(options.plot, runs)


if __name__ == "__main__":
    main()
