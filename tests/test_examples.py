"""The two examples of `on_version`: what they hand to TensorBoard and to MLflow, a line of the history at a time."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

import fedthings as ft

EXAMPLES = Path(__file__).parent.parent / "examples"
ROUNDS = 3


class Writer:
    """Notes what a writer of TensorBoard is asked for."""

    def __init__(self) -> None:
        self.scalars: list[tuple[str, float, int]] = []
        self.flushed = 0

    def add_scalar(self, tag: str, data: float, step: int | None = None) -> None:
        assert step is not None
        self.scalars.append((tag, data, step))

    def flush(self) -> None:
        self.flushed += 1


class Tracking:
    """Notes what MLflow is asked for."""

    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, float], int]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.logged.append((metrics, step))


def trained(name: str, hook: str, door: Any) -> ft.Run:
    """Train the federation of an example with its own hook around `door`."""
    pytest.importorskip("sklearn", reason="NO DIGITS: scikit-learn is not installed (extra `demo`)")
    from fedthings.learn.digits import digits

    example = runpy.run_path(str(EXAMPLES / name))
    return ft.simulate(example["federation"], digits(devices=10, seed=0), ROUNDS, on_version=example[hook](door))


def test_tensorboard_gets_a_curve_for_each_metric() -> None:
    writer = Writer()
    run = trained("to_tensorboard.py", "scalars", writer)
    assert writer.flushed == ROUNDS  # so that it shows while it trains
    curves: dict[str, list[tuple[int, float]]] = {}
    for name, value, step in writer.scalars:
        curves.setdefault(name, []).append((step, value))
    assert set(curves) == {"training loss", "loss", "accuracy", "macro_f1"}
    assert curves["training loss"] == [(line["version"], line["loss"]) for line in run.history]
    assert curves["accuracy"] == [(line["version"], line["metrics"]["accuracy"]) for line in run.history]


def test_mlflow_gets_the_metrics_of_each_version() -> None:
    tracking = Tracking()
    run = trained("to_mlflow.py", "metrics", tracking)
    assert tracking.logged == [
        ({"training_loss": line["loss"], **line["metrics"]}, line["version"]) for line in run.history
    ]
    assert len(tracking.logged) == ROUNDS
