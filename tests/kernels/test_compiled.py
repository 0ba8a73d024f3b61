"""The kernels behind the rule of engines: what they take, what falls back to NumPy, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import Any, get_args

import numpy as np
import pytest

from fedthings import kernels as installed
from fedthings.errors import DataError, SpecError
from fedthings.learn import compiled, engines
from fedthings.learn import layers as kinds
from fedthings.learn import model as ft
from fedthings.learn.data import Cohort, Shard
from fedthings.learn.element import snake
from fedthings.learn.local import trainer
from fedthings.learn.losses import LOSSES, scoring
from fedthings.learn.model import forward
from fedthings.learn.task import OPTIMIZERS, Recipe, Task
from fedthings.vector import Array, Key

kernels = pytest.importorskip("fedthings_kernels")

MLP = ft.mlp(6, 19, 4)


def task(model: ft.Sequential = MLP, loss: str = "cross_entropy", **recipe: Any) -> Task:
    return Task(model=model, loss=loss, recipe=Recipe(**{"lr": 0.1, "batch": 4, "epochs": 2, **recipe}))


def keys(n: int) -> list[Key]:
    return [Key(5, f"d{i}", 2, 0) for i in range(n)]


def cohort(task: Task, sizes: Sequence[int] = (9, 4, 1, 13), tested: int = 2) -> Cohort:
    """Return devices with `sizes` training samples and `tested` test samples each, in one table."""
    rng = np.random.default_rng(3)
    total, outputs = sum(sizes) + tested * len(sizes), prod(task.model.outputs)
    y = {
        "cross_entropy": rng.integers(0, outputs, total),
        "binary_cross_entropy": rng.integers(0, 2, total).astype(np.float32),
    }.get(task.loss, rng.standard_normal((total, outputs)).astype(np.float32))
    edges = np.cumsum([0, *(n + tested for n in sizes)]).tolist()
    bounds = np.array([(lo, hi - tested, hi) for lo, hi in pairwise(edges)])
    return Cohort(rng.standard_normal((total, *task.model.input), np.float32), y, bounds)


def trained(task: Task, shards: Sequence[Shard], engine: str, threads: int = 1, dtype: Any = np.float32) -> Array:
    """Return what training by `engine` changes, `(n, dim)`."""
    n = len(shards)
    fit, _ = trainer(task, 0.1, engine=engine, threads=threads).many(
        {"x": task.model.init(7).astype(dtype)}, [None] * n, shards, keys(n), [1.0] * n
    )
    return fit.report["x"]


def alike(a: Array, b: Array) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-4 * np.abs(b).max())


SIGNAL, PICTURE = (9, 3), (6, 7, 2)
SCALE = np.random.default_rng(1).random((2, 6)) + 0.5
LAYERS: dict[str, ft.Sequential] = {
    "dense": ft.mlp(6, 5, 4),
    "conv1d": ft.sequential(SIGNAL, ft.conv1d(5, 3), ft.flatten(), ft.dense(4)),
    "conv2d": ft.sequential(PICTURE, ft.conv2d(5, 3, 2, "same"), ft.flatten(), ft.dense(4)),
    "max_pool": ft.sequential(PICTURE, ft.max_pool(2), ft.flatten(), ft.dense(4)),
    "avg_pool": ft.sequential(SIGNAL, ft.avg_pool(3, 1), ft.flatten(), ft.dense(4)),
    "flatten": ft.sequential(SIGNAL, ft.flatten(), ft.dense(4)),
    "relu": ft.sequential(6, ft.dense(5), ft.relu(), ft.dense(4)),
    "tanh": ft.sequential(6, ft.dense(5), ft.tanh(), ft.dense(4)),
    "sigmoid": ft.sequential(6, ft.dense(5), ft.sigmoid(), ft.dense(4)),
    "softmax": ft.sequential(6, ft.dense(5), ft.softmax(), ft.dense(4)),
    "layer_norm": ft.sequential(6, ft.dense(5), ft.layer_norm(), ft.dense(4)),
    "standardise": ft.sequential(6, ft.standardise(*SCALE), ft.dense(4)),
    "impute": ft.sequential(6, ft.impute(0.5), ft.dense(4)),
}
OUTSIDE = {"dropout", "adam", "batch_norm", "group_norm", "embedding", "gru", "log1p", "cyclic", "one_hot", "rescale"}
OUTSIDE |= {"decompose", "centroids", "gaussians", "forest", "nearest", "prototypes"}
"""Layers, optimisers and losses that only NumPy has."""


def test_every_layer_loss_and_optimiser_is_known_or_named_as_falling_back() -> None:
    """A new one needs a kernel and a case here, or its name in OUTSIDE."""
    layers = {snake(kind.__name__) for kind in get_args(kinds.Layer)}
    names = layers | set(LOSSES) | set(OPTIMIZERS)
    assert {name for name in names if not kernels.supports(name)} == OUTSIDE
    assert set(LAYERS) == layers - OUTSIDE


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer(name: str) -> None:
    some = task(LAYERS[name])
    shards = cohort(some)
    if name in ("standardise", "impute"):
        shards.X[::3, 2] = np.nan
    alike(trained(some, shards, "kernels"), trained(some, shards, "numpy"))


@pytest.mark.parametrize("name", sorted(set(LOSSES) - OUTSIDE))
def test_every_loss(name: str) -> None:
    model = ft.mlp(6, 9, {"binary_cross_entropy": 1, "reconstruction": 6}.get(name, 3))
    some = task(model, name)
    assert engines.choose(some) == "kernels"
    alike(trained(some, cohort(some), "kernels"), trained(some, cohort(some), "numpy"))


@pytest.mark.parametrize(
    ("some", "why"),
    [
        (task(ft.sequential(6, ft.dense(9), ft.dropout(0.2), ft.dense(4))), "they have no dropout"),
        (task(optimizer="adam"), "they have no adam"),
        (task(ft.sequential((300, 300, 1), ft.max_pool(300), ft.flatten(), ft.dense(4))), "more than 65000 cells"),
    ],
)
def test_what_the_kernels_do_not_know_falls_back(some: Task, why: str) -> None:
    assert engines.choose(some) == "numpy"
    assert engines.described(some) == "numpy"
    assert why in compiled.lacking(some)
    with pytest.raises(SpecError, match=why):
        engines.choose(some, "kernels")
    shards = cohort(some, (3, 2))
    assert (trained(some, shards, "auto") == trained(some, shards, "numpy")).all()


@pytest.fixture
def forgotten() -> Iterator[Callable[[], None]]:
    """Return the function that has the kernels looked for anew, as a new process would."""
    yield installed.kernels.cache_clear
    installed.kernels.cache_clear()


def test_kernels_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, forgotten: Callable[[], None]) -> None:
    assert engines.described(task()).startswith(f"kernels {kernels.version} ")
    monkeypatch.setenv(installed.OFF, "0")
    forgotten()
    assert engines.described(task()) == "numpy"
    with pytest.raises(SpecError, match=r"fedthings-kernels is not installed: use \"numpy\""):
        engines.choose(task(), "kernels")


def test_a_float64_model_is_trained_by_numpy() -> None:
    some = task()
    shards = cohort(some)
    change = trained(some, shards, "kernels", dtype=np.float64)
    assert change.dtype == np.float64
    assert (change == trained(some, shards, "numpy", dtype=np.float64)).all()


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "reconstruction"])
def test_a_table_and_a_list_of_devices_give_the_same_bits(loss: str) -> None:
    some = task(ft.mlp(6, 19, 6), loss)
    table = cohort(some)
    wanted = trained(some, table, "kernels")
    assert (trained(some, list(table), "kernels") == wanted).all()
    # In memory as other tools leave it: other dtypes, columns first, at odd addresses.
    raw = np.zeros(table.X.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(table.X.tobytes(), np.uint8)
    odd = raw[1:].view(np.float32).reshape(table.X.shape)
    assert not odd.flags.aligned
    columns, wide = np.asfortranarray(table.X), table.X.astype(np.float64)
    targets = table.y.astype(np.int32) if loss == "cross_entropy" else table.y.astype(np.float64)
    for X, y in ((odd, table.y), (columns, table.y), (wide, table.y), (table.X, targets)):
        for other in (Cohort(X, y, table.bounds), list(Cohort(X, y, table.bounds))):
            assert (trained(some, other, "kernels") == wanted).all()
    part = trained(some, table[1:3], "kernels")
    assert (part[0] != 0).any() and part.shape == (2, some.model.layout.dim)


def test_threads_and_order_of_devices_change_no_bit() -> None:
    some = task(ft.sequential(SIGNAL, ft.conv1d(5, 3), ft.max_pool(2), ft.flatten(), ft.dense(4)))
    shards = list(cohort(some, (9, 4, 1, 13, 0, 30, 4, 4)))
    n = len(shards)
    names = keys(n)
    row = some.model.init(7)
    changes, seen = [], []
    for order, threads in (
        (range(n), 1),
        (range(n), 2),
        (range(n), 5),
        (reversed(range(n)), 1),
        ([*range(3, n), 0, 1, 2], 2),
    ):
        chosen = list(order)
        change = np.empty((n, len(row)), np.float32)
        saw = compiled.descent(some, 0.1, threads)(
            row, None, [shards[i] for i in chosen], [names[i] for i in chosen], [1.0] * n, change
        )
        back = np.argsort(chosen)
        changes.append(change[back])
        seen.append(saw[back])
    assert all((change == changes[0]).all() for change in changes)
    assert all((saw == seen[0]).all() for saw in seen)
    assert (changes[0][4] == 0).all() and (seen[0][4] == 0).all(), "a device without samples changes nothing"


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_a_rate_that_is_too_high_diverges_in_both_engines(loss: str) -> None:
    some = task(ft.mlp(6, 19, 19, 4), loss, lr=1e18, epochs=20)
    changes = [trained(some, cohort(some, (9, 13)), engine) for engine in ("kernels", "numpy")]
    for change in changes:
        assert not np.isfinite(change).all(-1).any()
    picture = task(LAYERS["max_pool"], lr=1e30, epochs=20)
    for engine in ("kernels", "numpy"):
        assert not np.isfinite(trained(picture, cohort(picture, (9, 13)), engine)).all(-1).any()


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("label", [4, -1, 2**40])
def test_a_label_out_of_range_names_the_device(label: int, table: bool) -> None:
    some = task()
    shards = cohort(some)
    shards.y[shards.bounds[2, 0]] = label
    with pytest.raises(DataError, match=r"d2: y has the label .*, the model has 4 outputs"):
        trained(some, shards if table else list(shards), "kernels", threads=2)


@pytest.mark.parametrize("table", [True, False])
def test_samples_of_another_shape_name_the_device(table: bool) -> None:
    some = task()
    wrong = cohort(task(ft.mlp(5, 4)))
    with pytest.raises(DataError, match=r"d0: X has samples of shape \(5,\), the model takes \(6,\)"):
        compiled.descent(some, 0.0, 1)(
            some.model.init(7),
            None,
            wrong if table else list(wrong),
            keys(4),
            [1.0] * 4,
            np.empty((4, some.model.layout.dim), np.float32),
        )


@pytest.mark.parametrize("model", [MLP, *LAYERS.values()])
def test_outputs(model: ft.Sequential) -> None:
    some = task(model)
    judged = scoring(model, LOSSES[some.loss])
    rng = np.random.default_rng(4)
    X = rng.standard_normal((3, 35, *model.input), np.float32)
    row = model.init(7)
    rows = row + 0.01 * rng.standard_normal((3, len(row)), np.float32)
    for theta in (row, rows):
        wanted, _ = forward(judged, judged.split(theta[None] if theta.ndim == 1 else theta), X)
        for threads in (1, 2):
            give = compiled.outputs(some, threads)
            out = give(theta, X)
            np.testing.assert_allclose(out, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
            # A sample's outputs do not depend on its company.
            assert (give(theta, X[:, 7:10]) == out[:, 7:10]).all()
            assert give(theta, X[:, :0]).shape == (3, 0, 4)
    wide, _ = forward(judged, judged.split(row[None].astype(np.float64)), X.astype(np.float64))
    assert (compiled.outputs(some, 1)(row.astype(np.float64), X) == wide).all()
    with pytest.raises(ValueError, match="the model takes"):
        compiled.outputs(some, 1)(row, X[..., :-1])


@pytest.mark.parametrize("loss", ["mse", "reconstruction"])
def test_transforms_in_front_and_units_behind_are_made_for_the_kernels(loss: str) -> None:
    """They have neither, and train what lies between: the same as NumPy to float tolerance."""
    front = ft.log1p((1,)), ft.cyclic(2, 24), ft.one_hot(0, 3)
    behind = (ft.dense(3),) if loss == "reconstruction" else (ft.dense(1), ft.rescale([50], [20]))
    model = ft.sequential(3, *front, ft.standardise(np.zeros(6), np.full(6, 2)), ft.dense(4, "tanh"), *behind)
    if loss == "reconstruction":
        model = ft.sequential(6, ft.log1p((1,)), ft.standardise(np.ones(6), np.full(6, 2)), ft.dense(2), ft.dense(6))
    rng = np.random.default_rng(0)
    X = rng.uniform(0, 20, size=(30, *model.input)).astype("f4")
    y = (50 + 3 * X[:, 1]).astype("f4")
    shards = [Shard(X[i : i + 7], y[i : i + 7], X[i + 7 : i + 10], y[i + 7 : i + 10]) for i in (0, 10, 20)]
    spec = task(model, loss, lr=0.05)
    assert engines.choose(spec) == "kernels"
    found = []
    for engine in ("numpy", "kernels"):
        learner = trainer(spec, engine=engine)
        found.append(learner.many({"x": model.init(0)}, [None] * 3, shards, keys(3), [1.0] * 3)[0])
    np.testing.assert_allclose(found[1].report["x"], found[0].report["x"], rtol=1e-4, atol=1e-6)
    for name, sums in found[0].metrics.items():
        np.testing.assert_allclose(found[1].metrics[name], sums, rtol=1e-4)
