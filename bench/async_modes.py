"""Modes of pace beside each other: virtual seconds until MNIST's 2NN reaches 97 %, with heavy-tailed delays.

100 devices with 600 images each (IID), one local epoch of batches of 10 at 0.1, server rate 1 in every mode: McMahan
et al. 2017's setting. A device takes 1 second in the median for a task, with a log-normal or a Pareto tail, drawn
anew for each task. Each mode runs with several seeds; the table has the medians.

python bench/async_modes.py [--seeds 3] [--plot docs/asynchronous.png] [--data DIR] [--only NAME]
"""

from __future__ import annotations

import argparse
import os
import time
from math import exp
from pathlib import Path
from statistics import NormalDist, median
from typing import Any, NamedTuple

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is there, as in the commands

import fedthings as ft
from fedthings.learn.mnist import mnist
from fedthings.simulation.world import Outcome, always
from fedthings.vector import digest
from table import table

TARGET = 0.97
LONG = 1e5
"""A patience that cuts nothing off: the modes then differ by nothing else."""
STALENESS = 200


class Tail(NamedTuple):
    """Delays of one kind with median 1 second, keyed by seed and ticket; everyone is always there."""

    kind: str
    figure: float
    seed: int = 0

    def outcome(self, ticket: Any, now: float, work: Any, until: float) -> Outcome:
        draw = ((digest(self.seed, *ticket) & (2**64 - 1)) + 0.5) / 2**64
        if self.kind == "log-normal":
            return Outcome(now + exp(self.figure * NormalDist().inv_cdf(draw)))
        return Outcome(now + (2 * (1 - draw)) ** (-1 / self.figure))

    def changes(self, names: Any) -> Any:
        return always(names)


TAILS = {"log-normal, spread 1.5": ("log-normal", 1.5), "Pareto, tail 1.2": ("Pareto", 1.2)}


def pace(**numbers: Any) -> ft.Pace:
    return ft.Pace(patience=LONG, **numbers)


EQUAL = ft.fedavg(weight="equal")
POLYNOMIAL = ft.fedasync(alpha=0.6, schedule=ft.polynomial(0.5))
MODES: dict[str, tuple[ft.Strategy, ft.Pace]] = {
    "synchronous, 10": (EQUAL, pace(goal=10)),
    "synchronous, 30": (EQUAL, pace(goal=30)),
    "over-selection, 10 of 13": (EQUAL, pace(goal=10, concurrency=13)),
    "over-selection, 10 of 30": (EQUAL, pace(goal=10, concurrency=30)),
    "deadline 3 s, 5 of 10 are enough": (EQUAL, pace(goal=10, period=3.0, quorum=5)),
    "semi-synchronous, every 3 s, 10 at work": (
        ft.fedbuff(),
        pace(goal=100, concurrency=10, period=3.0, staleness=STALENESS),
    ),
    "FedBuff K=10, 10 at work": (ft.fedbuff(), pace(goal=10, concurrency=10, staleness=STALENESS)),
    "FedBuff K=10, 30 at work": (ft.fedbuff(), pace(goal=10, concurrency=30, staleness=STALENESS)),
    "FedBuff K=10, 100 at work": (ft.fedbuff(), pace(goal=10, concurrency=100, staleness=STALENESS)),
    "FedAsync, 10 at work": (POLYNOMIAL, pace(goal=1, concurrency=10, staleness=STALENESS)),
    "FedAsync, 30 at work": (POLYNOMIAL, pace(goal=1, concurrency=30, staleness=STALENESS)),
}


def load(folder: Path) -> tuple[Any, ...]:
    """Return MNIST as 784 numbers an image: X, y, test_X, test_y."""
    X, y, test_X, test_y = mnist(folder / "mnist")
    return X.reshape(-1, 784), y, test_X.reshape(-1, 784), test_y


def reach(name: str, tail: tuple[str, float], data: tuple[Any, ...], seed: int = 0, rounds: int = 2000) -> ft.Run:
    """Return the run of the mode `name` until the target; FedAsync has `10 * rounds` versions at the most."""
    X, y, test_X, test_y = data
    strategy, when = MODES[name]
    fleet = ft.Fleet.from_arrays(X, y, ft.partition.iid(y, 100, seed=seed))
    recipe = ft.Recipe(lr=0.1, batch=10, epochs=1)
    task = ft.Task(model=ft.mlp(784, 200, 200, 10), loss="cross_entropy", recipe=recipe)
    spec = ft.Federation(task, strategy, when, seed=seed)
    most = rounds if when.goal > 1 else 10 * rounds
    world = Tail(*tail, seed)
    return ft.simulate(spec, fleet, most, test=(test_X, test_y), stop={"accuracy": TARGET}, world=world)


def seconds(run: ft.Run) -> float:
    """Return when the target was reached; inf if it was not."""
    met = [line["time"] for line in run.history if line["test"]["accuracy"] >= TARGET]
    return met[0] if met else float("inf")


def folder() -> Path:
    return Path(os.environ.get("FEDTHINGS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def plot(file: Path, curves: dict[str, dict[str, ft.Run]]) -> None:
    """Draw accuracy over virtual time, a panel for each kind of delays."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(curves), figsize=(11, 4.2), sharey=True, squeeze=False)
    for panel, (tail, runs) in zip(panels[0], curves.items(), strict=True):
        for index, (name, run) in enumerate(runs.items()):
            times = [line["time"] for line in run.history]
            reached = [line["test"]["accuracy"] for line in run.history]
            style = "-" if MODES[name][1].staleness == 0 else "--"
            panel.plot(times, reached, style, lw=1.1, color=pyplot.get_cmap("tab20")(index), label=name)
        panel.axhline(TARGET, color="black", lw=0.5, ls=":")
        panel.set(xscale="log", ylim=(0.8, 0.98), xlabel="virtual seconds", title=f"delays: {tail}")
    panels[0][0].set_ylabel("accuracy on MNIST's test images")
    panels[0][-1].legend(fontsize=6.5)
    figure.tight_layout()
    figure.savefig(file, dpi=70)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--data", type=Path, default=folder())
    parser.add_argument("--only", default="", help="modes whose name contains this")
    options = parser.parse_args()
    if not (options.data / "mnist").is_dir():
        parser.exit(0, f"NO REAL DATA: {options.data} has no mnist; name its place with --data\n")
    data = load(options.data)
    curves: dict[str, dict[str, ft.Run]] = {}
    for tail, figures in TAILS.items():
        rows, first = [], 0.0
        for name in MODES:
            if options.only not in name:
                continue
            begun = time.perf_counter()
            runs = [reach(name, figures, data, seed) for seed in range(options.seeds)]
            curves.setdefault(tail, {})[name] = runs[0]
            took = median(seconds(run) for run in runs)
            first = first or took
            versions = median(len(run.history) for run in runs)
            updates = median(sum(line["updates"] for line in run.history) for run in runs)
            moved = median(sum(line["bytes_up"] + line["bytes_down"] for line in run.history) for run in runs) / 1e9
            rows.append(
                [name, f"{took:.0f} s", f"{took / first:.2f}", f"{versions:.0f}", f"{updates:.0f}", f"{moved:.1f} GB"]
            )
            print(f"{tail}: {name}: {took:.1f} s, {time.perf_counter() - begun:.0f} s of work", flush=True)
        print(f"\nDelays: {tail} (median 1 s), {options.seeds} seeds\n")
        table(["mode", "97 % after", "of synchronous", "versions", "reports", "moved"], rows)
        print(flush=True)
    if options.plot:
        plot(options.plot, curves)


if __name__ == "__main__":
    main()
