"""Every stage that compresses: many are a stack of one, its bytes and its error are what it says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fedthings.compress import low_rank, quantize, rotate, sign, sparsify
from fedthings.compress.bits import packed, unpacked
from fedthings.compress.hadamard import transformed
from fedthings.errors import SpecError
from fedthings.privacy import clip
from fedthings.stage import Field, Schema, Stage, chain
from fedthings.vector import Array, Key, Layout

LAYOUT = Layout([("0.weight", (30, 20)), ("0.bias", (20,)), ("1.weight", (3, 3, 5, 12)), ("1.bias", (12,))])
DIM = LAYOUT.dim
SCHEMA: Schema = (Field("x", DIM),)
MAKERS: dict[str, Callable[[Schema], Stage]] = {
    "int8": lambda schema: quantize.build(quantize.int8(block=100), schema),
    "int4": lambda schema: quantize.build(quantize.int4(block=64), schema),
    **{f"eden{b}": (lambda schema, b=b: rotate.build(rotate.Eden(b), schema)) for b in (1, 2, 3, 4)},
    "top_k": lambda schema: sparsify.top_k(sparsify.TopK(0.1), schema),
    "random_mask": lambda schema: sparsify.random_mask(sparsify.RandomMask(0.25), schema),
    "sign": lambda schema: sign.build(sign.Sign(0.01), schema),
    "low_rank": lambda schema: low_rank.build(low_rank.LowRank(2), schema, LAYOUT),
}
CHAINS = {
    **{name: [make] for name, make in MAKERS.items()},
    "clip, top_k, eden4": [
        lambda schema: clip.build(clip.Clip(1.0), schema),
        MAKERS["top_k"],
        MAKERS["eden4"],
    ],
    "low_rank, int8": [MAKERS["low_rank"], MAKERS["int8"]],
    "random_mask, int4": [MAKERS["random_mask"], MAKERS["int4"]],
    "low_rank, top_k, eden1": [MAKERS["low_rank"], MAKERS["top_k"], MAKERS["eden1"]],
}


def rows(n: int, dim: int = DIM, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def keys(n: int, version: int = 0) -> list[Key]:
    return [Key(5, f"d{i}", version, 0) for i in range(n)]


def sent(stage: Stage, x: Array, version: int = 0) -> Array:
    """Return what the server makes of `x`, from devices that begin."""
    payload, _ = stage.encode({"x": x}, [stage.init() for _ in x], keys(len(x), version))
    return stage.decode(payload)["x"]


@pytest.mark.parametrize("name", CHAINS)
def test_many_are_a_stack_of_one(name: str) -> None:
    stage, n = chain(SCHEMA, CHAINS[name]), 7
    x, more = rows(n), rows(n, seed=1)
    states = [stage.init() for _ in range(n)]
    alone = list(states)
    for version, some in enumerate((x, more)):
        together, states = stage.encode({"x": some}, states, keys(n, version))
        decoded = stage.decode(together)
        for i in range(n):
            payload, (alone[i],) = stage.encode({"x": some[i : i + 1]}, [alone[i]], [keys(n, version)[i]])
            assert payload.keys() == together.keys()
            for array in payload:
                np.testing.assert_array_equal(payload[array][0], together[array][i])
            np.testing.assert_array_equal(stage.decode(payload)["x"][0], decoded["x"][i])
            for mine, its in zip(alone[i], states[i], strict=True):
                assert (mine is None and its is None) or np.array_equal(mine, its)
    assert decoded["x"].shape == (n, DIM) and decoded["x"].dtype == np.float32


@pytest.mark.parametrize("name", CHAINS)
def test_what_is_given_is_not_written_to(name: str) -> None:
    stage, x = chain(SCHEMA, CHAINS[name]), rows(3)
    before, states = x.copy(), [stage.init() for _ in x]
    stage.encode({"x": x}, states, keys(3))
    np.testing.assert_array_equal(x, before)
    for state, fresh in zip(states[0], stage.init(), strict=True):
        assert state is None or np.array_equal(state, fresh)


# ---------------------------------------------------------------------- bytes and errors


@pytest.mark.parametrize("dim", [1, 127, 128, 129, 650, 3206, 4096])
def test_bytes_are_what_the_docstrings_say(dim: int) -> None:
    def size(stage: Stage) -> int:
        payload, _ = stage.encode({"x": rows(1, dim)}, [stage.init()], keys(1))
        return sum(array.nbytes for array in payload.values())

    schema = (Field("x", dim),)
    scales = 4 if dim <= 128 or dim.bit_count() == 1 else 8
    for bits in (1, 2, 3, 4):
        assert size(rotate.build(rotate.Eden(bits), schema)) == bits * -(-max(dim, 128) // 8) + scales + 8
    assert size(quantize.build(quantize.int8(64), schema)) == dim + 4 * -(-dim // 64)
    assert size(quantize.build(quantize.int4(64), schema)) == 4 * -(-dim // 8) + 4 * -(-dim // 64)
    assert size(sparsify.top_k(sparsify.TopK(0.01), schema)) == 6 * -(-dim // 100)
    assert size(sparsify.random_mask(sparsify.RandomMask(0.1), schema)) == 4 * -(-dim // 10) + 8
    assert size(sign.build(sign.Sign(), schema)) == -(-dim // 8)


@pytest.mark.parametrize(
    ("build", "spec", "times"), [(quantize.build, quantize.int4(), 7.7), (rotate.build, rotate.Eden(4), 7.9)]
)
def test_four_bits_are_an_eighth_of_float32_for_a_small_model_too(build, spec, times: float) -> None:
    """Nothing is filled up: 3,206 parameters are those of the model for WISDM."""
    x = rows(1, 3206)
    payload, _ = build(spec, (Field("x", 3206),)).encode({"x": x}, [None], keys(1))
    assert sum(array.nbytes for array in payload.values()) <= x.nbytes / times


def test_low_rank_sends_thin_matrices_where_they_are_smaller() -> None:
    stage = MAKERS["low_rank"](SCHEMA)
    payload, _ = stage.encode({"x": rows(1)}, [stage.init()], keys(1))
    assert payload["x"].shape == (1, 2 * (30 + 20) + 20 + 2 * (45 + 12) + 12)
    assert stage.sends[0].dim == payload["x"].shape[1]


VECTORS = {
    "normal": lambda rng, dim: rng.standard_normal(dim),
    "log-normal": lambda rng, dim: rng.lognormal(0, 1, dim),
    "sparse": lambda rng, dim: rng.standard_normal(dim) * (rng.random(dim) < 0.01),
    "a large first layer": lambda rng, dim: rng.standard_normal(dim) * np.where(np.arange(dim) < dim // 8, 100, 1),
    "a large last layer": lambda rng, dim: rng.standard_normal(dim) * np.where(np.arange(dim) < dim // 8 * 7, 1, 100),
}


@pytest.mark.parametrize("dim", [1 << 16, 50_000])
@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize(("bits", "error"), [(1, 0.571), (2, 0.133), (3, 0.0358), (4, 0.00959)])
def test_eden_errs_as_published_and_is_unbiased(vector: str, bits: int, error: float, dim: int) -> None:
    """Vargaftik et al. 2022, table 1: the error over the squared norm, whatever the vector is."""
    n = 24
    stage = rotate.build(rotate.Eden(bits), (Field("x", dim),))
    x = VECTORS[vector](np.random.default_rng(bits), dim).astype(np.float32)
    square = float(np.square(x, dtype=np.float64).sum())
    found = sent(stage, np.broadcast_to(x, (n, dim)))
    errors = np.square(found - x, dtype=np.float64).sum(-1) / square
    assert errors.mean() == pytest.approx(error, rel=0.02)
    # Independent and unbiased errors: the mean of n has an n-th of the error; a bias would stay.
    assert np.square(found.mean(0) - x, dtype=np.float64).sum() / square == pytest.approx(error / n, rel=0.05)


@pytest.mark.parametrize(("name", "step"), [("int8", 127), ("int4", 7)])
def test_quantized_numbers_err_by_less_than_a_step_and_are_unbiased(name: str, step: int) -> None:
    n, x = 4000, rows(1)[:, :200]
    stage = MAKERS[name]((Field("x", 200),))
    found = sent(stage, np.broadcast_to(x, (n, 200)))
    block = 100 if name == "int8" else 64
    scale = np.repeat([np.abs(x[0, i : i + block]).max() / step for i in range(0, 200, block)], block)[:200]
    assert (np.abs(found - x) <= scale * (1 + 1e-5)).all()
    assert np.sqrt(np.square((found - x) / scale).mean()) <= 0.5
    assert (np.abs(found.mean(0) - x[0]) <= 5 * 0.5 * scale / np.sqrt(n)).all()


def test_a_random_mask_is_unbiased_and_errs_as_it_says() -> None:
    n, x = 4000, rows(1)[:, :400]
    found = sent(MAKERS["random_mask"]((Field("x", 400),)), np.broadcast_to(x, (n, 400)))
    assert ((found != 0).sum(-1) == 100).all()
    errors = np.square(found - x).sum(-1) / np.square(x).sum()
    assert errors.mean() == pytest.approx(1 / 0.25 - 1, rel=0.02)
    assert np.square(found.mean(0) - x).sum() / np.square(x).sum() == pytest.approx(3 / n, rel=0.2)


@pytest.mark.parametrize("name", ["top_k", "low_rank"])
def test_what_is_left_out_is_kept_for_later(name: str) -> None:
    stage, n = MAKERS[name](SCHEMA), 3
    states, total, due = [stage.init() for _ in range(n)], np.zeros((n, DIM)), np.zeros((n, DIM))
    for version in range(30):
        x = rows(n, seed=version)
        payload, states = stage.encode({"x": x}, states, keys(n, version))
        total += stage.decode(payload)["x"]
        due += x
    np.testing.assert_allclose(total + np.stack(states), due, atol=2e-4)


def test_the_largest_are_sent() -> None:
    x = rows(2)
    found = sent(MAKERS["top_k"](SCHEMA), x)
    for mine, its in zip(x, found, strict=True):
        kept = its != 0
        assert kept.sum() == -(-DIM // 10)
        np.testing.assert_array_equal(its[kept], mine[kept])
        assert np.abs(mine[~kept]).max() <= np.abs(mine[kept]).min()


def test_a_matrix_of_low_rank_arrives_whole() -> None:
    rng, x = np.random.default_rng(0), np.zeros((1, DIM), np.float32)
    for part in (LAYOUT.parts[0], LAYOUT.parts[2]):
        m, c = int(np.prod(part.shape[:-1])), part.shape[-1]
        thin = rng.standard_normal((m, 2)) @ rng.standard_normal((2, c))
        x[0, part.start : part.stop] = thin.reshape(-1)
    np.testing.assert_allclose(sent(MAKERS["low_rank"](SCHEMA), x), x, atol=1e-4)


def test_low_rank_is_near_the_best_of_its_rank() -> None:
    """One power iteration from a random start errs by less than twice what the best does (Eckart and Young 1936)."""
    rng, x = np.random.default_rng(1), np.zeros((1, DIM), np.float32)
    best = 0.0
    for part in (LAYOUT.parts[0], LAYOUT.parts[2]):
        m, c = int(np.prod(part.shape[:-1])), part.shape[-1]
        u, _, v = np.linalg.svd(rng.standard_normal((m, c)), full_matrices=False)
        values = 0.4 ** np.arange(min(m, c))
        x[0, part.start : part.stop] = (u * values @ v).reshape(-1)
        best += float((values[2:] ** 2).sum())
    error = float(np.square(sent(MAKERS["low_rank"](SCHEMA), x) - x).sum())
    assert best * 0.99 < error < 2**2 * best


def test_the_majority_decides() -> None:
    stage = sign.build(sign.Sign(0.01), (Field("x", 9),))
    x = np.array([[1, 1, -1, -1, 5, -3, 1, 0, -9]] * 2 + [[-2, 1, 1, -1, -1, -1, 1, 0, -9]], np.float32)
    mean = sent(stage, x).astype(np.float64).mean(0)
    step = stage.settle({"x": mean}, 3, Key(0, "", 0, 0))["x"]
    np.testing.assert_allclose(step, 0.01 * np.array([1, 1, -1, -1, 1, -1, 1, -1, -1]))


# ---------------------------------------------------------------------- parts


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("dim", [1, 7, 8, 9, 100])
def test_bits_come_back(bits: int, dim: int) -> None:
    codes = np.random.default_rng(dim).integers(0, 1 << bits, (3, dim)).astype(np.uint8)
    data = packed(codes, bits)
    assert data.shape == (3, dim if bits == 8 else bits * -(-dim // 8))
    np.testing.assert_array_equal(unpacked(data, bits, dim), codes)


@pytest.mark.parametrize("bits", range(13))
def test_the_transform_is_that_of_walsh_and_hadamard(bits: int) -> None:
    size = 1 << bits
    x = rows(2, size)
    signs = np.array([[(-1) ** (i & j).bit_count() for j in range(size)] for i in range(min(size, 70))])
    np.testing.assert_allclose(transformed(x)[:, :70], x @ signs.T / np.sqrt(size), atol=1e-4)
    np.testing.assert_allclose(transformed(transformed(x)), x, atol=1e-5)


# ---------------------------------------------------------------------- values that cannot be


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1e38])
def test_odd_values_are_no_error_and_spoil_nobody_elses_report(name: str, value: float) -> None:
    x = np.full((2, DIM), value, np.float32)
    x[1] = rows(1)
    with np.errstate(all="ignore"):
        found = sent(chain(SCHEMA, CHAINS[name]), x)
    assert np.isfinite(found[1]).all()
    if value == 0.0 and name not in ("sign", "low_rank, top_k, eden1"):  # one has no zero, one errs on P and Q
        assert not found[0].any()


@pytest.mark.parametrize("name", CHAINS)
def test_any_bytes_decode_to_rows(name: str) -> None:
    """What a device sends is of the right size and type, and may be anything else."""
    stage, rng = chain(SCHEMA, CHAINS[name]), np.random.default_rng(1)
    payload, _ = stage.encode({"x": rows(4)}, [stage.init() for _ in range(4)], keys(4))
    wild = {array: np.frombuffer(rng.bytes(a.nbytes), a.dtype).reshape(a.shape) for array, a in payload.items()}
    with np.errstate(all="ignore"):
        found = stage.decode(wild)["x"]
    assert found.shape == (4, DIM) and found.dtype == np.float32


@pytest.mark.parametrize(
    ("makers", "message"),
    [
        (["int8", "top_k"], "top_k stands behind a stage that sends bits"),
        (["eden1", "int8"], "quantize stands behind a stage that sends bits"),
        (["sign", "eden1"], "eden stands behind a stage that sends bits"),
        (["top_k", "low_rank"], "low_rank stands behind a stage that leaves no matrices: put it first, or after clip"),
    ],
)
def test_stages_that_do_not_go_together_are_refused(makers: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        chain(SCHEMA, [MAKERS[name] for name in makers])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rotate.Eden(5), "stages.eden.bits is 5: it must be 1, 2, 3 or 4"),
        (lambda: quantize.Quantize(3), "stages.quantize.bits is 3: it must be 4 or 8"),
        (lambda: quantize.int8(0), "stages.quantize.block is 0: it must be from 8 to"),
        (lambda: sparsify.TopK(0.0), "stages.top_k.share is 0.0: it must be above 0 and at most 1"),
        (lambda: sparsify.RandomMask(1.5), "stages.random_mask.share is 1.5: it must be above 0 and at most 1"),
        (lambda: low_rank.LowRank(0), "stages.low_rank.rank is 0: it must be at least 1"),
        (lambda: sign.Sign(0.0), "stages.sign.step is 0.0: it must be above 0"),
    ],
)
def test_figures_that_cannot_be_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()
