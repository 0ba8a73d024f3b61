"""Predictive maintenance: how many cycles has the engine left? 100 engines that ran to failure, C-MAPSS FD001.

A device holds the rows of its cycles, and makes windows of 30 of them itself. The 100 test engines are others.
"""

import sys

import numpy as np

import fedthings as ft

STEPS, CAP = 30, 125
MODEL = ft.sequential(
    (STEPS, 24), ft.flatten(), ft.dense(64, "relu"), ft.dense(32, "relu"), ft.dense(1), ft.rescale([75.0], [40.0])
)
ROUNDS, LAST = 1000, 50


def federation(seed: int = 0) -> ft.Federation:
    recipe = ft.Recipe(lr=0.02, batch=32)
    task = ft.Task(model=MODEL, loss="mse", normalise="fleet", window=ft.window(STEPS), recipe=recipe)
    return ft.Federation(task, ft.fedadam(lr=0.006), ft.Pace(goal=30), seed=seed, name="maintenance")


def engines(folder: str) -> tuple[ft.Fleet, tuple[np.ndarray, np.ndarray]]:
    """The engines that train, and the last window of each test engine with what it has left, at most CAP."""
    held = ft.catalogue.arrays("cmapss", folder)
    mine = held["subset"] == 1
    X, device, cycle, split = (held[key][mine] for key in ("X", "device", "cycle", "split"))
    y = np.minimum(held["y"][mine], CAP).astype(np.float32)
    order = np.lexsort((cycle, device))
    trains, tests = order[split[order] == 0], order[split[order] == 1]
    ends = np.flatnonzero(np.diff(device[tests], append=-1))
    last = np.stack([X[tests[end + 1 - STEPS : end + 1]] for end in ends])
    return ft.Fleet.from_arrays(X[trains], y[trains], device[trains]), (last, y[tests[ends]])


def late_rmse(run: ft.Run) -> float:
    """The RMSE of the last versions on the test engines: single ones jump."""
    return float(np.mean([line["test"]["rmse"] for line in run.history[-LAST:]]))


def train(folder: str, seed: int = 0) -> ft.Run:
    fleet, test = engines(folder)
    return ft.simulate(federation(seed), fleet, ROUNDS, test=test)


def main(folder: str) -> dict:
    run, (fleet, test) = train(folder), engines(folder)
    print(f"RMSE on the last cycle of the test engines, mean of the last {LAST} versions: {late_rmse(run):.2f} cycles")
    alone, personal, pooled = (ft.Recipe(lr=lr, batch=32, epochs=n) for lr, n in ((0.002, 20), (0.01, 1), (0.01, 30)))
    return ft.baselines(run, fleet, alone, personal, pooled, test)


if __name__ == "__main__":
    for way, found in main(sys.argv[1]).items():
        print(f"{way:22} RMSE {found.metrics['rmse']:.2f} cycles, worst tenth {found.worst_decile['rmse']:.2f}")
