"""Local steps in PyTorch: they are those of our engine, one by one and at once, and what fails in them is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedthings as ft
import own_models
from differentiated import go, keys, shards, task
from fedthings.errors import SpecError
from fedthings.learn import local, own_learner, to_torch, torch_descent
from fedthings.learn.metrics import ONE
from fedthings.learn.model import Sequential
from fedthings.learn.own import Own
from fedthings.learn.task import Recipe, Task
from fedthings.vector import Key
from own_models import PORTABLE

SIZES = [1, 23, 8, 8, 1, 13, 5, 21]
EFFORTS = [1.0, 0.3, 1.0, 0.5, 0.01, 1.0, 0.7, 1.0]

Named = Callable[[Any], Own]


def turned(row: np.ndarray, model: Sequential = PORTABLE) -> np.ndarray:
    """Return rows of our layout in the order of the module, whose weights are (out, in)."""
    views = model.layout.views(row).values()
    flat = [np.moveaxis(view, -1, -2) if view.ndim > row.ndim else view for view in views]
    return np.concatenate([view.reshape(*row.shape[:-1], -1) for view in flat], -1)


# ------------------------------------------------------- the same steps as ours


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("batch", [0, 1, 5, 100])
def test_the_steps_are_those_of_our_engine(optimizer: str, batch: int, at_once: bool) -> None:
    recipe = {"optimizer": optimizer, "lr": 0.05, "batch": batch, "epochs": 3, "weight_decay": 0.01, "keep": 0.2}
    theirs = task("portable", settings={"at_once": at_once}, **recipe)
    ours = Task(model=PORTABLE, loss="cross_entropy", recipe=theirs.recipe)
    row = PORTABLE.init(3)
    want, states = go(local.trainer(ours, mu=0.3, engine="numpy"), row, shards(SIZES), EFFORTS)
    have, kept = go(own_learner.trainer(theirs, mu=0.3), turned(row), shards(SIZES), EFFORTS)
    np.testing.assert_allclose(have.report["x"], turned(want.report["x"]), rtol=1e-4, atol=2e-6)
    for mine, other in zip(states, kept, strict=True):
        np.testing.assert_allclose(other["x"], turned(mine["x"]), rtol=1e-4, atol=2e-6)
    np.testing.assert_array_equal(have.weight, want.weight)
    assert have.metrics.keys() == want.metrics.keys()
    for name, sums in want.metrics.items():
        np.testing.assert_array_equal(have.metrics[name][:, 0], sums[:, 0])
        np.testing.assert_allclose(have.metrics[name], sums, rtol=1e-4, atol=4)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("rows", ["shared", "one each"])
def test_each_device_may_begin_with_a_model_of_its_own(rows: str, at_once: bool) -> None:
    row = np.stack([PORTABLE.init(i) for i in range(len(SIZES))])
    row = row if rows == "one each" else row[0]
    theirs = task("portable", settings={"at_once": at_once})
    ours = Task(model=PORTABLE, loss="cross_entropy", recipe=theirs.recipe)
    want, _ = go(local.trainer(ours, mu=0.5, engine="numpy"), row, shards(SIZES))
    have, _ = go(own_learner.trainer(theirs, mu=0.5), turned(row), shards(SIZES))
    np.testing.assert_allclose(have.report["x"], turned(want.report["x"]), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mse", "mae", "huber", "reconstruction"])
@pytest.mark.parametrize("at_once", [False, True])
def test_every_loss_is_ours(loss: str, at_once: bool, named: Named) -> None:
    model = ft.mlp(6, 4, 6 if loss == "reconstruction" else 1)
    some = [s._replace(y=(s.y > 1).astype("f4"), test_y=(s.test_y > 1).astype("f4")) for s in shards(SIZES)]
    lifted = ft.with_torch(lambda: to_torch.module(model), input=6, at_once=at_once)
    theirs = Task(model=named(lifted), loss=loss, recipe=Recipe(lr=0.1, batch=4, epochs=2))
    ours = Task(model=model, loss=loss, recipe=theirs.recipe)
    row = model.init(3)
    want, _ = go(local.trainer(ours, engine="numpy"), row, some)
    have, _ = go(own_learner.trainer(theirs), turned(row, model), some)
    np.testing.assert_allclose(have.report["x"], turned(want.report["x"], model), rtol=1e-4, atol=2e-6)
    for name, sums in want.metrics.items():
        np.testing.assert_allclose(have.metrics[name], sums, rtol=1e-4, atol=4)


def test_at_once_is_the_same_for_images_in_any_grouping(monkeypatch: pytest.MonkeyPatch) -> None:
    some = shards(SIZES, (1, 8, 8))
    row = task("images").model.init(0)
    want, _ = go(own_learner.trainer(task("images")), row, some)
    for group in (1, 3, 64):
        monkeypatch.setattr(torch_descent, "TOGETHER", group)
        have, _ = go(own_learner.trainer(task("images", settings={"at_once": True})), row, some)
        np.testing.assert_allclose(have.report["x"], want.report["x"], rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(have.metrics["train"][:, 0], want.metrics["train"][:, 0])


# ---------------------------------------------------------------- the laws


@pytest.mark.parametrize(
    ("factory", "shape"), [("net", (6,)), ("normed", (6,)), ("gated", (6, 1)), ("images", (1, 8, 8))]
)
def test_many_is_a_stack_of_one_bit_for_bit_and_the_same_again(factory: str, shape: tuple[int, ...]) -> None:
    some = shards(SIZES, shape)
    made = task(factory)
    learner, row = own_learner.trainer(made, mu=0.1), made.model.init(7)
    fit, _ = go(learner, row, some, EFFORTS)
    assert (np.abs(fit.report["x"]).max(-1) > 0).sum() >= len(some) - 2  # a BatchNorm learns nothing of one sample
    order = list(range(len(some)))[::-1]
    for i in order:
        one, _ = learner.one({"x": row}, None, some[i], keys(len(some))[i], EFFORTS[i])
        np.testing.assert_array_equal(one.report["x"], fit.report["x"][i])
        for name, sums in one.metrics.items():
            np.testing.assert_array_equal(sums, fit.metrics[name][i])
    only, _ = go(own_learner.evaluator(made), row, some)
    for name, sums in only.metrics.items():
        np.testing.assert_array_equal(sums, fit.metrics[name])


def test_dropout_is_keyed_by_device_and_version() -> None:
    made = task("normed", epochs=1, batch=0)
    learner, row, (shard,) = own_learner.trainer(made), made.model.init(7), shards([20])
    first, again, other = (
        learner.one({"x": row}, None, shard, Key(0, "a", version, 0), 1.0)[0].report["x"] for version in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_threads_and_the_generator_of_pytorch_are_left_as_they_were() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.manual_seed(5)
        before = torch.get_rng_state()
        lifted = ft.with_torch(lambda: nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 3)), input=6)
        lifted.begin(3)
        steps = lifted.steps(task("net"), 0.0)
        start, change = np.zeros((2, 2, lifted.layout.dim), "f4")
        steps(start[0].copy(), start, shards([5, 7]), keys(2), [1.0, 1.0], change)
        assert change.any()
        lifted.predict(start[0], np.zeros((2, 6), "f4"))
        lifted.engine()
        with pytest.raises(ZeroDivisionError):
            ft.with_torch(lambda: 1 / 0, input=6)
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.get_rng_state(), before)
    finally:
        torch.set_num_threads(threads)


def test_it_computes_on_one_thread() -> None:
    seen = []

    class Watched(nn.Linear):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return super().forward(x)

    lifted = ft.with_torch(lambda: Watched(6, 3), input=6)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        start, change = np.zeros((2, 1, lifted.layout.dim), "f4")
        lifted.steps(task("net"), 0.0)(start[0].copy(), start, shards([5]), keys(1), [1.0], change)
        lifted.predict(start[0], np.zeros((2, 6), "f4"))
    finally:
        torch.set_num_threads(threads)
    assert len(seen) >= 4 and set(seen) == {1}


# ----------------------------------------------------- one's own loss, optimiser


def test_a_loss_and_an_optimiser_of_ones_own(named: Named) -> None:
    asked = []

    def optimizer(parameters, recipe):
        asked.append(recipe.lr)
        return torch.optim.SGD(parameters, 2 * recipe.lr)

    def loss(out, y):
        return 3 * nn.functional.cross_entropy(out, y, reduction="none")

    def build():
        return to_torch.module(PORTABLE)

    recipe = Recipe(lr=0.05, batch=4)
    model = named(ft.with_torch(build, input=6, loss=loss, optimizer=optimizer))
    have, _ = go(
        own_learner.trainer(Task(model=model, loss="cross_entropy", recipe=recipe)), model.init(0), shards(SIZES)
    )
    six = task("portable", lr=0.3, batch=4, epochs=1)
    want, _ = go(own_learner.trainer(six), model.init(0), shards(SIZES))
    np.testing.assert_allclose(have.report["x"], want.report["x"], rtol=1e-4, atol=1e-6)
    assert asked == [0.05] * len(SIZES)  # a new one for each device: moments are nobody else's
    assert have.metrics["train"][1, 1] / ONE > 23  # the costs of the own loss, three times ours


# ---------------------------------------------------------------- what is wrong


class Random(nn.Linear):
    """A layer that draws without being known to."""

    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.5, self.training))


@pytest.mark.parametrize(
    ("build", "shape", "reason"),
    [
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), (6,), "it has the buffer running"),
        (own_models.Gated, (6, 1), "it has recurrent layers"),
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 3)), (6,), "vmap cannot take it"),
        (lambda: Random(6, 3), (6,), "vmap cannot take it"),
    ],
)
def test_modules_that_cannot_train_at_once_say_why(build, shape, reason: str, named: Named) -> None:
    model = named(ft.with_torch(build, input=shape, at_once=True))
    learner = own_learner.trainer(Task(model=model, loss="cross_entropy"))
    with pytest.raises(SpecError) as told:
        go(learner, model.init(0), shards(SIZES, shape))
    assert "at_once is True, and the module cannot: " in str(told.value) and reason in str(told.value)


@pytest.mark.parametrize("at_once", [False, True])
def test_a_loss_that_gives_one_number_for_all_is_told(at_once: bool, named: Named) -> None:
    lifted = ft.with_torch(lambda: nn.Linear(6, 3), input=6, loss=nn.functional.cross_entropy, at_once=at_once)
    learner = own_learner.trainer(Task(model=named(lifted), loss="cross_entropy"))
    with pytest.raises(SpecError, match=r"`loss` returned the shape \(\) for \d+ samples: return one cost for each"):
        go(learner, lifted.begin(0), shards(SIZES))


def test_what_fails_in_a_module_says_whose_it_was_and_where(named: Named) -> None:
    class Fails(nn.Linear):
        def forward(self, x):
            if self.training:
                raise ValueError("too cold")
            return super().forward(x)

    model = named(ft.with_torch(lambda: Fails(6, 3), input=6))
    with pytest.raises(
        SpecError, match=r"training on device-0, version 2, raised ValueError: too cold \(line \d+ of tes"
    ):
        go(own_learner.trainer(Task(model=model, loss="cross_entropy")), model.init(0), shards(SIZES))


def test_a_model_that_diverges_passes_on_without_warnings() -> None:
    made = task("net", lr=1e38, epochs=3)
    fit, _ = go(own_learner.trainer(made), made.model.init(0), shards(SIZES))
    assert not np.isfinite(fit.report["x"]).all()
    assert (fit.metrics["train"][:, 1] > 0).all()
