"""The norm check: the length of what nobody sees, within 10 %, however it lies."""

from __future__ import annotations

import numpy as np
import pytest

from fedthings.privacy import sketch
from fedthings.vector import keyed

DIM = 80_000


def rows(bits: int) -> dict[str, np.ndarray]:
    """Updates in steps, as long as `widest` allows at most, however they lie."""
    rng = keyed("sketch")
    length = min(sketch.widest(bits), 2.0**bits / 8)
    flat = rng.normal(0, 1, DIM)
    some = np.zeros(DIM)
    some[rng.choice(DIM, 50, replace=False)] = rng.normal(0, 1, 50)
    stride = np.zeros(DIM)
    stride[:: sketch.PROJECTIONS] = 1
    one = np.zeros(DIM)
    one[77] = 1
    return {
        name: np.rint(row * (length / np.linalg.norm(row))).astype(np.int64)
        for name, row in {"flat": flat, "some": some, "stride": stride, "one": one}.items()
    }


def in_ring(row: np.ndarray, bits: int) -> np.ndarray:
    return row.astype(f"i{bits // 8}").view(f"u{bits // 8}")


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("name", ["flat", "some", "stride", "one"])
def test_the_estimate_is_within_10_per_cent(bits: int, name: str) -> None:
    row = rows(bits)[name]
    if name != "flat":  # numbers of a report are narrower than its ring
        row = np.clip(row, -(2 ** (bits - 3)), 2 ** (bits - 3))
    want = np.linalg.norm(row.astype(np.float64))
    for draw in range(20):
        found = sketch.norm(sketch.sketch(in_ring(row, bits), sketch.buckets(bytes([draw]) * 16, DIM)))
        assert abs(found / want - 1) < 0.1


@pytest.mark.parametrize("bits", [16, 32])
def test_the_sketches_of_both_shares_add_up(bits: int) -> None:
    row = in_ring(rows(bits)["flat"], bits)
    mask = keyed("mask").integers(0, 2**bits, DIM, f"u{bits // 8}")
    buckets = sketch.buckets(sketch.joint(b"a" * 16, b"b" * 16, bytes(32)), DIM)
    both = sketch.sketch(row - mask, buckets) + sketch.sketch(mask, buckets)
    assert np.array_equal(both, sketch.sketch(row, buckets))


def test_one_sketch_alone_is_as_long_as_any() -> None:
    mask = keyed("mask").integers(0, 2**32, DIM, np.uint32)
    found = sketch.norm(sketch.sketch(mask, sketch.buckets(bytes(16), DIM)))
    assert 0.9 < found / (2**32 / np.sqrt(12) * 32) < 1.1  # of uniform numbers, whatever the report is


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("times", [10, 1000, 10**6])
def test_what_is_too_long_does_not_wrap_into_the_bound(bits: int, times: int) -> None:
    limit = sketch.SLACK * sketch.widest(bits)
    wild = {
        **{name: row * times for name, row in rows(bits).items()},
        "halves": np.full(DIM, 2 ** (bits - 1)),
        "anything": keyed("wild").integers(0, 2**bits, DIM),
    }
    for name, row in wild.items():
        ringed = (row & (2**bits - 1)).astype(f"u{bits // 8}")
        if np.linalg.norm(ringed.view(f"i{bits // 8}").astype(np.float64)) < 2 * limit:
            continue  # it has wrapped into a report that is short
        assert sketch.norm(sketch.sketch(ringed, sketch.buckets(bytes(16), DIM))) > limit, name


def test_the_draw_is_of_both_servers_and_of_the_set() -> None:
    seeds = {
        sketch.joint(a, b, c) for a in (b"a" * 16, b"b" * 16) for b in (b"a" * 16, b"b" * 16) for c in (b"1", b"2")
    }
    assert len(seeds) == 8
    assert not np.array_equal(sketch.buckets(bytes(16), 100), sketch.buckets(b"\1" * 16, 100))
