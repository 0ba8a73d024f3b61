"""Keras models: the steps are those of our engine, what travels, what stays, and what is told; on either backend."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedthings as ft
from differentiated import PORTABLE, keys, one_by_one, same_steps, shards, targets
from fedthings.errors import SpecError
from fedthings.learn import own_learner
from fedthings.learn.model import Sequential
from fedthings.learn.own import Own
from fedthings.learn.task import Recipe, Task
from fedthings.learn.with_keras import chosen
from installed import needs

needs("keras")
keras = chosen("with_keras")
layers = keras.layers


def built(*parts: Any) -> Callable[[], Any]:
    """Return a `build` of the layers that `parts` make."""
    return lambda: keras.Sequential([keras.Input((6,)), *(part() for part in parts)])


def net(model: Sequential = PORTABLE) -> Any:
    """The list of layers in Keras: its arrays lie in the same order."""
    units = [layer.units for layer in model.layers]
    parts = [lambda n=n: layers.Dense(n, "relu") for n in units[:-1]]
    return ft.with_keras(built(*parts, lambda: layers.Dense(units[-1])), input=6)


def trained(model: Own, loss: str = "cross_entropy", row: Any = None, n: int = 20, **recipe: Any) -> dict[str, Any]:
    """Return by name what training on n samples changes."""
    task = Task(model=model, loss=loss, recipe=Recipe(**{"lr": 0.1, "batch": 0} | recipe))
    start = model.init(3) if row is None else row
    fit, _ = own_learner.trainer(task).one({"x": start}, None, shards([n])[0], keys(1)[0], 1.0)
    return model.layout.views(fit.report["x"])


def numbers(tensor: Any) -> np.ndarray:
    """Return a tensor of either backend as NumPy's."""
    return np.asarray(tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else tensor)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_the_steps_are_those_of_our_engine(named: Callable[[Any], Own], optimizer: str) -> None:
    recipe = {"optimizer": optimizer, "lr": 0.05, "batch": 4, "epochs": 3, "weight_decay": 0.01, "keep": 0.2}
    same_steps(named(net()), PORTABLE, "cross_entropy", shards(), mu=0.3, **recipe)


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mse", "mae", "huber", "reconstruction"])
def test_every_loss_is_ours(named: Callable[[Any], Own], loss: str) -> None:
    model, some = targets(loss)
    same_steps(named(net(model)), model, loss, some, lr=0.1, batch=4)


def test_many_is_a_stack_of_one_though_layers_draw_and_count(named: Callable[[Any], Own]) -> None:
    parts = layers.BatchNormalization, lambda: layers.Dropout(0.5), lambda: layers.Dense(3)
    model = named(ft.with_keras(built(lambda: layers.Dense(5), *parts), input=6))
    assert [part.name for part in model.layout.parts] == [
        "0.kernel",
        "1.bias",
        "2.gamma",
        "3.beta",
        "6.kernel",
        "7.bias",
        "4.moving_mean",
        "5.moving_variance",
    ]
    assert np.abs(one_by_one(model)).max(-1).all()
    again = one_by_one(named(ft.with_keras(built(lambda: layers.Dense(5), *parts), input=6)))
    np.testing.assert_array_equal(again, one_by_one(model))


def test_statistics_of_batches_travel_and_count(named: Callable[[Any], Own]) -> None:
    model = named(
        ft.with_keras(built(lambda: layers.BatchNormalization(momentum=0.9), lambda: layers.Dense(3)), input=6)
    )
    row, X = model.init(3), shards([20])[0].X
    change = trained(model)
    np.testing.assert_allclose(change["2.moving_mean"], 0.1 * X.mean(0), atol=1e-5)
    np.testing.assert_allclose(change["3.moving_variance"], 0.1 * (X.var(0) - 1), atol=1e-5)
    shifted = row.copy()
    model.layout.views(shifted)["2.moving_mean"][...] = 1
    np.testing.assert_allclose(model.predict(shifted, X + 1), model.predict(row, X), atol=1e-4)


def test_what_is_frozen_stays_as_it_is_made_with_its_statistics(named: Callable[[Any], Own]) -> None:
    def base() -> Any:
        base = keras.Sequential([layers.Dense(8, "relu"), layers.BatchNormalization()])
        base.trainable = False
        return base

    model = named(ft.with_keras(built(base, lambda: layers.Dense(3)), input=6))
    assert [part.shape for part in model.layout.parts] == [(8, 3), (3,)]
    change = trained(model, epochs=3)
    assert all(array.any() for array in change.values())
    first, other = (model.fitted(model.init(seed)).layers[0].weights for seed in (3, 4))
    for mine, theirs in zip(first, other, strict=True):
        np.testing.assert_array_equal(numbers(mine.value), numbers(theirs.value))


def test_only_the_thin_matrices_of_lora_travel(named: Callable[[Any], Own]) -> None:
    def build() -> Any:
        model = built(lambda: layers.Dense(8, "relu"), lambda: layers.Dense(3))()
        for layer in model.layers:
            layer.enable_lora(2)
        return model

    model = named(ft.with_keras(build, input=6))
    kernels = [part for part in model.layout.parts if "lora" in part.name]
    assert sum(part.stop - part.start for part in kernels) == 2 * (6 + 8) + 2 * (8 + 3)
    assert not any(part.shape in ((6, 8), (8, 3)) for part in model.layout.parts)
    assert trained(model, epochs=2)[kernels[1].name].any()


def test_regularisers_count(named: Callable[[Any], Own]) -> None:
    def dense(rate: float) -> Any:
        regulariser = keras.regularizers.L2(rate) if rate else None
        return named(ft.with_keras(built(lambda: layers.Dense(3, kernel_regularizer=regulariser)), input=6))

    row = dense(0).init(3)
    plain, pulled = trained(dense(0), row=row), trained(dense(0.1), row=row)
    kernel = dense(0).layout.views(row)["0.kernel"]
    np.testing.assert_allclose(pulled["0.kernel"] - plain["0.kernel"], -0.1 * 0.2 * kernel, atol=1e-6)


def test_the_model_with_the_weights_of_a_row(named: Callable[[Any], Own]) -> None:
    model, X = named(net()), shards([9])[0].X
    row = model.init(5) + 0.1
    found = model.fitted(row)
    assert isinstance(found, keras.Model)
    np.testing.assert_allclose(numbers(found(X)), model.predict(row, X), rtol=1e-5, atol=1e-6)
    assert model.made.engine() == f"keras {keras.__version__} on {model.made.engine().split(' on ')[1]}"


def test_generators_are_left_as_they_were(named: Callable[[Any], Own]) -> None:
    random.seed(3)
    np.random.seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist()
    trained(named(net()))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


MODEL = built(lambda: layers.Dense(3))()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: 3, "`build` returned int: return a keras.Model"),
        (lambda: MODEL, "`build` returned the same model again: make a new one in each call"),
        (
            built(lambda: layers.Dense(3, trainable=False)),
            "the model has nothing to train: leave some layers",
        ),
        (built(lambda: layers.Dense(3, dtype="float16")), "kernel is float16: make the model float32"),
        (built(lambda: layers.Dense(3), lambda: layers.Reshape(())), "with_keras: "),
        (lambda: 1 / 0, "with_keras: `build` raised ZeroDivisionError: division by zero (line "),
    ],
)
def test_what_cannot_be_a_model_is_refused(build: Any, said: str) -> None:
    with pytest.raises(SpecError) as told:
        ft.with_keras(build, input=6)
    assert said in str(told.value)


@pytest.mark.parametrize("last", [lambda: layers.Dense(3, "softmax"), layers.Softmax])
def test_a_model_that_ends_in_what_the_loss_contains_is_refused(named: Callable[[Any], Own], last: Any) -> None:
    model = named(ft.with_keras(built(lambda: layers.Dense(3), last), input=6))
    with pytest.raises(SpecError, match="with_keras: the model ends in softmax, which cross_entropy contains"):
        trained(model)


@pytest.mark.skipif("FEDTHINGS_ON_JAX" in os.environ, reason="this is the run on JAX")
def test_all_of_this_holds_on_jax() -> None:
    needs("jax")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", str(Path(__file__))],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "KERAS_BACKEND": "jax", "FEDTHINGS_ON_JAX": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout
