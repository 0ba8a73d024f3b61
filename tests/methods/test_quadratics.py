"""Where the methods end on eight heterogeneous quadratics with a known optimum: what their papers prove."""

from __future__ import annotations

import numpy as np
import pytest

import fedthings as ft
from quadratics import DEVICES, optimum, shards, trained


def away(row: np.ndarray) -> float:
    return float(np.abs(row - optimum(shards())).max())


@pytest.mark.parametrize("strategy", [ft.scaffold(DEVICES), ft.feddyn(DEVICES, alpha=0.5)], ids=["scaffold", "feddyn"])
def test_it_reaches_the_optimum(strategy) -> None:
    """Karimireddy et al. 2020, theorem III; Acar et al. 2021, theorem 1: no bias is left, whatever the local steps."""
    assert away(trained(strategy, 400)) < 1e-8


def test_averaging_stays_away_from_it() -> None:
    """It ends where the local steps of all devices cancel (Karimireddy et al. 2020, theorem II)."""
    row = trained(ft.fedavg(weight="equal"), 400)
    assert away(row) > 1e-2
    assert np.abs(row - trained(ft.fedavg(weight="equal"), 401)).max() < 1e-10  # it has come to rest


def test_nova_removes_the_bias_of_unequal_local_steps() -> None:
    """As the rate falls its rest goes to the optimum, that of averaging elsewhere (Wang et al. 2020, theorems 1, 2)."""
    efforts = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
    rests = {}
    for name, strategy in (("nova", ft.fednova("equal")), ("fedavg", ft.fedavg("equal"))):
        for lr in (0.02, 0.002):
            rests[name, lr] = away(trained(strategy, round(4 / lr), efforts, lr=lr))
    print(rests)
    assert rests["nova", 0.002] < 0.15 * rests["nova", 0.02]
    assert rests["fedavg", 0.002] > 0.8 * rests["fedavg", 0.02]
    assert rests["nova", 0.002] < 0.03 * rests["fedavg", 0.002]
