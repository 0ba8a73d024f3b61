"""Law 3: many == stack of one, bit for bit, for every layer, loss and optimiser, and for any grouping."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from fedthings.learn import descent, local
from fedthings.learn.data import Shard
from fedthings.learn.layers import Layer
from fedthings.learn.learner import Fit, Learner
from fedthings.learn.local import evaluator, trainer
from fedthings.learn.model import (
    Sequential,
    avg_pool,
    batch_norm,
    conv1d,
    conv2d,
    cyclic,
    decompose,
    dense,
    dropout,
    embedding,
    flatten,
    group_norm,
    gru,
    impute,
    layer_norm,
    log1p,
    max_pool,
    mlp,
    one_hot,
    relu,
    sequential,
    sigmoid,
    softmax,
    standardise,
    tanh,
)
from fedthings.learn.normalise import statistician
from fedthings.learn.task import Recipe, Task
from fedthings.vector import Array, Key

COHORTS = (1, 2, 3, 7, 10, 33)


def head(*layers: Layer) -> Sequential:
    return sequential(5, *layers, dense(3))


MODELS: dict[str, Sequential] = {
    "logistic": mlp(13, 3),
    "mlp": mlp(17, 31, 9, 3),
    "one_input": mlp(1, 1, 3),
    "tanh": head(dense(6, "tanh"), dense(5), tanh()),
    "sigmoid": head(dense(6, "sigmoid"), dense(5), sigmoid()),
    "softmax": head(dense(6, "softmax"), dense(5), softmax()),
    "final_softmax": sequential(5, dense(3, "softmax")),
    "relu_first": head(relu(), dense(4), relu()),
    "norm": head(layer_norm(), dense(7), layer_norm(), dropout(0.5)),
    "dropout": head(dropout(0.3), dense(8, "relu"), dropout(0.5)),
    "constants": head(impute(0.5), standardise([1, 2, 3, 4, 5], [1, 2, 1, 2, 1]), dense(4, "relu")),
    "conv1d": sequential((9, 2), conv1d(3, 3, activation="relu"), max_pool(2), conv1d(4, 2), flatten(), dense(3)),
    "conv1d_one": sequential((7, 1), conv1d(1, 3, 2, "same", "tanh"), avg_pool(2), flatten(), dense(3)),
    "conv2d": sequential(
        (8, 7, 2), conv2d(3, 3, 1, "same", "relu"), max_pool(2), conv2d(4, 2), avg_pool(2), flatten(), dense(3)
    ),
    "group_norm": sequential((7, 6), conv1d(6, 2), group_norm(3), relu(), group_norm(1), flatten(), dense(3)),
    "batch_norm": sequential((7, 6), conv1d(6, 2), batch_norm(), relu(), flatten(), dense(5), batch_norm(), dense(3)),
    "causal": sequential((9, 2), conv1d(3, 3, 1, "causal", "relu", 2), conv1d(2, 2, 2, "causal"), flatten(), dense(3)),
    "gru": sequential((6, 3), gru(9), dense(3)),
    "gru_sequence": sequential((6, 3), gru(5, True), gru(4), dense(3)),
    "embedding": sequential(7, embedding(4, 3), gru(3), dense(3)),
    "embedding_column": sequential(5, embedding(4, 3, 2), embedding(3, 2, 0), dense(4), dense(3)),
    "decompose": sequential((6, 2), decompose(5), impute(), flatten(), dense(3)),
    "transforms": sequential((4, 5), log1p((0, 3)), cyclic(1, 24), one_hot(1, 3), impute(), flatten(), dense(3)),
}  # fmt: skip


def cohort(model: Sequential, n: int, classes: int = 3, most: int = 23) -> list[Shard]:
    """n shards of 1 to `most` samples; some sizes occur more than once, some devices test nothing."""
    rng = np.random.default_rng(n)
    shards = []
    for i in range(n):
        size, test = int(rng.integers(1, most + 1)), int(rng.integers(0, 9))
        X, test_X = (rng.normal(size=(k, *model.input)).astype("f4") for k in (size, test))
        if classes > 1:
            y, test_y = (rng.integers(0, classes, k) for k in (size, test))
        else:
            y, test_y = (rng.integers(0, 2, k).astype("f4") for k in (size, test))
        shards.append(Shard(X, y, test_X, test_y))
        if i == 0 and model.stem:
            X[0, 0] = np.nan
    return shards


def keys(n: int) -> list[Key]:
    return [Key(4, f"device-{i}", 1, 0) for i in range(n)]


def same(fit: Fit, states: Sequence[object], ones: Sequence[tuple[Fit, object]]) -> None:
    """Assert that a cohort's fit is the stack of the devices' own, in the caller's order."""
    for name, rows in fit.report.items():
        assert np.isfinite(rows).all()
        np.testing.assert_array_equal(rows.view(np.uint8), np.stack([o.report[name] for o, _ in ones]).view(np.uint8))
    np.testing.assert_array_equal(fit.weight, np.stack([o.weight for o, _ in ones]))
    for name, sums in fit.metrics.items():
        assert sums.dtype == np.int64
        np.testing.assert_array_equal(sums, np.stack([o.metrics[name] for o, _ in ones]))
    for state, (_, own) in zip(states, ones, strict=True):
        np.testing.assert_equal(state, own)


def both(learner: Learner, row: Array, shards: Sequence[Shard], efforts: Sequence[float] | None = None) -> Fit:
    n = len(shards)
    efforts = efforts or [1.0] * n
    rows = row if row.ndim == 2 else [row] * n
    fit, states = learner.many({"x": row}, [None] * n, shards, keys(n), efforts)
    ones = [learner.one({"x": r}, None, s, k, e) for r, s, k, e in zip(rows, shards, keys(n), efforts, strict=True)]
    same(fit, states, ones)
    return fit


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("n", COHORTS)
def test_every_layer(name: str, n: int) -> None:
    model = MODELS[name]
    task = Task(model=model, loss="cross_entropy", recipe=Recipe(lr=0.1, batch=5))
    fit = both(trainer(task), model.init(1), cohort(model, n))
    assert (np.abs(fit.report["x"]).max(-1) > 0).all()


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mse", "mae", "huber", "reconstruction"])
@pytest.mark.parametrize("n", [1, 7, 33])
def test_every_loss(loss: str, n: int) -> None:
    model = mlp(6, 8, 6 if loss == "reconstruction" else 1)
    task = Task(model=model, loss=loss, recipe=Recipe(lr=0.1, batch=4, epochs=2))
    both(trainer(task), model.init(1), cohort(model, n, classes=1))


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("batch", [0, 1, 4, 100])
def test_every_optimiser_batch_and_effort(optimizer: str, batch: int) -> None:
    model = mlp(7, 6, 3)
    recipe = Recipe(optimizer=optimizer, lr=0.05, batch=batch, epochs=3, weight_decay=0.01, keep=0.5)
    shards = cohort(model, 10)
    efforts = [1.0, 0.01, 0.5, 0.3, 1.0, 0.7, 0.2, 0.9, 1.0, 0.4]
    rows = np.stack([model.init(i) for i in range(10)])  # each device from a model of its own
    task = Task(model=model, loss="cross_entropy", recipe=recipe)
    both(trainer(task, mu=0.1, weight="equal"), rows, shards, efforts)


@pytest.mark.parametrize("name", ["mlp", "conv2d", "norm"])
def test_no_grouping_changes_a_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS[name]
    task = Task(model=model, loss="cross_entropy", recipe=Recipe(optimizer="adam", lr=0.01, batch=5, epochs=2))
    shards, row = cohort(model, 33), model.init(0)
    results = []
    for cache, memory in ((1, 1), (1 << 15, 1 << 14), (1 << 40, 1 << 22)):
        monkeypatch.setattr(descent, "CACHE", cache)
        monkeypatch.setattr(local, "MEMORY", memory)
        fit, _ = trainer(task, engine="numpy").many({"x": row}, [None] * 33, shards, keys(33), [1.0] * 33)
        results.append(fit)
    assert descent.group(task) > 33
    for other in results[1:]:
        np.testing.assert_array_equal(other.report["x"], results[0].report["x"])
        for metric, sums in other.metrics.items():
            np.testing.assert_array_equal(sums, results[0].metrics[metric])


def test_the_order_of_the_cohort_changes_nothing() -> None:
    model = MODELS["mlp"]
    task = Task(model=model, loss="cross_entropy", recipe=Recipe(batch=5))
    shards, order = cohort(model, 10), [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    learner, row = trainer(task), {"x": model.init(0)}
    fit, _ = learner.many(row, [None] * 10, shards, keys(10), [1.0] * 10)
    mixed, _ = learner.many(row, [None] * 10, [shards[i] for i in order], [keys(10)[i] for i in order], [1.0] * 10)
    np.testing.assert_array_equal(mixed.report["x"], fit.report["x"][order])
    np.testing.assert_array_equal(mixed.metrics["train"], fit.metrics["train"][order])


@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("inputs", [64, 784])
def test_widths_that_blas_treats_specially(kind: str, inputs: int) -> None:
    model = mlp(inputs, 10)
    task = Task(model=model, loss="cross_entropy", recipe=Recipe(batch=10))
    shards = cohort(model, 7, classes=10)
    fit = both(trainer(task), model.init(0).astype(kind), shards)
    assert fit.report["x"].dtype == kind


def test_evaluation_and_statistics() -> None:
    model = MODELS["conv1d"]
    task = Task(model=model, loss="cross_entropy", normalise="fleet")
    shards = cohort(model, 10)
    both(evaluator(task), model.init(0), shards)
    both(evaluator(task), np.stack([model.init(i) for i in range(10)]), shards)
    both(statistician(task), model.init(0), shards)
