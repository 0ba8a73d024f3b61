"""JAX functions as a model: the steps are those of our engine, all of the tree travels, and what is wrong is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fedthings as ft
from differentiated import PORTABLE, one_by_one, same_steps, shards, targets
from fedthings.errors import SpecError
from fedthings.learn import own_learner
from fedthings.learn.model import Sequential
from fedthings.learn.own import Own
from fedthings.learn.task import Task
from fedthings.vector import Key
from installed import needs

needs("jax")
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402


def net(model: Sequential = PORTABLE, **settings: Any) -> Any:
    """The list of layers as functions: its arrays lie in the same order."""
    shapes = [layer.parameters(given) for layer, given in zip(model.layers, model.shapes, strict=False)]

    def init(key):
        draws = jax.random.split(key, len(shapes))
        return [
            {"W": 0.3 * jax.random.normal(draw, shape["weight"]), "b": jnp.zeros(shape["bias"])}
            for draw, shape in zip(draws, shapes, strict=True)
        ]

    def apply(params, X):
        for layer in params[:-1]:
            X = jax.nn.relu(X @ layer["W"] + layer["b"])
        return X @ params[-1]["W"] + params[-1]["b"]

    return ft.with_jax(init, apply, input=6, **settings)


@pytest.mark.parametrize(("optimizer", "batch"), [("sgd", 0), ("sgd", 4), ("momentum", 4), ("adam", 4)])
def test_the_steps_are_those_of_our_engine(named: Callable[[Any], Own], optimizer: str, batch: int) -> None:
    recipe = {"optimizer": optimizer, "lr": 0.05, "batch": batch, "epochs": 3, "weight_decay": 0.01, "keep": 0.2}
    same_steps(named(net()), PORTABLE, "cross_entropy", shards(), mu=0.3, **recipe)


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mse", "mae", "huber", "reconstruction"])
def test_every_loss_is_ours(named: Callable[[Any], Own], loss: str) -> None:
    model, some = targets(loss)
    same_steps(named(net(model)), model, loss, some, lr=0.1, batch=4, epochs=2)


def test_many_is_a_stack_of_one_and_what_is_drawn_is_keyed(named: Callable[[Any], Own]) -> None:
    def apply(params, X, key=None):
        if key is not None:
            X = X * jax.random.bernoulli(key, 0.5, X.shape)
        return X @ params

    model = named(ft.with_jax(lambda key: jax.random.normal(key, (6, 3)), apply, input=6))
    assert [part.name for part in model.layout.parts] == ["params"]
    assert np.abs(one_by_one(model)).max(-1).all()
    np.testing.assert_allclose(model.predict(model.init(1), np.eye(6)), model.init(1).reshape(6, 3), rtol=1e-6)


def test_the_tree_travels_by_its_names_and_comes_back(named: Callable[[Any], Own]) -> None:
    model = named(net())
    assert [part.name for part in model.layout.parts] == ["0.W", "0.b", "1.W", "1.b"]
    assert (model.init(1) == model.init(1)).all() and (model.init(1) != model.init(2)).any()
    params = model.fitted(np.arange(model.layout.dim, dtype="f4"))
    assert params[1]["W"].shape == (5, 3) and params[0]["b"].tolist() == [30, 31, 32, 33, 34]
    assert model.made.engine().startswith(f"jax {jax.__version__} ")


def test_a_loss_of_ones_own(named: Callable[[Any], Own]) -> None:
    some, row = shards(), PORTABLE.init(3)

    def train(lifted: Any, lr: float) -> np.ndarray:
        task = Task(model=named(lifted), loss="cross_entropy", recipe=ft.Recipe(lr=lr))
        return np.asarray(own_learner.trainer(task).one({"x": row}, None, some[0], own_key(), 1.0)[0].report["x"])

    def thrice(out, y):
        return -3 * jax.nn.log_softmax(out)[jnp.arange(len(y)), y]

    np.testing.assert_allclose(train(net(loss=thrice), 0.1), train(net(), 0.3), rtol=1e-3, atol=1e-6)
    with pytest.raises(SpecError, match=r"with_jax: `loss` returned the shape \(\) for 12 samples: return one cost"):
        train(net(loss=lambda out, y: thrice(out, y).mean()), 0.1)


def own_key() -> Any:
    return Key(1, "kitchen", 2, 0)


@pytest.mark.parametrize(
    ("init", "apply", "said"),
    [
        (lambda key: {}, None, "`init` gives {}: return a tree of arrays"),
        (lambda key: {"w": jnp.arange(3)}, None, "`init` gives w as int32: what travels is averaged"),
        (lambda key: {"w": 3}, None, "`init` gives w as int: what travels is averaged"),
        (
            lambda key: jnp.zeros((6, 1)),
            lambda p, X: (X @ p)[:, 0],
            "`apply` gives (1,) for 1 sample: return one array",
        ),
        (lambda key: jnp.zeros((6, 1)), lambda p, X: [X @ p], "`apply` gives list for 1 sample"),
        (lambda key: jnp.zeros((5, 1)), lambda p, X: X @ p, "with_jax: `apply` raised TypeError: "),
        (lambda key: 1 / 0, None, "with_jax: `init` raised ZeroDivisionError: division by zero (line "),
    ],
)
def test_what_cannot_be_a_model_is_refused(init: Any, apply: Any, said: str) -> None:
    with pytest.raises(SpecError) as told:
        ft.with_jax(init, apply or (lambda p, X: X), input=6)
    assert said in str(told.value)


def test_it_is_not_forked(named: Callable[[Any], Own]) -> None:
    X, y = np.zeros((8, 6), np.float32), np.zeros(8, np.int64)
    spec = ft.Federation(Task(model=named(net()), loss="cross_entropy"), pace=ft.Pace(goal=2))
    with pytest.raises(SpecError, match=r"workers is 2, and the model runs on JAX, .*: use workers=\"ray\""):
        ft.simulate(spec, ft.Fleet.from_arrays(X, y, np.arange(8) % 2), 1, workers=2)
