"""The shared rotation: it is undone on the sum, and makes coordinates alike."""

from __future__ import annotations

import numpy as np
import pytest

from fedthings.compress import rotation
from fedthings.stage import Field
from fedthings.vector import Key, keyed

KEY = Key(0, "d", 0, 0)


def stage(dim: int):
    return rotation.build(rotation.Rotate(), (Field("x", dim),))


@pytest.mark.parametrize("dim", [1, 2, 5, 64, 1000, 4096, 5001])
def test_the_mean_is_turned_back(dim: int) -> None:
    rows = keyed("rotate", dim).normal(0, 1, (9, dim)).astype(np.float32)
    turned, _ = stage(dim).encode({"x": rows}, [None] * 9, [KEY] * 9)
    assert turned["x"].shape == rows.shape
    assert np.allclose(np.square(turned["x"]).sum(-1), np.square(rows).sum(-1), rtol=1e-5)
    back = stage(dim).settle({"x": turned["x"].astype(np.float64).mean(0)}, 9, KEY)
    assert np.abs(back["x"] - rows.astype(np.float64).mean(0)).max() < 1e-5


def test_many_are_a_stack_of_one() -> None:
    rows = keyed("stack").normal(0, 1, (5, 777)).astype(np.float32)
    together, _ = stage(777).encode({"x": rows}, [None] * 5, [KEY] * 5)
    for row, turned in zip(rows, together["x"], strict=True):
        alone, _ = stage(777).encode({"x": row[None]}, [None], [KEY])
        assert np.array_equal(alone["x"][0], turned)


@pytest.mark.parametrize("dim", [512, 1000, 40_000])
@pytest.mark.parametrize("where", ["first", "last", "everywhere"])
def test_no_coordinate_goes_beyond_what_is_said(dim: int, where: str) -> None:
    row = np.zeros((1, dim), np.float32)
    row[0, {"first": slice(0, 1), "last": slice(dim - 1, dim), "everywhere": slice(0, dim)}[where]] = 1
    row *= np.float32(2 / np.linalg.norm(row))
    turned, _ = stage(dim).encode({"x": row}, [None], [KEY])
    assert np.abs(turned["x"]).max() <= rotation.largest(2.0, dim) < 0.6


def test_what_is_not_finite_stays_so() -> None:
    row = np.ones((1, 100), np.float32)
    row[0, 3] = np.nan
    turned, _ = stage(100).encode({"x": row}, [None], [KEY])
    assert not np.isfinite(turned["x"]).all()
