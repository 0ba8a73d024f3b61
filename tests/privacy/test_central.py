"""Claims: the budget is met and never passed, by every mechanism, with rounding, counting and what was spent before."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

import fedthings as ft
from fedthings.privacy import accountant
from fedthings.privacy.central import CentralDp, Claim, claimed

pytest.importorskip("dp_accounting")

MECHANISMS = [ft.blt(), ft.blt(1), ft.tree(), ft.independent(), ft.independent(amplified=True)]


def claim(spec: CentralDp, clip=None, *, rounds: int = 60, dim: int = 1000, separation: int = 9, cap: int = 6) -> Claim:
    return claimed(
        spec,
        clip or ft.clip(0.5),
        goal=50,
        separation=separation,
        cap=cap,
        devices=500,
        rounds=rounds,
        dim=dim,
        source="keyed",
        lengthened=1e-9,
    )


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("clip", [ft.clip(0.5), ft.adaptive_clip()])
@pytest.mark.parametrize("epsilon", [1.0, 8.0])
def test_all_versions_cost_the_budget_and_each_one_before_costs_less(mechanism, clip, epsilon):
    found = claim(ft.central_dp(epsilon, 1e-5, mechanism), clip)
    assert found.versions == 60
    costs = [found.epsilon(version) for version in (0, 1, 10, 30, 59, 60)]
    assert costs[0] == 0
    assert (np.diff(costs) >= 0).all()
    assert epsilon * 0.98 < costs[-1] <= epsilon * (1 + 1e-9)


def test_independent_noise_is_the_textbook_s():
    """Six participations at the noise of one Gaussian mechanism of sensitivity sqrt(6)."""
    found = claim(ft.central_dp(8, 1e-5, ft.independent()))
    assert found.times == 6
    assert found.multiplier == pytest.approx(sqrt(6) / accountant.mu(8, 1e-5), rel=1e-5)
    assert found.multiplier >= sqrt(6) / accountant.mu(8, 1e-5)  # rounding costs, and never gains


def test_a_device_that_may_report_always_is_counted_in_all_versions():
    found = claim(ft.central_dp(8, 1e-5, ft.independent()), separation=0, cap=0)
    assert (found.apart, found.times) == (1, 60)
    assert claim(ft.central_dp(8, 1e-5), separation=29, cap=0).times == 2
    assert claim(ft.central_dp(8, 1e-5), separation=9, cap=1).times == 1


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_given_multiplier_ends_before_the_budget_is_passed(mechanism):
    whole = claim(ft.central_dp(8, 1e-5, mechanism))
    found = claim(ft.central_dp(8, 1e-5, mechanism, multiplier=0.9 * whole.multiplier))
    assert 0 < found.versions < 60
    assert found.epsilon(found.versions) <= 8 < found.epsilon(found.versions + 1)
    assert claim(ft.central_dp(8, 1e-5, mechanism, multiplier=1.01 * whole.multiplier)).versions == 60


def test_what_was_spent_before_adds_up():
    found = claim(ft.central_dp(8, 1e-5, spent=(3.0, 4e-6)))
    assert found.epsilon(0) == 3
    assert found.epsilon(60) == pytest.approx(8)
    assert found.multiplier == pytest.approx(claim(ft.central_dp(5, 6e-6)).multiplier, rel=1e-9)


def test_rounding_is_paid_for():
    """With 10 million numbers and fixed point of a coarse scale, noise grows, and the claim stays what it was."""
    small, large = (claim(ft.central_dp(8, 1e-5), dim=dim) for dim in (10, 10_000_000))
    assert small.multiplier < large.multiplier < 1.01 * small.multiplier
    coarse = claim(ft.central_dp(8, 1e-5), dim=10)
    assert coarse.epsilon(60) <= 8 * (1 + 1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0.0, "delta": 1e-5}, "privacy.epsilon is 0.0"),
        (
            {"epsilon": 8.0, "delta": 0.0},
            "privacy.delta is 0.0: Gaussian noise has an epsilon only for a delta",
        ),
        ({"epsilon": 8.0, "delta": 1.0}, "privacy.delta is 1.0"),
        ({"epsilon": 8.0, "delta": 1e-5, "multiplier": -1.0}, "privacy.multiplier is -1.0"),
        ({"epsilon": 8.0, "delta": 1e-5, "spent": (8.0, 0.0)}, "the budget is spent already"),
        ({"epsilon": 8.0, "delta": 1e-5, "spent": (1.0, 1e-5)}, "the budget is spent already"),
        ({"epsilon": 1.0, "delta": 1e-5, "multiplier": 0.5}, "the first version alone costs epsilon 10, above the 1"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ft.SpecError, match=message):
        ft.central_dp(**arguments)


def test_the_count_of_adaptive_clipping_has_its_share_of_the_budget():
    alone, counted = (claim(ft.central_dp(2, 1e-5), spec) for spec in (ft.clip(1.0), ft.adaptive_clip(budget=0.1)))
    assert counted.multiplier == pytest.approx(alone.multiplier / sqrt(0.9), rel=1e-4)
    deviation = counted.count_unit * counted.deviation  # of the count's fresh noise; a report moves it by a half
    assert 0.5 / deviation == pytest.approx(sqrt(0.1) / alone.multiplier, rel=1e-4)


def test_an_amplified_multiplier_that_allows_no_version_is_refused():
    with pytest.raises(ft.SpecError, match=r"the first version alone costs more than epsilon 0\.5"):
        claim(ft.central_dp(0.5, 1e-7, ft.independent(amplified=True), multiplier=0.2))
