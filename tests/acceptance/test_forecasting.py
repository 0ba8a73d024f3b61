"""Forecasting models on real traffic, beside the last value and a linear model; each test prints what it measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fedthings as ft

pytestmark = pytest.mark.long

WINDOW, AHEAD = ft.window(steps=12), 3
MODELS = {
    "linear": (ft.sequential((12, 1), ft.flatten(), ft.dense(AHEAD)), ft.Recipe(), 1),
    "dlinear": (ft.dlinear((12, 1), AHEAD), ft.Recipe(lr=0.003), 200),
    "rnn": (ft.rnn((12, 1), 32, AHEAD), ft.Recipe(optimizer="adam", lr=0.003, batch=128), 150),
    "tcn": (ft.tcn((12, 1), 32, AHEAD), ft.Recipe(optimizer="adam", lr=0.001, batch=128), 150),
}


def detectors(folder: Path) -> ft.Fleet:
    """A row is the speed now, its targets the speeds of the next 15 minutes."""
    week = ft.catalogue.arrays("metr_la", folder)
    return ft.Fleet.from_arrays(week["X"][:, -1:], week["y"][:, :AHEAD], week["device"], week["split"])
