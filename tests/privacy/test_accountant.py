"""The accountant against published figures, against dp-accounting, and against itself."""

from __future__ import annotations

from math import log, sqrt

import pytest

from fedthings.errors import SpecError
from fedthings.privacy import accountant

pytest.importorskip("dp_accounting")


def test_published_figures():
    """q 0.01, z 1, 1,000 versions, delta 1e-5; a tree of 1,000 versions with z 7, in which a device is once."""
    rdp = accountant.amplified(1.0, 0.01, 1000, 1e-5, "rdp")
    pld = accountant.amplified(1.0, 0.01, 1000, 1e-5)
    tree = accountant.tree(7.0, 1000, 1e-5)
    print(f"RDP {rdp:.4f}, PLD {pld:.4f}, tree {tree:.4f}")
    assert rdp == pytest.approx(2.101, rel=0.01)
    assert pld == pytest.approx(1.828, rel=0.01)
    assert tree == pytest.approx(1.936, rel=0.01)
    assert accountant.epsilon(sqrt(10) / 7, 1e-5) < tree  # exactly, it is a Gaussian mechanism


@pytest.mark.parametrize("z", [0.3, 0.7, 1.0, 4.0, 50.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-10])
def test_the_gaussian_mechanism_is_that_of_dp_accounting(z, delta):
    found = accountant.dp_accounting()
    want = found.get_epsilon_gaussian(z, delta)
    assert accountant.epsilon(1 / z, delta) == pytest.approx(want, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("epsilon", [0.01, 1.0, 8.0, 100.0, 900.0])
@pytest.mark.parametrize("delta", [1e-1, 1e-6, 1e-12])
def test_mu_and_epsilon_are_each_other_s_inverse_and_never_promise_more(epsilon, delta):
    mu = accountant.mu(epsilon, delta)
    assert accountant.epsilon(mu, delta) == pytest.approx(epsilon, rel=1e-6)
    assert accountant.epsilon(mu, delta) <= epsilon * (1 + 1e-9)


def test_delta_far_below_zero_is_no_overflow():
    assert accountant.delta(1e-3, 50.0) == 0.0
    assert accountant.delta(40.0, 1.0) == pytest.approx(1.0)
    assert 0 < accountant.delta(10.0, 300.0) < 1e-100
    assert accountant.epsilon(0.0, 1e-5) == 0.0
    assert accountant.epsilon(1e-4, 0.5) == accountant.DISCRETE


@pytest.mark.parametrize(("x", "want"), [(-24.0, -292.098), (-26.0, -342.178), (-40.0, -804.608), (0.0, log(0.5))])
def test_the_logarithm_of_the_normal_distribution(x, want):
    assert accountant._log_normal(x) == pytest.approx(want, rel=1e-5)


def test_the_multiplier_of_an_amplified_mechanism_spends_the_budget_and_no_more():
    z = accountant.multiplier(2.0, 1e-5, 0.1, 50)
    assert 1.98 < accountant.amplified(z, 0.1, 50, 1e-5) <= 2.0


def test_without_dp_accounting_the_remedy_is_named(monkeypatch):
    def missing(name: str):
        raise ImportError(name)

    monkeypatch.setattr(accountant, "import_module", missing)
    with pytest.raises(SpecError, match=r"pip install \"fedthings\[privacy\]\", or use ft.blt\(\)"):
        accountant.dp_accounting()
