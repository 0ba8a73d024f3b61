"""Noise: the distribution is the one that is claimed, a key decides all of it, and no key tells another."""

from __future__ import annotations

from fractions import Fraction
from math import erf, exp, sqrt

import numpy as np

from fedthings.privacy import noise


def test_the_table_is_the_discrete_gaussian_to_2_to_the_minus_100():
    """Each number's probability, in whole numbers from the thresholds, against exp(-k^2 / 2 / 256^2)."""
    table, size = noise._table(), noise._SIZE
    one = 1 << (noise._WORD + 64)
    mass = [0] * size
    for i in range(size):
        own = (int(table.high[i]) << 64) + int(table.low[i])
        assert own <= one
        mass[i] += own
        mass[int(table.alias[i])] += one - own
    assert sum(mass) == size * one
    half = noise._half()
    weights = [half[abs(k - size // 2)] for k in range(size)]
    total = sum(weights)
    far = max(
        abs(Fraction(got, size * one) - Fraction(weight, total)) for got, weight in zip(mass, weights, strict=True)
    )
    assert far < Fraction(1, 2**110)
    assert abs(Fraction(half[256], half[0]) - Fraction(exp(-0.5))) < Fraction(1, 2**50)


def test_many_numbers_have_the_deviation_the_shape_and_the_low_bits_of_a_gaussian():
    n = 400_000
    z = noise.draw(noise.known(3), n)
    x = z / noise.SIGMA
    assert abs(x.mean()) < 4 / sqrt(n)
    assert abs(x.var() - 1) < 4 * sqrt(2 / n)
    assert abs((x**4).mean() - 3) < 4 * sqrt(96 / n)
    # Kolmogorov-Smirnov at a chance of 1e-6.
    order = np.sort(x)
    normal = np.array([(1 + erf(v / sqrt(2))) / 2 for v in order[::40].tolist()])
    assert np.abs(normal - np.arange(n)[::40] / n).max() < 2.7 / sqrt(n)
    # The low bits are even: none of the factors shows.
    for modulus in (2, 3, 96, 97, 1024, 9216):
        counts = np.bincount(z % modulus, minlength=modulus)
        chi = ((counts - n / modulus) ** 2).sum() * modulus / n
        assert abs(chi - (modulus - 1)) < 6 * sqrt(2 * (modulus - 1)) + 6, modulus


def test_equal_keys_draw_alike_and_later_keys_do_not_tell_earlier_ones():
    key = noise.known(1)
    assert np.array_equal(noise.draw(key, 1000), noise.draw(key, 1000))
    assert np.array_equal(noise.draw(key, 40_000)[:16_384], noise.draw(key, 16_384))  # a prefix, block by block
    this, later = noise.ratchet(key)
    assert len({key, this, later, *noise.ratchet(later), noise.known(2), noise.fresh(), noise.fresh()}) == 8
    assert abs(np.corrcoef(noise.draw(this, 10_000), noise.draw(later, 10_000))[0, 1]) < 0.05


def test_where_51_bits_do_not_decide_64_more_do(monkeypatch):
    """A threshold is met in one of 2^51 draws; here every word meets one."""
    table = noise._table()
    at = int(np.flatnonzero((table.high > 0) & (table.high < 1 << noise._WORD))[0])
    word = np.uint64((int(table.high[at]) << noise._BITS) | at)
    low = table.low[at]
    for more, drawn in ((low - np.uint64(1), at), (low, int(table.alias[at]))):
        words = {"first": np.full(8, word), "second": np.full(8, more)}
        monkeypatch.setattr(noise, "_words", lambda stream, count, words=words: words[stream])
        assert (noise._small("first", "second", 8) == drawn - 4096).all()  # type: ignore[arg-type]
