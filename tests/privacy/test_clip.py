"""Clipping: nothing leaves longer than the bound, in float32 too; the adaptive bound finds the quantile."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedthings as ft
from fedthings.privacy import clip
from fedthings.stage import Field
from fedthings.vector import Key, keyed

SCHEMA = (Field("x", 50),)
ADAPTIVE = (*SCHEMA, clip.BELOW)


def norms(rows: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(rows.astype(np.longdouble)).sum(-1))


@settings(deadline=None)
@given(st.integers(1, 3000), st.floats(1e-6, 1e6), st.floats(1e-3, 1e3), st.integers(0, 2**31))
def test_no_rounding_leaves_a_row_longer_than_the_bound(dim, scale, bound, seed):
    rows = (keyed(seed).normal(0, scale, (3, dim))).astype(np.float32)
    clipped = clip.bounded(rows, bound)
    assert (norms(clipped) <= np.longdouble(bound) * (1 + 1e-12)).all()
    assert np.array_equal(clip.bounded(clipped, bound), clipped)  # a second time changes nothing
    short = norms(rows) <= bound * (1 - 1e-9)
    assert np.array_equal(clipped[short], rows[short])
    long = norms(rows) > bound * (1 + 1e-9)
    np.testing.assert_allclose(norms(clipped[long]), bound, rtol=1e-6)


def test_many_are_a_stack_of_one_and_what_is_not_finite_passes_on():
    rows = keyed("clip").normal(0, 0.2, (6, 50)).astype(np.float32)
    rows[2, 3], rows[4, 0] = np.nan, np.inf
    whole = clip.bounded(rows, 1.0)
    assert np.array_equal(whole, np.stack([clip.bounded(row[None], 1.0)[0] for row in rows]), equal_nan=True)
    assert not np.isfinite(whole[[2, 4]]).all(-1).any()


def test_adaptive_clipping_sends_units_of_the_bound_and_on_which_side_it_was():
    stage = clip.adaptive(ft.adaptive_clip(), ADAPTIVE)
    rows = np.zeros((3, 50), np.float32)
    rows[:, 0] = (1.0, 2.0, 8.0)
    payload = {"x": rows, "below": np.full((3, 1), 2.0, np.float32)}
    sent, _ = stage.encode(payload, [None] * 3, [Key(0, str(i), 0, 0) for i in range(3)])
    np.testing.assert_allclose(sent["x"][:, 0], (0.5, 1.0, 1.0), rtol=1e-6)
    assert sent["below"][:, 0].tolist() == [0.5, 0.5, -0.5]
    assert stage.sends == ADAPTIVE


def test_the_bound_follows_the_quantile():
    """Norms from 1 to 3 evenly: the bound ends where the quantile says, from far below and far above."""
    for quantile, start in ((0.5, 0.01), (0.9, 50.0), (0.2, 1.0)):
        spec, bound = ft.adaptive_clip(quantile=quantile, initial=start), start
        for _ in range(150):
            bound = spec.follow(bound, float(np.clip((bound - 1) / 2, 0, 1)))
        assert bound == pytest.approx(1 + 2 * quantile, rel=0.01)
    assert spec.follow(1.0, float("inf")) < 1  # a share beyond 1 is noise: as if all were below


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantile": 1.0}, "quantile is 1.0"),
        ({"initial": 0.0}, "initial is 0.0"),
        ({"rate": 0.0}, "rate is 0.0"),
        ({"budget": 0.0}, "budget is 0.0"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ft.SpecError, match=message):
        ft.adaptive_clip(**arguments)
