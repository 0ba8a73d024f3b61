"""The order of samples: the generator of the paper, and every order as likely as another."""

from __future__ import annotations

from collections import Counter

import numpy as np

from fedthings.learn.shuffle import orders, philox
from fedthings.vector import Key


def test_the_generator_is_that_of_random123() -> None:
    # kat_vectors of Random123, philox4x32 10: counter and key 0; all ones needs counters that we never use.
    zero = philox(np.zeros(1, np.uint64), 0, 1)[0]
    assert [hex(word) for word in zero.tolist()] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]


def test_each_row_is_an_order_of_its_own_key_alone() -> None:
    words = np.array([Key(1, f"device-{i}", 0, 0).word("shuffle") for i in range(50)], np.uint64)
    together = orders(words, 3, 17)
    for word, row in zip(words, together, strict=True):
        assert sorted(row.tolist()) == list(range(17))
        np.testing.assert_array_equal(orders(word[None], 3, 17)[0], row)
    assert len({tuple(row) for row in together.tolist()}) == 50
    assert (orders(words, 4, 17) != together).any()


def test_all_orders_are_equally_likely() -> None:
    words = np.random.default_rng(0).integers(0, 2**64, 6000, np.uint64)
    counts = Counter(map(tuple, orders(words, 0, 3).tolist()))
    assert len(counts) == 6
    assert all(abs(count - 1000) < 130 for count in counts.values())  # 4.5 standard deviations
