"""BLT: the matrix and its inverse, the sensitivity against all patterns, the fit, and the noise as it comes."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from fedthings.privacy import accountant, blt, mechanism, noise
from fedthings.privacy.blt import Blt, Participation
from fedthings.privacy.mechanism import Independent, Tree

FIT = blt.Toeplitz(np.array([0.95, 0.6, 0.1]), np.array([0.2, 0.15, 0.05]))


def matrix(column: np.ndarray) -> np.ndarray:
    n = len(column)
    return np.array([[column[i - j] if i >= j else 0.0 for j in range(n)] for i in range(n)])


def test_zeros_and_residues_give_the_inverse():
    C = matrix(blt.column(*FIT, 40))
    decays, scales = blt._inverse(FIT.theta, blt._zeros(*FIT))
    np.testing.assert_allclose(matrix(blt.column(decays, scales, 40)) @ C, np.eye(40), atol=1e-12)


@pytest.mark.parametrize(("apart", "times"), [(1, 9), (2, 3), (3, 2), (9, 1)])
def test_no_pattern_of_participation_moves_more_than_the_sensitivity(apart, times):
    """Of 1 to n versions, each pattern that the schema allows, with any signs (n is small enough for all)."""
    n = 9
    C = matrix(blt.column(*FIT, n))
    found = blt.squares(blt.column(*FIT, n), Participation(n, apart, times))
    for made in range(1, n + 1):
        worst = 0.0
        for size in range(1, min(times, made) + 1):
            for when in combinations(range(made), size):
                if all(later - first >= apart for first, later in pairwise(when)):
                    worst = max(worst, float(np.square(C[:made, list(when)].sum(1)).sum()))
        assert found[made - 1] == pytest.approx(worst, rel=1e-12)


@pytest.mark.parametrize(("apart", "times"), [(1, 13), (2, 5), (4, 3), (13, 1)])
def test_no_pattern_moves_the_nodes_of_a_tree_more(apart, times):
    n = 13
    nodes = [(t - (t & -t), t) for t in range(1, n + 1)]
    found = mechanism.squares(Tree(), None, Participation(n, apart, times))
    for size in range(1, times + 1):
        for when in combinations(range(n), size):
            if all(later - first >= apart for first, later in pairwise(when)):
                for made in range(1, n + 1):
                    counts = [sum(low <= one < high for one in when) for low, high in nodes[:made]]
                    assert np.square(counts).sum() <= found[made - 1] + 1e-9
    assert mechanism.squares(Tree(), None, Participation(1000, 1000, 1))[-1] == 10


def test_the_published_setting_and_the_others_are_better_than_independent_noise():
    """n 1,000, b 100, k 10, epsilon 8, delta 1e-6: prefix sums within 8.4, where independent noise has 46.2."""
    setting = Participation(1000, 100, 10)
    mu = accountant.mu(8, 1e-6)
    independent = mechanism.prefix_error(Independent(), setting) / mu
    found = mechanism.prefix_error(Blt(), setting) / mu
    print(f"RMSE of prefix sums: BLT {found:.2f}, independent {independent:.2f}")
    assert independent == pytest.approx(46.2, abs=0.05)
    assert found <= 8.4
    for n, apart, times in ((100, 10, 10), (200, 200, 1), (500, 50, 10), (30, 1, 30), (1, 1, 1)):
        setting = Participation(n, apart, times)
        assert mechanism.prefix_error(Blt(), setting) <= mechanism.prefix_error(Independent(), setting) * 1.0001
        assert mechanism.prefix_error(Blt(1), setting) >= mechanism.prefix_error(Blt(3), setting) * 0.9999


def test_the_fit_is_a_sound_matrix_and_comes_out_alike():
    setting = Participation(100, 10, 10)
    fit = blt.fitted(3, setting)
    c = blt.column(*fit, 100)
    assert (c > 0).all()
    assert (np.diff(c) <= 0).all()
    blt.fitted.cache_clear()
    again = blt.fitted(3, setting)
    assert np.array_equal(fit.theta, again.theta)
    assert np.array_equal(fit.omega, again.omega)


@pytest.mark.parametrize("spec", [Blt(), Blt(1), Tree(), Independent()])
def test_the_noise_of_200_runs_has_the_error_that_is_computed(spec):
    """200 numbers are 200 runs; their prefix sums over 1,000 versions, against the formula."""
    setting, runs = Participation(1000, 100, 10), 200
    fit = mechanism.fitted(spec, setting)
    state, key = mechanism.begin(spec, fit, setting, runs), noise.known(5)
    prefix, square = np.zeros(runs), 0.0
    for version in range(1, 1001):
        this, key = noise.ratchet(key)
        prefix += mechanism.go_on(spec, fit, state, version, noise.draw(this, runs)) / noise.SIGMA
        square += float(np.square(prefix).mean())
    want = mechanism.prefix_error(spec, setting) / np.sqrt(mechanism.squares(spec, fit, setting)[-1])
    assert np.sqrt(square / 1000) == pytest.approx(want, rel=0.06)


def test_the_noise_is_c_inverse_z_up_to_rounding_that_does_not_build_up():
    """C times the noise is the fresh noise, to one step at each version: what the accountant adds for it."""
    n, dim = 60, 40_000
    z = np.stack([noise.draw(noise.known(i), dim) for i in range(n)])
    buffers = np.zeros((3, dim))
    out = np.stack([blt.stream(FIT, buffers, row) for row in z])
    assert out.dtype == np.int64
    C = matrix(blt.column(*FIT, n))
    assert np.abs(C @ out.astype(float) - z).max() <= 0.5 + 1e-4
