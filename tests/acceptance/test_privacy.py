"""Accuracies promised under differential privacy: MNIST, 1,000 devices x 60 images, epsilon 8 at delta 1e-5."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def bench():
    """Return the bench, whose settings these are."""
    sys.path.insert(0, str(BENCH))
    yield runpy.run_path(str(BENCH / "privacy.py"))
    sys.path.remove(str(BENCH))


def test_2nn_with_blt_and_a_point_above_independent_noise(data, bench):
    found = {
        name: bench["accuracy"](data, bench["federation"]("2nn", *claim))
        for name, claim in {"none": (), "blt": (8, "BLT"), "independent": (8, "independent")}.items()
    }
    print(f"MNIST 2NN at epsilon 8: {found}")
    assert found["blt"] >= 0.93
    assert found["blt"] >= found["independent"] + 0.01
    assert found["none"] >= found["blt"] - 0.005


def test_logistic_regression_with_blt(data, bench):
    found = bench["accuracy"](data, bench["federation"]("logistic", 8, "BLT"))
    print(f"MNIST logistic at epsilon 8: {found:.4f}")
    assert found >= 0.905
