"""Folds: exact, streaming, free of order and of sharding; what is out of range is refused by value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedthings.aggregate import fold
from fedthings.stage import Field
from fedthings.vector import keyed

SCHEMA = fold.announced((Field("x", 70_001), Field("s", 5, "f8", per="one")), 100)


def reports(n: int, seed: int = 0):
    rng = keyed(seed, "reports")
    payload = {
        "x": rng.normal(0, 0.1, (n, 70_001)).astype(np.float32),
        "s": rng.normal(0, 1e6, (n, 5)),
    }
    return payload, rng.integers(1, 60_000, n)


def summed(order, payload, weights):
    sums = fold.init(SCHEMA)
    for part in order:
        rows = {name: row[part] for name, row in payload.items()}
        fold.keep(sums, SCHEMA, rows, weights[part], [0] * len(part))
    return sums


def same(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a)


def test_the_mean_is_that_of_float64():
    payload, weights = reports(40)
    out = fold.done(summed([range(40)], payload, weights), SCHEMA)
    mean = (payload["x"].astype(np.float64) * weights[:, None]).sum(0) / weights.sum()
    assert np.abs(out["x"] - mean).max() < 2.0**-31
    assert np.allclose(out["s"], payload["s"].sum(0), rtol=1e-15, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.randoms(), st.integers(1, 7))
def test_order_and_sharding_change_no_bit(random, shards):
    payload, weights = reports(12)
    want = fold.done(summed([range(12)], payload, weights), SCHEMA)
    order = list(range(12))
    random.shuffle(order)
    parts = [order[i::shards] for i in range(shards)]
    whole = fold.init(SCHEMA)
    for part in parts:
        fold.merge(whole, summed([[i] for i in part], payload, weights))
    assert whole.count == 12
    assert whole.weight == weights.sum()
    assert same(want, fold.done(whole, SCHEMA))


def test_a_wide_sum_keeps_what_a_float_would_lose():
    schema = fold.announced((Field("s", 1, "f8", per="one"),), 10)
    sums = fold.init(schema)
    for value in (1e15, 2.0**-38, -1e15):
        fold.keep(sums, schema, {"s": np.array([[value]])}, np.array([1]), [0])
    assert fold.done(sums, schema)["s"][0] == 2.0**-38


def test_what_cannot_be_summed_is_refused_with_its_reason():
    payload, weights = reports(6)
    payload["x"][1, 3] = np.nan
    payload["x"][2, 70_000] = np.inf
    payload["x"][3, 0] = -65.0
    payload["s"][4, 2] = 2.0**99
    weights[5] = 0
    reasons = list(fold.refused(SCHEMA, payload, weights))
    assert reasons == ["", "not finite", "not finite", "out of range", "out of range", "weight out of range"]


def test_the_announced_scale_cannot_overflow():
    schema = fold.announced((Field("x", 3),), 1 << 12)
    rows = np.full((1, 3), fold.BOUND, np.float32)
    top = int(rows[0, 0]) << schema[0].scale
    assert top * fold.WEIGHT * (1 << 12) < 2**63


def test_an_edge_may_weigh_more_than_a_device_and_cannot_overflow():
    rows = {"x": np.full((3, 4), fold.BOUND, np.float32)}
    weights = np.array([fold.HEAVY, fold.HEAVY + 1, fold.WEIGHT + 1])
    for heaviest, good in ((fold.HEAVY, [0, 2]), (fold.WEIGHT, [])):
        schema = fold.announced((Field("x", 4, heaviest=heaviest),), 16)
        sums = fold.init(schema)
        reasons = fold.keep(sums, schema, rows, weights, [0, 0, 0])
        assert np.flatnonzero(reasons == "").tolist() == good
        assert (int(fold.BOUND) << schema[0].scale) * heaviest * 16 < 2**63
        if good:
            assert np.array_equal(fold.done(sums, schema)["x"], np.full(4, fold.BOUND, np.float64))


def test_weights_and_counts_are_kept_for_each_lag():
    payload, weights = reports(3)
    sums = fold.init(SCHEMA)
    fold.keep(sums, SCHEMA, payload, weights, [0, 2, 2])
    assert sums.weights == {0: weights[0], 2: weights[1] + weights[2]}
    assert sums.counts == {0: 1, 2: 2}


@pytest.mark.parametrize("reports", [1, 10, 1000, 1 << 20])
def test_resolution_stays_below_a_float32(reports):
    (field,) = fold.announced((Field("x", 1),), reports)
    assert 16 <= field.scale <= 36


def test_many_wide_reports_at_the_bound_do_not_wrap():
    schema = fold.announced((Field("s", 2, "f8", per="one"),), 1 << 20)
    rows = np.array([[fold.WIDE_BOUND, -fold.WIDE_BOUND]]).repeat(4096, 0)
    sums = fold.init(schema)
    for _ in range(2):
        fold.keep(sums, schema, {"s": rows}, np.ones(4096, np.int64), [0] * 4096)
    assert fold.done(sums, schema)["s"].tolist() == [8192 * fold.WIDE_BOUND, -8192 * fold.WIDE_BOUND]


def test_shares_of_stale_reports_scale_the_rows_and_not_the_divisor():
    """Sum of s w / K (Nguyen et al. 2022, Alg. 1), free of order and of sharding."""
    schema = fold.announced((Field("x", 50),), 5)
    rows = keyed("shares").normal(0, 1, (6, 50)).astype(np.float32)
    rows[5] = np.inf
    lags = np.array([0, 1, 3, 3, 8, 2])
    shares = np.rint(fold.WHOLE * (1.0 + lags) ** -0.5).astype(np.int64)
    ones = np.ones(6, np.int64)

    def total(*parts):
        sums = fold.init(schema)
        for part in parts:
            other = fold.init(schema)
            fold.keep(other, schema, {"x": rows[part]}, ones[part], lags[part], shares=shares[part])
            fold.merge(sums, other)
        return fold.done(sums, schema, fold.WHOLE)["x"]

    whole = total([0, 1, 2, 3, 4])
    assert np.array_equal(whole, total([4, 2], [3, 5], [1, 0]))  # what is not finite leaves no trace
    want = (rows[:5].astype(np.float64) * (shares[:5] / fold.WHOLE)[:, None]).sum(0) / 5
    assert np.abs(whole - want).max() < 1e-10
