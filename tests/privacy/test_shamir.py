"""Shamir's sharing: enough shares give the secret, fewer fit every other secret as well, wrong ones are seen."""

from __future__ import annotations

import os

import numpy as np
import pytest

from fedthings.errors import WireError
from fedthings.privacy.shamir import LIMBS, PRIME, SHARE, join, split


@pytest.mark.parametrize("threshold, holders", [(1, 1), (2, 3), (51, 101), (300, 513)])
def test_any_shares_that_are_enough_give_the_secret(threshold: int, holders: int) -> None:
    secret = os.urandom(32)
    shares = split(secret, threshold, holders)
    assert [len(share) for share in shares] == [SHARE] * holders
    for start in {0, (holders - threshold) // 2, holders - threshold}:
        some = list(range(start, start + threshold))[::-1]
        assert join([shares[h] for h in some], some) == secret


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_the_ends_of_the_range_come_back(secret: bytes) -> None:
    shares = split(secret, 3, 5)
    assert join(shares[2:], [2, 3, 4]) == secret


def test_fewer_shares_fit_any_secret() -> None:
    """With one share less, each value of a limb is that of exactly one polynomial."""
    shares = split(os.urandom(32), 3, 5)
    known = np.frombuffer(shares[0] + shares[1], "<u4").reshape(2, LIMBS).astype(object)
    for limb in (0, 1, 65535):  # the line through (1, a), (2, b) and any (0, limb) meets x = 3 somewhere
        a, b = known[:, 0]
        third = (limb - 3 * a + 3 * b) % PRIME
        made = [np.array([value] + [0] * (LIMBS - 1), "<u4").tobytes() for value in (a, b, third)]
        assert np.frombuffer(join(made, [0, 1, 2]), "<u2")[0] == limb


def test_shares_are_uniform() -> None:
    draws = np.frombuffer(b"".join(split(bytes(32), 2, 4000)), "<u4")
    assert abs(draws.mean() / PRIME - 0.5) < 0.05 and draws.max() < PRIME


def test_the_one_number_that_is_not_of_the_field_is_drawn_again() -> None:
    drawn: list[int] = []

    def draw(n: int) -> bytes:
        drawn.append(n)
        return b"\xff" * n if len(drawn) == 1 else os.urandom(n)

    secret = os.urandom(32)
    assert join(split(secret, 2, 3, draw)[1:], [1, 2]) == secret
    assert drawn == [4 * LIMBS, 4 * LIMBS]


def test_wrong_shares_are_seen() -> None:
    shares = split(os.urandom(32), 3, 5)
    with pytest.raises(WireError) as refused:
        join([shares[0], shares[1], os.urandom(SHARE)], [0, 1, 2])
    assert refused.value.reason == "wrong shares"
    with pytest.raises(WireError) as refused:
        join([shares[0], shares[1], b"short"], [0, 1, 2])
    assert refused.value.reason == "malformed"
