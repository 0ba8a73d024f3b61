"""The kernels against the NumPy engine: every layer, odd sizes, every loss, every optimiser they know."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import pytest

from fedthings.learn import compiled as engine
from fedthings.learn import model as ft
from fedthings.learn.data import Shard
from fedthings.learn.descent import descent, schedule
from fedthings.learn.layers import Dense
from fedthings.learn.losses import LOSSES, scoring, target
from fedthings.learn.task import Recipe, Task
from fedthings.vector import Array, Key

kernels = pytest.importorskip("fedthings_kernels")


def task(model: ft.Sequential, loss: str = "cross_entropy", **recipe: Any) -> Task:
    return Task(model=model, loss=loss, recipe=Recipe(**{"lr": 0.1, "batch": 4, "epochs": 2, **recipe}))


def shards(task: Task, sizes: Sequence[int], gaps: float = 0.0) -> list[Shard]:
    rng = np.random.default_rng(3)
    out = []
    for n in sizes:
        X = rng.standard_normal((n, *task.model.input)).astype(np.float32)
        X[rng.random(X.shape) < gaps] = np.nan
        outputs = prod(task.model.outputs)
        if task.loss == "cross_entropy":
            y: Array = rng.integers(0, outputs, n)
        elif task.loss == "binary_cross_entropy":
            y = rng.integers(0, 2, n).astype(np.float32)
        else:
            y = rng.standard_normal((n, outputs)).astype(np.float32)
        out.append(Shard(X, y, X[:0], y[:0]))
    return out


def keys(n: int) -> list[Key]:
    return [Key(5, f"d{i}", 2, 0) for i in range(n)]


def written(task: Task) -> Any:
    """Return the program of a task."""
    model = scoring(task.model, LOSSES[task.loss])
    layers = [engine.written(layer) for layer in model.layers]
    return kernels.Program(tuple(model.input), layers, task.loss)


def compiled(
    task: Task,
    received: Array,
    own: Array | None,
    some: Sequence[Shard],
    efforts: Sequence[float] | None = None,
    mu: float = 0.0,
    threads: int = 1,
    first: int = 0,
    program: Any = None,
) -> tuple[Array, Array]:
    """Return what the kernels change and saw; `own` is changed."""
    n, recipe, loss = len(some), task.recipe, LOSSES[task.loss]
    counts = np.array([len(s.X) for s in some], np.int64)
    _, _, done = schedule(recipe, counts, efforts or [1.0] * n)
    X = [np.ascontiguousarray(s.X) for s in some]
    y = [np.ascontiguousarray(target(task.model, loss, x[None], s.y[None])[0]) for x, s in zip(X, some, strict=True)]
    change = np.empty((n, received.shape[-1]), np.float32)
    seen = np.empty((n, 2), np.int64)
    kernels.train(
        program or written(task),
        np.array([x.ctypes.data for x in X], np.uint64),
        np.array([t.ctypes.data for t in y], np.uint64),
        counts,
        received,
        start=own,
        keys=np.array([key.word("shuffle") for key in keys(first + n)[first:]], np.uint64),
        steps=done,
        batch=recipe.batch,
        epochs=recipe.epochs,
        lr=recipe.lr,
        momentum=recipe.momentum if recipe.optimizer == "momentum" else -1.0,
        decay=recipe.weight_decay,
        mu=mu,
        change=change,
        seen=seen,
        threads=threads,
    )
    return change, seen


def same(
    task: Task,
    sizes: Sequence[int] = (11, 4, 7),
    gaps: float = 0.0,
    mu: float = 0.0,
    efforts: Any = None,
    tolerance: float = 2e-4,
) -> None:
    """Assert that both engines change the model alike, from a shared row and from rows of each device's own."""
    some = shards(task, sizes, gaps)
    n = len(some)
    start = task.model.init(7)
    start += 0.01 * np.random.default_rng(8).standard_normal(len(start)).astype(np.float32)
    rows = start + 0.01 * np.random.default_rng(9).standard_normal((n, len(start))).astype(np.float32)
    own = rows + 0.01 * np.random.default_rng(10).standard_normal(rows.shape).astype(np.float32)
    assert written(task).dim == task.model.layout.dim
    for received, mine in ((start, None), (rows, None), (rows, own)):
        a, b = (None, None) if mine is None else (mine.copy(), mine.copy())
        wanted = np.empty((n, len(start)), np.float32)
        saw = descent(task, mu)(received, a, some, keys(n), efforts or [1.0] * n, wanted)
        change, seen = compiled(task, received, b, some, efforts, mu)
        np.testing.assert_allclose(change, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
        assert (seen[:, 0] == saw[:, 0]).all()
        np.testing.assert_allclose(seen[:, 1], saw[:, 1], rtol=1e-4, atol=50)
        if a is not None and b is not None:
            np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * np.abs(a).max())


@pytest.mark.parametrize("units", [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 48, 50])
@pytest.mark.parametrize("inputs", [1, 5, 16, 29])
def test_dense(inputs: int, units: int) -> None:
    same(task(ft.mlp(inputs, units, 3)))


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 5, 6, 10, 13, 14, 15, 20, 28, 29, 32])
def test_batches(batch: int) -> None:
    same(task(ft.mlp(9, 40, 5), batch=batch), (33, 1, 20))


@pytest.mark.parametrize("activation", ["linear", "relu", "tanh", "sigmoid", "softmax"])
def test_activations(activation: str) -> None:
    same(task(ft.sequential(6, ft.dense(19, activation), ft.dense(4))))
    alone = {"relu": ft.relu, "tanh": ft.tanh, "sigmoid": ft.sigmoid, "softmax": ft.softmax}
    if activation in alone:
        same(task(ft.sequential(6, alone[activation](), ft.dense(19), alone[activation](), ft.dense(4))))
        picture = ft.sequential((5, 4, 3), ft.conv2d(5, 3), alone[activation](), ft.flatten(), ft.dense(4))
        same(task(picture))
    signal = ft.sequential((9, 3), ft.conv1d(5, 3, 1, "same", activation), ft.max_pool(2), ft.flatten(), ft.dense(4))
    same(task(signal))


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "mae", "huber", "reconstruction"])
@pytest.mark.parametrize("outputs", [5, 16, 37])
def test_losses(loss: str, outputs: int) -> None:
    inputs = outputs if loss == "reconstruction" else 5
    same(task(ft.mlp(inputs, 11, outputs), loss))


def test_losses_with_an_activation_last() -> None:
    same(task(ft.sequential(5, ft.dense(4), ft.softmax())))
    same(task(ft.sequential(5, ft.dense(4, "softmax"))))
    same(task(ft.sequential(5, ft.dense(1, "sigmoid")), "binary_cross_entropy"))
    same(task(ft.mlp(5, 9, 1), "binary_cross_entropy"))
    same(task(ft.sequential(5, ft.dense(4, "tanh")), "mse"))


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_convolutions(kernel: int, stride: int, padding: Any) -> None:
    """Two in a row, so that slopes go back through the second; sizes that nothing divides."""
    signal = ft.sequential(
        (25, 3),
        ft.conv1d(6, kernel, stride, padding, "relu"),
        ft.conv1d(17, 2, stride, padding),
        ft.flatten(),
        ft.dense(3),
    )
    same(task(signal))
    picture = ft.sequential(
        (11, 13, 2),
        ft.conv2d(5, 2, 1, padding, "relu"),
        ft.conv2d(7, kernel, stride, padding, "tanh"),
        ft.flatten(),
        ft.dense(3),
    )
    same(task(picture), (5, 3))


@pytest.mark.parametrize("filters", [16, 32, 48])
@pytest.mark.parametrize(
    "pool", [ft.max_pool(2), ft.avg_pool(2), ft.max_pool(3, 2), ft.max_pool(2, 3), ft.avg_pool(3, 1)]
)
def test_pools(filters: int, pool: Any) -> None:
    for curve in ("relu", "linear", "tanh"):
        picture = ft.sequential(
            (9, 10, 3),
            ft.conv2d(filters, 3, 1, "same", curve),
            pool,
            ft.conv2d(20, 2, 1, "same", "relu"),
            pool,
            ft.flatten(),
            ft.dense(4),
        )
        same(task(picture, lr=0.02), (6, 3))
    signal = ft.sequential((17, 2), pool, ft.conv1d(filters, 3), pool, ft.flatten(), ft.dense(4))
    same(task(signal, lr=0.02))


def test_large_windows_and_filters() -> None:
    picture = ft.sequential(
        (18, 17, 40), ft.conv2d(50, 5, 1, "same", "relu"), ft.max_pool(17), ft.flatten(), ft.dense(70)
    )
    same(task(picture, lr=0.01, epochs=1), (3, 2))
    wide = ft.sequential(
        (33, 40), ft.conv1d(64, 7, 1, "same"), ft.layer_norm(), ft.conv1d(35, 9, 2, "same"), ft.flatten(), ft.dense(2)
    )
    same(task(wide, lr=0.01, epochs=1), (5, 2))


def test_layer_norm() -> None:
    same(task(ft.sequential(7, ft.layer_norm(), ft.dense(18), ft.layer_norm(), ft.dense(3))))
    same(
        task(
            ft.sequential((6, 5, 3), ft.layer_norm(), ft.conv2d(18, 2), ft.layer_norm(1e-3), ft.flatten(), ft.dense(3))
        )
    )


def test_outputs_with_axes() -> None:
    same(task(ft.sequential((8, 3), ft.conv1d(6, 3, 1, "same", "relu"), ft.conv1d(3, 3, 1, "same")), "reconstruction"))
    same(task(ft.sequential((4, 5, 2), ft.conv2d(3, 2, 2)), "mse"))


def test_scaling_and_gaps() -> None:
    rng = np.random.default_rng(0)
    for shape, rest in (
        ((6,), [ft.dense(8, "relu"), ft.dense(3)]),
        ((7, 3), [ft.conv1d(4, 3, 1, "same"), ft.flatten(), ft.dense(3)]),
    ):
        arrays = rng.standard_normal(shape), rng.random(shape) + 0.5, rng.standard_normal(shape)
        same(task(ft.sequential(shape, ft.standardise(*arrays), *rest)), gaps=0.2)
        same(task(ft.sequential(shape, ft.impute(0.5), ft.standardise(*arrays), *rest)), gaps=0.2)
    same(task(ft.sequential(6, ft.standardise(*rng.random((2, 6))), ft.dense(6)), "reconstruction"), gaps=0.2)
    same(task(ft.sequential(6, ft.dense(6), ft.standardise(*rng.random((2, 6)) + 0.5), ft.impute(), ft.dense(2))))


@pytest.mark.parametrize("optimiser", [{}, {"optimizer": "momentum"}, {"optimizer": "momentum", "momentum": 0.0}])
@pytest.mark.parametrize("decay", [0.0, 0.03])
@pytest.mark.parametrize("mu", [0.0, 0.2])
def test_optimisers(optimiser: dict[str, Any], decay: float, mu: float) -> None:
    same(task(ft.mlp(9, 20, 18, 5), weight_decay=decay, **optimiser), mu=mu)
    picture = ft.sequential(
        (6, 6, 2),
        ft.conv2d(9, 3, 1, "same", "relu"),
        ft.max_pool(2),
        ft.conv2d(5, 2),
        ft.layer_norm(),
        ft.flatten(),
        ft.dense(3),
    )
    same(task(picture, weight_decay=decay, **optimiser), mu=mu)


def test_partial_work() -> None:
    same(task(ft.mlp(9, 20, 5), epochs=3), (11, 11, 11, 3), efforts=[1.0, 0.5, 0.1, 0.4])


def dual(task: Task, n: int, effort: float = 1.0) -> bool:
    """Return whether a first layer is trained in dual form with n samples: the rule of train.cpp."""
    rows, columns = prod(task.model.input), next(layer.units for layer in task.model.layers if isinstance(layer, Dense))
    _, steps, done = schedule(task.recipe, np.array([n]), [effort])
    weights, epochs = rows * columns, done[0] / steps[0]
    fewer = 4 * weights + n * rows + 2 * epochs * n * columns < 4 * epochs * weights
    return bool(fewer and n * (n + 2 * columns + rows) <= max(2 * weights, 1 << 18))


@pytest.mark.parametrize("inputs", [32, 45, 256])
@pytest.mark.parametrize("activation", ["linear", "relu", "tanh", "softmax"])
def test_a_first_layer_in_dual_form(inputs: int, activation: str) -> None:
    """Inputs that are whole vectors, that are not, and that lie in one set of a cache."""
    t = task(ft.sequential(inputs, ft.dense(19, activation), ft.dense(7, "tanh"), ft.dense(4)), epochs=4)
    assert all(dual(t, n) for n in (17, 4, 1))
    same(t, (17, 4, 1))
    same(t, (17, 4, 1), mu=0.3)
    same(t, (17, 4, 20), efforts=[0.5, 1.0, 0.2])
    assert dual(t, 17, 0.5) and not dual(t, 20, 0.2)
    alone = task(ft.sequential(inputs, ft.dense(4, activation)), "mse", epochs=6)
    assert dual(alone, 9)
    same(alone, (9, 5))


def test_samples_that_are_prepared_in_dual_form() -> None:
    rng = np.random.default_rng(0)
    for shape in ((45,), (5, 9), (4, 4, 2)):
        flat = [ft.flatten()] if len(shape) > 1 else []
        arrays = rng.standard_normal(shape), rng.random(shape) + 0.5, rng.standard_normal(shape)
        for front in ([], [ft.standardise(*arrays)], [ft.impute(0.5), ft.standardise(*arrays)]):
            behind = [ft.dense(20, "relu"), ft.layer_norm(), ft.dense(3)]
            t = task(ft.sequential(shape, *front, *flat, *behind), epochs=5, batch=3)
            assert dual(t, 13) and dual(t, 2)
            same(t, (13, 2), gaps=0.2 if front else 0.0)
    t = task(ft.mlp(45, 20, 3), epochs=5, batch=0)
    assert dual(t, 13)
    same(t, (13, 2))


def test_more_samples_in_dual_form_than_a_product_takes_at_once() -> None:
    t = task(ft.mlp(300, 40, 3), epochs=6, batch=20, lr=0.01)
    assert dual(t, 230)
    same(t, (230,))


def test_one_arena_serves_devices_in_dual_form_and_others() -> None:
    """Larger and smaller ones, and one that diverges, by the same program: each is as if it were alone."""
    t = task(ft.mlp(45, 20, 3), epochs=4)
    some = shards(t, (17, 9, 4, 100, 30, 1, 12))
    assert [dual(t, len(shard.X)) for shard in some] == [True, True, True, False, True, True, True]
    some[4].X[:] = np.inf
    row, program = t.model.init(1), written(t)
    for chosen in ([1, 2], [0, 1, 2], [3], [3, 0, 4, 5], [4, 1], [6, 5, 3, 2]):
        together, _ = compiled(t, row, None, [some[i] for i in chosen], program=program)
        for i, change in zip(chosen, together, strict=True):
            place = chosen.index(i)
            alone, _ = compiled(t, row, None, [some[i]], first=place)
            np.testing.assert_array_equal(change, alone[0])
        assert np.isfinite(together).all() == (4 not in chosen)


def signal() -> ft.Sequential:
    return ft.sequential(
        (16, 3),
        ft.conv1d(10, 3, 1, "same", "relu"),
        ft.max_pool(2),
        ft.conv1d(20, 3, 1, "same", "tanh"),
        ft.flatten(),
        ft.dense(4),
    )


@pytest.mark.parametrize("model", [ft.mlp(9, 33, 5), ft.mlp(70, 33, 5), signal()])
@pytest.mark.parametrize("recipe", [{}, {"optimizer": "momentum", "weight_decay": 0.01}])
def test_threads_and_company_change_no_bit(model: ft.Sequential, recipe: dict[str, Any]) -> None:
    t = task(model, **recipe)
    some = shards(t, (11, 4, 7, 1, 9, 30, 2))
    row = t.model.init(1)
    whole, saw = compiled(t, row, None, some, mu=0.1)
    for threads in (2, 5, 50):
        for got, wanted in zip(compiled(t, row, None, some, mu=0.1, threads=threads), (whole, saw), strict=True):
            assert (got == wanted).all()
    for i, shard in enumerate(some):
        change, seen = compiled(t, row, None, [shard], mu=0.1, first=i)
        assert (change[0] == whole[i]).all() and (seen[0] == saw[i]).all()
    rows, _ = compiled(t, np.tile(row, (len(some), 1)), None, some, mu=0.1)
    assert (rows == whole).all()


@pytest.mark.parametrize("outputs", [3, 16])
def test_changes_that_the_caches_do_not_hold_are_the_same(outputs: int) -> None:
    """Rows of an odd length, so that they begin and end anywhere in a line of the cache."""
    t = task(ft.mlp(1000, 901, outputs), epochs=1)
    some = shards(t, [2] * 5)
    row = t.model.init(1)
    assert len(row) % 2 and 4 * len(row) < 1 << 22 < 5 * len(row)
    whole, _ = compiled(t, row, None, some, threads=2)
    for i, shard in enumerate(some):
        change, _ = compiled(t, row, None, [shard], first=i)
        assert (change[0] == whole[i]).all()


def test_one_that_diverges_leaves_the_others_alone() -> None:
    picture = ft.sequential(
        (8, 8, 3), ft.conv2d(5, 3, 1, "same", "tanh"), ft.max_pool(3), ft.conv2d(6, 2), ft.flatten(), ft.dense(3)
    )
    for model in (picture, ft.mlp(9, 33, 5)):
        t = task(model)
        some = shards(t, (11, 9, 7))
        some[1].X[:] = np.inf
        row = t.model.init(1)
        both, seen = compiled(t, row, None, some)
        alone, _ = compiled(t, row, None, some[2:], first=2)
        assert not np.isfinite(both[1]).all()
        assert (both[2] == alone[0]).all()
        assert 0 <= seen[1, 1] <= 2**52
