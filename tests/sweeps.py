"""A small sweep over two fields, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import fedthings as ft
from fedthings import run
from fedthings.simulation.sweep import Sweep, sweep

ROUNDS = 4
GRID = {"strategy.mu": [0, 0.5], "task.recipe.lr": [0.1, 0.3]}


def federation(units: int = 3, **more: Any) -> ft.Federation:
    recipe = ft.Recipe(lr=0.1, batch=8)
    model = ft.mlp(4, units, 2)
    return ft.Federation(
        task=ft.Task(model=model, loss="cross_entropy", recipe=recipe), pace=ft.Pace(goal=3), name="blobs", **more
    )


def arrays() -> dict[str, np.ndarray]:
    n = 80
    y = np.arange(n) % 2
    X = (np.random.default_rng(0).normal(size=(n, 4)) + 3 * y[:, None]).astype(np.float32)
    return {"X": X, "y": y, "device": np.arange(n) // 20, "split": (np.arange(n) % 20 >= 15).astype(int)}


def fleet() -> ft.Fleet:
    return ft.Fleet.from_arrays(**arrays())


def swept(out: Path, grid: dict[str, Any] = GRID, seeds: Any = 2, **more: Any) -> Sweep:
    return sweep(federation(), fleet(), ROUNDS, grid, out, seeds, engine="numpy", **more)


def models(made: Sweep) -> dict[str, bytes]:
    return {trial.directory.name: (trial.directory / run.MODEL).read_bytes() for trial in made.ended}
