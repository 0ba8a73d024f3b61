"""Sums in rings: exact whoever drops out, and what a sum says once nothing is hidden."""

from __future__ import annotations

import numpy as np
import pytest

from fedthings.aggregate import fold, ring
from fedthings.stage import Field
from fedthings.vector import Key, keyed

DIM = 40


def made(bits: int, reports: int, heaviest: int = 1, reach: float = 1.0, dim: int = DIM) -> ring.Ring:
    most = ring.room(bits, reports)
    return ring.Ring(bits, dim, most, reach * heaviest / most, heaviest, (), (("accuracy", 2), ("train", 2)))


def opened(the: ring.Ring, totals: dict[str, np.ndarray], n: int) -> ring.Opened | None:
    return ring.opened(the, fold.Sums({name: [row] for name, row in totals.items()}, counts={0: n}))


def metrics(n: int) -> dict[str, np.ndarray]:
    counts = np.arange(1, n + 1)
    return {"accuracy": np.stack([counts, counts // 2], -1), "train": np.stack([counts, counts * 2**20], -1)}


def keys(n: int) -> list[Key]:
    return [Key(1, f"d{i}", 0, 0) for i in range(n)]


def shares(arrays: dict[str, np.ndarray], label: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = keyed("mask", label)
    masks = {
        name: rng.integers(0, np.iinfo(rows.dtype).max, rows.shape, rows.dtype, endpoint=True)
        for name, rows in arrays.items()
    }
    return {name: rows - masks[name] for name, rows in arrays.items()}, masks


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("n", [3, 100, 2000])
def test_sums_are_exact_when_3_of_10_drop_out(bits: int, n: int) -> None:
    """Every number as large as it may be, so that a ring too narrow by one bit would wrap."""
    the = made(bits, n)
    rng = keyed("drop-out", n, bits)
    rows = rng.choice(np.array([-1, 1], np.float32), (n, DIM)) * rng.choice(np.array([1, 0.37], np.float32), (n, 1))
    rows[: n // 2] = 1
    arrays, reasons = ring.encode(the, {"x": rows}, np.ones(n, np.int64), metrics(n), keys(n))
    assert not reasons.any()
    steps = arrays["x"].view(f"i{bits // 8}").astype(object)
    assert max(abs(steps.min()), steps.max()) == the.most
    left, right = shares(arrays, f"{bits}/{n}")
    stayed = np.sort(rng.choice(n, max(1, round(0.7 * n)), replace=False))
    leader, helper = ring.init(the), ring.init(the)
    ring.keep(leader, {name: some[stayed] for name, some in left.items()}, [0] * len(stayed))
    ring.keep(helper, {name: some[stayed] for name, some in right.items()}, [0] * len(stayed))
    ring.add(leader, {name: total for name, (total,) in helper.limbs.items()}, ((0,),))
    found = opened(the, {name: total for name, (total,) in leader.limbs.items()}, len(stayed))
    assert found is not None and found.used == found.weight == len(stayed)
    exact = steps[stayed].sum(0)
    assert (np.rint(found.rows["x"] * len(stayed) / the.unit).astype(np.int64) == exact.astype(np.int64)).all()
    assert {name: total.tolist() for name, total in found.metrics.items()} == {
        name: some[stayed].sum(0).tolist() for name, some in metrics(n).items()
    }


def test_there_is_no_wrap_above_1024_reports() -> None:
    for bits in (16, 32):
        for n in (1024, 1025, 2000, 4000):
            assert n * ring.room(bits, n) < 2 ** (bits - 1)


def test_many_are_a_stack_of_one() -> None:
    the, n = made(32, 100, heaviest=50), 7
    rng = keyed("stack")
    rows, weights = rng.normal(0, 0.1, (n, DIM)).astype(np.float32), rng.integers(1, 80, n)
    together, _ = ring.encode(the, {"x": rows}, weights, metrics(n), keys(n))
    for i in range(n):
        some = {name: sums[i : i + 1] for name, sums in metrics(n).items()}
        alone, _ = ring.encode(the, {"x": rows[i : i + 1]}, weights[i : i + 1], some, [keys(n)[i]])
        for name in together:
            assert np.array_equal(alone[name][0], together[name][i])


def test_a_number_errs_by_less_than_a_step_and_by_nothing_on_average() -> None:
    the = made(16, 300, dim=20_000)
    row = np.full((1, 20_000), 0.123, np.float32)
    arrays, _ = ring.encode(the, {"x": row}, np.ones(1, np.int64), metrics(1), keys(1))
    found = arrays["x"].view(np.int16)[0] * the.unit
    assert np.abs(found - 0.123).max() < the.unit
    assert abs(found.mean() - 0.123) < 5 * the.unit / 2 / np.sqrt(20_000)


def test_the_weighted_mean_comes_back_with_weights_up_to_the_heaviest() -> None:
    the, weights = made(32, 10, heaviest=20), np.array([1, 5, 20, 900])
    rows = keyed("weighted").normal(0, 0.2, (4, DIM)).astype(np.float32)
    arrays, _ = ring.encode(the, {"x": rows}, weights, metrics(4), keys(4))
    found = opened(the, {name: some.sum(0, some.dtype) for name, some in arrays.items()}, 4)
    assert found is not None and found.weight == 46
    counted = np.minimum(weights, 20)
    want = (rows.astype(np.float64) * counted[:, None]).sum(0) / 46
    assert np.abs(found.rows["x"] - want).max() < 4 * the.unit / 46


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_says_nothing(value: float) -> None:
    the, rows = made(32, 10), np.ones((3, DIM), np.float32) / 2
    rows[1, 7] = value
    arrays, reasons = ring.encode(the, {"x": rows}, np.array([1, 1, 0]), metrics(3), keys(3))
    assert reasons.tolist() == ["", "not finite", "weight out of range"]
    assert not arrays["x"][1:].any() and not arrays["exact"][1:].any()
    found = opened(the, {name: some.sum(0, some.dtype) for name, some in arrays.items()}, 3)
    assert found is not None and found.used == 1 and found.metrics["train"][0] == 1


def test_statistics_stay_exact_to_the_last_bit() -> None:
    fields = fold.announced((Field("sum", 3, "f8", per="one"), Field("square", 3, "f8", per="one")), 1 << 20)
    the = ring.Ring(32, 0, 0, 0.0, 1, fields, ())
    rng = keyed("wide")
    rows = {"sum": rng.normal(0, 1e9, (50, 3)), "square": rng.normal(0, 1e-9, (50, 3))}
    arrays, _ = ring.encode(the, rows, np.ones(50, np.int64), {}, keys(50))
    found = opened(the, {"exact": arrays["exact"].sum(0, np.uint64)}, 50)
    plain = fold.init(fields)
    fold.keep(plain, fields, rows, np.ones(50, np.int64), [0] * 50)
    assert found is not None
    for name, total in fold.done(plain, fields).items():
        assert np.array_equal(found.rows[name], total)


@pytest.mark.parametrize("place, value", [(0, 5), (0, -1), (1, 0), (1, 10**6)])
def test_a_sum_that_cannot_be_is_none(place: int, value: int) -> None:
    the = made(32, 10, heaviest=4)
    arrays, _ = ring.encode(the, {"x": np.zeros((3, DIM), np.float32)}, np.ones(3, np.int64), metrics(3), keys(3))
    totals = {name: some.sum(0, some.dtype) for name, some in arrays.items()}
    assert opened(the, totals, 3) is not None
    totals["exact"].view(np.int64)[place] = value
    assert opened(the, totals, 3) is None


def test_one_report_is_taken_out_again() -> None:
    the = made(32, 10)
    rows = keyed("out").normal(0, 0.1, (3, DIM)).astype(np.float32)
    arrays, _ = ring.encode(the, {"x": rows}, np.ones(3, np.int64), metrics(3), keys(3))
    both, without = ring.init(the), ring.init(the)
    ring.keep(both, arrays, [0, 1, 0])
    ring.keep(without, {name: some[[0, 2]] for name, some in arrays.items()}, [0, 0])
    ring.leave_out(both, {name: some[1] for name, some in arrays.items()}, 1)
    assert both.counts == without.counts == {0: 2}
    assert all(np.array_equal(both.limbs[name][0], without.limbs[name][0]) for name in both.limbs)


@pytest.mark.parametrize(
    "counts, want",
    [
        ({0: 5}, ((0,),)),
        ({0: 3, 2: 4}, ((0,), (2,))),
        ({0: 2, 1: 5}, ((0, 1),)),
        ({0: 5, 1: 2}, ((0, 1),)),
        ({0: 3, 1: 1, 2: 1, 5: 1, 6: 2}, ((0,), (1, 2, 5, 6))),
        ({1: 1, 4: 1}, ((1, 4),)),
    ],
)
def test_no_sum_of_some_lags_is_of_too_few_reports(counts: dict[int, int], want: tuple) -> None:
    found = ring.classes(counts, 3)
    assert found == want
    assert sorted(lag for some in found for lag in some) == sorted(counts)
    if sum(counts.values()) >= 3:
        assert all(sum(counts[lag] for lag in some) >= 3 for some in found)


def test_lags_are_summed_apart_merged_and_opened_with_their_shares() -> None:
    the = made(32, 8)._replace(metrics=())
    steps = keyed("lags").integers(-1000, 1000, (7, DIM))
    arrays = {"x": steps.astype(np.int32).view(np.uint32), "exact": np.ones((7, 2), np.uint64)}
    lags = [0, 0, 0, 2, 2, 3, 3]
    one, two = ring.init(the), ring.init(the)
    ring.keep(one, {name: some[:5] for name, some in arrays.items()}, lags[:5], apart=True)
    ring.keep(two, {name: some[5:] for name, some in arrays.items()}, lags[5:], apart=True)
    ring.merge(one, two)
    assert one.counts == {0: 3, 2: 2, 3: 2} and len(one.limbs["x"]) == 4 and len(one.limbs["exact"]) == 1
    found = ring.opened(the, one, ring.classes(one.counts, 3), (4, 1), whole=4)
    assert found is not None and found.used == 7
    want = (4 * steps[:3].sum(0) + steps[3:].sum(0)) / 4 / 7 * the.unit
    assert np.allclose(found.rows["x"], want, rtol=1e-15)
