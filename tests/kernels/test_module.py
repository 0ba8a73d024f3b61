"""The module itself: what it refuses before compiled code reads beyond an array, and its sums of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedthings.aggregate import fold
from fedthings.stage import Field

kernels = pytest.importorskip("fedthings_kernels")

RNG = np.random.default_rng(6)


def call(**other: Any) -> None:
    """Train three devices with two samples each, with arguments of which some are `other`."""
    X, y = np.zeros((3, 2, 4), np.float32), np.zeros((3, 2), np.int64)
    program = kernels.Program((4,), [("dense", 3, "linear")], "cross_entropy")
    given = {
        "X": np.arange(3, dtype=np.uint64) * np.uint64(X.strides[0]) + np.uint64(X.ctypes.data),
        "y": np.arange(3, dtype=np.uint64) * np.uint64(y.strides[0]) + np.uint64(y.ctypes.data),
        "sizes": np.full(3, 2),
        "received": np.zeros(15, np.float32),
        "start": None,
        "keys": None,
        "steps": np.full(3, 2),
        "batch": 1,
        "epochs": 1,
        "lr": 0.1,
        "momentum": -1.0,
        "decay": 0.0,
        "mu": 0.0,
        "change": np.zeros((3, 15), np.float32),
        "seen": np.zeros((3, 2), np.int64),
        "threads": 1,
    } | other
    kernels.train(program, **given)
    assert X.size and y.size


def fixed(change: np.ndarray) -> np.ndarray:
    change.flags.writeable = False
    return change


@pytest.mark.parametrize(
    "other",
    [
        {"X": np.zeros(2, np.uint64)},
        {"sizes": np.full(3, 2, np.int32)},
        {"sizes": np.array([2, -1, 2])},
        {"X": np.zeros(3, np.uint64)},
        {"X": np.full(3, 2**40 + 1, np.uint64)},
        {"y": np.zeros(3, np.uint64)},
        {"y": np.full(3, 2**40 + 4, np.uint64)},
        {"received": np.zeros(14, np.float32)},
        {"received": np.zeros(15)},
        {"received": np.zeros((2, 15), np.float32)},
        {"received": np.zeros(30, np.float32)[::2]},
        {"received": [0.0] * 15},
        {"start": np.zeros((3, 14), np.float32)},
        {"start": np.zeros((3, 30), np.float32)[:, ::2]},
        {"start": np.zeros((3, 30), np.float32)[:, :15]},
        {"keys": np.zeros(2, np.uint64)},
        {"steps": np.full(3, -1)},
        {"batch": -1},
        {"epochs": 0},
        {"threads": 0},
        {"change": np.zeros((2, 15), np.float32)},
        {"change": fixed(np.zeros((3, 15), np.float32))},
        {"seen": np.zeros((3, 2), np.int32)},
    ],
)
def test_arguments_that_do_not_fit_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(other))):
        call(**other)


def test_no_devices_no_samples_no_steps() -> None:
    call()
    none, places = np.zeros(0, np.int64), np.zeros(0, np.uint64)
    empty = {"X": places, "y": places, "sizes": none, "steps": none}
    call(**empty, change=np.zeros((0, 15), np.float32), seen=np.zeros((0, 2), np.int64), threads=3)
    change, seen = np.ones((3, 15), np.float32), np.ones((3, 2), np.int64)
    nowhere = np.zeros(3, np.uint64)
    call(X=nowhere, y=nowhere, sizes=np.zeros(3, np.int64), change=change, seen=seen, threads=2)
    assert not change.any() and not seen.any()
    call(steps=np.zeros(3, np.int64), change=change, seen=seen)
    assert not change.any() and not seen.any()


def test_changes_shorter_than_a_line_of_the_cache() -> None:
    """So many that they are written past the caches, beside those that another thread writes."""
    n = 300_000
    X, y = RNG.standard_normal((2, 4)).astype(np.float32), np.array([0, 2])
    places, labels, twos = (np.full(n, a, u) for a, u in ((X.ctypes.data, "u8"), (y.ctypes.data, "u8"), (2, "i8")))
    row = RNG.standard_normal(15).astype(np.float32)

    def changes(n: int, own: bool) -> tuple[np.ndarray, np.ndarray]:
        start = np.tile(row + np.float32(0.5), (n, 1)) if own else None
        change, seen = np.zeros((n, 15), np.float32), np.zeros((n, 2), np.int64)
        call(
            X=places[:n], y=labels[:n], sizes=twos[:n], steps=twos[:n], received=row, start=start, change=change,
            seen=seen, threads=2,
        )  # fmt: skip
        return change, change if start is None else start

    for own in (False, True):
        for many, few in zip(changes(n, own), changes(1, own), strict=True):
            assert few.all() and (many == few).all()


def test_more_than_memory_holds_is_an_error() -> None:
    """Such a batch in such a layer would need 2**49 bytes."""
    program = kernels.Program((1,), [("dense", 1 << 20, "relu"), ("dense", 1, "linear")], "mse")
    n, rows = 2, np.zeros((2, program.dim), np.float32)
    places = np.full(n, rows.ctypes.data, np.uint64)
    counts, seen = np.full(n, 1 << 27), np.zeros((n, 2), np.int64)
    with pytest.raises(MemoryError):
        kernels.train(
            program, places, places, counts, rows[0], steps=counts, batch=0, epochs=1, lr=0.1, momentum=-1.0,
            decay=0.0, mu=0.0, change=rows, seen=seen, threads=2,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ([], "no layer has parameters"),
        ([("flatten",)], "no layer has parameters"),
        ([("dense", 0, "relu")], r"layer 0 \(dense\): field 1 must be a whole number above 0"),
        ([("dense", 2.5, "relu")], "must be a whole number above 0"),
        ([("dense", 2, "swish")], "unknown activation swish"),
        ([("dense", 2)], "it has 1 fields, expected 2"),
        ([("recurrent", 2)], r"layer 0 \(recurrent\): unknown layer"),
        ([("conv1d", 2, 3, 1, "same", "relu")], "it takes samples of another shape"),
        ([("max_pool", 2, 2)], "it takes samples"),
        ([("dense", 1 << 24, "relu"), ("dense", 1 << 24, "relu")], "too many parameters"),
        ([("standardise", b"1234", b"1234", b"1234"), ("dense", 2, "relu")], "4 bytes for each number"),
    ],
)
def test_programs_that_do_not_fit_are_refused(layers: list[Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        kernels.Program((4,), layers, "mse")


def test_windows_that_are_too_large_are_refused() -> None:
    with pytest.raises(ValueError, match="too"):
        kernels.Program((4, 4, 4), [("conv2d", 1 << 24, 1 << 24, 1, "same", "relu")], "mse")


@pytest.mark.parametrize(("n", "dim"), [(7, 1), (7, 15), (7, 64), (7, 5000), (200, 5003)])
def test_sums_of_rows_are_those_of_the_fold(n: int, dim: int) -> None:
    rows = (RNG.standard_normal((n, dim)) * 10.0 ** RNG.integers(-9, 2, (n, dim))).astype(np.float32)
    weights = RNG.integers(1, 1 << 12, n)
    by_numpy = [np.zeros(dim, np.int64)]
    fold._add(by_numpy, rows, weights[:, None], Field("x", dim, scale=36))
    limb, largest = np.zeros(dim, np.int64), np.empty(n, np.float32)
    kernels.fold(rows[:4], weights[:4], 36, limb, largest[:4])
    kernels.fold(rows[4:], weights[4:], 36, limb, largest[4:])
    np.testing.assert_array_equal(largest, np.abs(rows).max(-1))
    assert (limb == by_numpy[0]).all()
    wide = np.zeros((n, 2 * dim), np.float32)
    wide[:, :dim] = rows
    for threads in (1, 2, 3):
        limb[:] = 0
        largest[:] = -1
        kernels.fold(wide[:, :dim], weights, 36, limb, largest, threads)
        np.testing.assert_array_equal(largest, np.abs(rows).max(-1))
        assert (limb == by_numpy[0]).all()
    schema = (Field("x", dim, scale=36),)
    sums = fold.init(schema)
    fold.keep(sums, schema, {"x": wide[:, :dim]}, weights, np.zeros(n, np.int64), threads=2)
    assert (sums.limbs["x"][0] == by_numpy[0]).all()


@pytest.mark.parametrize("weights", [[3, 3, 3, 3, 3], [1, 2, 2, 7, 1 << 16], [5, 0, 1 << 40, -1, 5]])
def test_what_may_not_be_summed_is_taken_back(weights: list[int]) -> None:
    rows = RNG.standard_normal((5, 5003)).astype(np.float32)
    rows[1, 7], rows[2, 8], rows[3, 4999] = np.nan, -np.inf, 1e30
    schema, few = (Field("x", 5003, scale=36),), np.array(weights)
    payload, lags = {"x": rows}, np.array([0, 0, 1, 1, 2])
    sums, other = fold.init(schema), fold.init(schema)
    reasons = fold.keep(sums, schema, payload, few, lags)
    assert reasons.tolist() == fold.refused(schema, payload, few).tolist()
    assert reasons.tolist() == ["", "not finite", "not finite", "out of range", ""]
    assert fold.keep(other, schema, {"x": rows[[0, 4]]}, few[[0, 4]], lags[[0, 4]]).tolist() == ["", ""]
    assert (sums.limbs["x"][0] == other.limbs["x"][0]).all()
    assert (sums.weights, sums.counts) == (other.weights, other.counts)
