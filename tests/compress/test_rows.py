"""Only the rows of an embedding that a device has seen travel: without loss where they fit, later where they do not."""

from __future__ import annotations

import numpy as np
import pytest

import fedthings as ft
from fedthings.compress import rows
from fedthings.errors import SpecError
from fedthings.stage import Field
from fedthings.vector import Key

MODEL = ft.sequential(3, ft.embedding(500, 8, 0), ft.embedding(40, 3, 0), ft.dense(1))
DIM = MODEL.layout.dim
SCHEMA = (Field("x", DIM),)


def keys(n: int) -> list[Key]:
    return [Key(0, f"d{i}", 1, 0) for i in range(n)]


def changes(n: int, seen: int) -> np.ndarray:
    """What training changes on devices that have each seen so many categories of each kind."""
    rng = np.random.default_rng(seen)
    x = rng.normal(size=(n, DIM)).astype("f4")
    for name, table in MODEL.layout.views(x).items():
        if name.endswith("vectors"):
            for one in table:
                one[rng.permutation(len(one))[seen:]] = 0
    return x


def through(stage, x: np.ndarray, states: list) -> tuple[np.ndarray, list, int]:
    sent, after = stage.encode({"x": x}, states, keys(len(x)))
    return stage.decode(sent)["x"], list(after), sum(a.nbytes for a in sent.values()) // len(x)


def test_a_device_that_has_seen_few_loses_nothing_and_sends_little() -> None:
    stage, x = rows.build(rows.SeenRows(12), SCHEMA, MODEL.layout), changes(5, 12)
    found, after, size = through(stage, x, [stage.init()] * 5)
    np.testing.assert_array_equal(found, x)
    assert not np.stack(after).any()
    dense = DIM - 500 * 8 - 40 * 3
    assert size == 4 * dense + 12 * 4 * (8 + 3) + 2 * 12 * 4
    assert size < 0.05 * 4 * DIM
    assert stage.sends == (Field("x", dense + 12 * 11),)


def test_what_does_not_fit_goes_later() -> None:
    stage, x = rows.build(rows.SeenRows(10), SCHEMA, MODEL.layout), changes(4, 25)
    total, states = np.zeros_like(x), [stage.init()] * 4
    for step in range(3):
        found, states, _ = through(stage, x if step == 0 else np.zeros_like(x), states)
        total += found
    np.testing.assert_array_equal(total, x)
    assert not np.stack(states).any()


def test_many_is_a_stack_of_one() -> None:
    stage, x = rows.build(rows.SeenRows(7), SCHEMA, MODEL.layout), changes(6, 20)
    found, after, _ = through(stage, x, [stage.init()] * 6)
    for i in range(6):
        one, state, _ = through(stage, x[i : i + 1], [stage.init()])
        np.testing.assert_array_equal(one[0], found[i])
        np.testing.assert_array_equal(state[0], after[i])


def test_a_row_that_is_none_is_refused_by_its_value() -> None:
    stage, x = rows.build(rows.SeenRows(7), SCHEMA, MODEL.layout), changes(2, 5)
    sent, _ = stage.encode({"x": x}, [stage.init()] * 2, keys(2))
    sent[rows.AT][0, 3] = 500
    found = stage.decode(sent)["x"]
    assert np.isnan(found[0]).all()
    np.testing.assert_array_equal(found[1], x[1])


def test_where_it_cannot_stand() -> None:
    with pytest.raises(SpecError, match=r"seen_rows\.most is 0"):
        ft.seen_rows(0)
    task = ft.Task(model=ft.mlp(3, 2), loss="cross_entropy")
    with pytest.raises(SpecError, match="the model has no embedding"):
        ft.Federation(task, stages=(ft.seen_rows(),))
    task = ft.Task(model=MODEL, loss="mse")
    with pytest.raises(SpecError, match="seen_rows stands behind a stage that leaves no tables"):
        ft.Federation(task, stages=(ft.top_k(), ft.seen_rows()))


def test_a_federation_with_it_ends_in_the_same_model_with_a_part_of_the_bytes() -> None:
    rng = np.random.default_rng(0)
    worth = rng.normal(size=2000)
    mine = [rng.integers(0, 2000, 20) for _ in range(8)]  # the categories that each device has
    kind = np.concatenate([rng.choice(some, 100) for some in mine])
    X = np.stack([kind, rng.normal(size=800)], 1).astype("f4")
    y = (worth[kind] + X[:, 1]).astype("f4")
    fleet = ft.Fleet.from_arrays(X, y, np.repeat(np.arange(8), 100), np.tile(np.arange(100) >= 80, 8))
    model = ft.sequential(2, ft.embedding(2000, 8, 0), ft.dense(1))
    task = ft.Task(model=model, loss="mse", recipe=ft.Recipe(lr=0.1, batch=8))
    runs = [
        ft.simulate(ft.Federation(task, pace=ft.Pace(goal=8), stages=stages), fleet, 20)
        for stages in ((), (ft.seen_rows(20),))
    ]
    np.testing.assert_array_equal(runs[0].row, runs[1].row)
    assert runs[1].summary["total"]["bytes_up"] < 0.03 * runs[0].summary["total"]["bytes_up"]
    assert runs[1].summary["metrics"]["rmse"] < 0.95 * runs[1].history[0]["metrics"]["rmse"]
