"""What a device does with a model, by cases small enough for paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedthings.learn import to_torch
from fedthings.learn.data import Shard
from fedthings.learn.descent import runs
from fedthings.learn.engines import outputs
from fedthings.learn.local import costs, evaluator, trainer
from fedthings.learn.metrics import ONE
from fedthings.learn.model import dense, dropout, flatten, impute, mlp, rescale, sequential, softmax
from fedthings.learn.shuffle import orders
from fedthings.learn.task import Recipe, Task
from fedthings.vector import Key

KEY = Key(1, "a", 2, 0)
LINE = mlp(1, 1)  # y = w x + b


def order(key: Key, epoch: int, n: int) -> np.ndarray:
    return orders(np.array([key.word("shuffle")], np.uint64), epoch, n)[0]


def line(X: list[float], y: list[float], test: tuple[list[float], list[float]] = ([], [])) -> Shard:
    column = [np.array(values, "f4").reshape(-1, 1) for values in (X, test[0])]
    return Shard(column[0], np.array(y, "f4"), column[1], np.array(test[1], "f4"))


def go(shard: Shard, mu: float = 0.0, effort: float = 1.0, state: object = None, start: object = (0, 0), **recipe):  # type: ignore[no-untyped-def]
    task = Task(model=LINE, loss="mse", recipe=Recipe(**{"lr": 0.1, "batch": 0} | recipe))
    return trainer(task, mu).one({"x": np.array(start, "f8")}, state, shard, KEY, effort)


def test_one_step_of_a_line() -> None:
    # Costs (0 - 2)^2 and (0 - 6)^2; slope by w: (2*-2*1 + 2*-6*2) / 2 = -14, by b: (2*-2 + 2*-6) / 2 = -8.
    fit, state = go(line([1, 2], [2, 6], ([3], [4])))
    np.testing.assert_allclose(fit.report["x"], [1.4, 0.8])
    assert state is None
    assert fit.weight.shape == () and fit.weight.dtype == np.int64 and fit.weight == 2
    assert fit.metrics["train"].tolist() == [2, 40 * ONE]
    # The model received, 0 x + 0, on the test sample: cost 16, distance 4.
    assert fit.metrics["loss"].tolist() == fit.metrics["rmse"].tolist() == [1, 16 * ONE]
    assert fit.metrics["mae"].tolist() == [1, 4 * ONE]


def test_the_proximal_term_pulls_to_the_model_received() -> None:
    # Second step at w = 1.4, b = 0.8: outputs 2.2 and 3.6; d = 0.2, -2.4; slopes -4.6 and -2.2; and mu times the way.
    fit, _ = go(line([1, 2], [2, 6]), epochs=2)
    np.testing.assert_allclose(fit.report["x"], [1.4 + 0.46, 0.8 + 0.22])
    pulled, _ = go(line([1, 2], [2, 6]), mu=0.5, epochs=2)
    np.testing.assert_allclose(pulled.report["x"], [1.86 - 0.1 * 0.5 * 1.4, 1.02 - 0.1 * 0.5 * 0.8])


def test_keep_starts_from_both_models_and_the_pull_stays_at_the_one_received() -> None:
    fit, state = go(line([1, 2], [2, 6]), keep=0.25, lr=1e-12)
    assert state["x"] == pytest.approx([0, 0], abs=1e-9)
    own = {"x": np.array([4.0, -8.0])}
    fit, state = go(line([1, 2], [2, 6]), keep=0.25, state=own, start=(2, 0), lr=1e-12)
    np.testing.assert_allclose(fit.report["x"], [0.25 * 4 + 0.75 * 2 - 2, -2], atol=1e-9)
    np.testing.assert_allclose(state["x"], [2.5, -2], atol=1e-9)
    far, _ = go(line([0], [0]), keep=0.25, state=own, start=(2, 0), lr=0.1, mu=1.0)
    # Starts at (2.5, -2): slope of the cost (0, -4), of the pull (0.5, -2).
    np.testing.assert_allclose(far.report["x"], [0.5 - 0.05, -2 + 0.4 + 0.2])
    np.testing.assert_array_equal(own["x"], [4, -8])  # a state that may roll back is not written to


@pytest.mark.parametrize(
    ("effort", "seen"), [(1.0, 30), (0.5, 16), (0.34, 13), (1 / 3, 10), (0.25, 9), (0.1, 6), (0.01, 3)]
)
def test_effort_is_a_share_of_the_local_steps(effort: float, seen: int) -> None:
    # 10 samples in batches 3, 3, 3, 1: 4 steps an epoch, 12 in all, and the last one of an epoch is partial.
    fit, _ = go(line(list(range(10)), [0] * 10), effort=effort, batch=3, epochs=3, lr=1e-9)
    assert fit.metrics["train"][0] == seen
    assert fit.weight == 10  # the weight is that of the data, not of the work


def test_effort_does_not_round_up_for_a_rounding_error() -> None:
    fit, _ = go(line(list(range(30)), [0] * 30), effort=0.1, batch=1)  # 0.1 * 30 is 3.0000000000000004
    assert fit.metrics["train"][0] == 3


def test_each_epoch_has_an_order_of_its_own_by_key() -> None:
    # A batch of one and a small rate: every sample's own cost is seen once an epoch, whatever the order.
    shard = line([1, 2, 3, 4], [1, 5, 2, 7])
    first, _ = go(shard, batch=1, lr=0.01)
    again, _ = go(shard, batch=1, lr=0.01)
    np.testing.assert_array_equal(first.report["x"], again.report["x"])
    theta = np.zeros(2)
    for i in order(KEY, 0, 4):
        x, y = shard.X[i, 0], shard.y[i]
        theta -= 0.01 * 2 * (theta @ [x, 1] - y) * np.array([x, 1])
    np.testing.assert_allclose(first.report["x"], theta)
    task = Task(model=LINE, loss="mse", recipe=Recipe(lr=0.01, batch=1))
    other, _ = trainer(task).one({"x": np.zeros(2)}, None, shard, KEY._replace(attempt=1), 1.0)
    assert (other.report["x"] != first.report["x"]).any()


def test_training_is_that_of_pytorch_on_the_same_batches() -> None:
    model = sequential((4, 3), flatten(), dense(8, "relu"), dense(5), softmax())
    rng = np.random.default_rng(0)
    shard = Shard(rng.normal(size=(23, 4, 3)).astype("f4"), rng.integers(0, 5, 23), np.zeros((0, 4, 3)), np.zeros(0))
    recipe = Recipe(optimizer="momentum", lr=0.05, batch=5, epochs=2, weight_decay=0.01)
    row = model.init(1)
    fit, _ = trainer(Task(model=model, loss="cross_entropy", recipe=recipe)).one({"x": row}, None, shard, KEY, 1.0)

    theirs = to_torch.module(sequential((4, 3), *model.layers[:3]), row)
    optimizer = torch.optim.SGD(theirs.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
    total = 0.0
    for epoch in range(2):
        mixed = order(KEY, epoch, 23)
        for batch in (mixed[i : i + 5] for i in range(0, 23, 5)):
            optimizer.zero_grad()
            y = torch.from_numpy(shard.y[batch])
            cost = torch.nn.functional.cross_entropy(theirs(torch.from_numpy(shard.X[batch])), y)
            cost.backward()
            optimizer.step()
            total += cost.item() * len(batch)
    np.testing.assert_allclose(row + fit.report["x"], to_torch.row(theirs), rtol=1e-4, atol=1e-5)
    assert fit.report["x"].dtype == np.float32
    assert fit.metrics["train"][0] == 46
    assert fit.metrics["train"][1] / ONE == pytest.approx(total, rel=1e-4)


def test_dropout_is_keyed_by_epoch_step_and_layer() -> None:
    model = sequential(1, dense(1), dropout(0.5))
    task = Task(model=model, loss="mse", recipe=Recipe(lr=0.1, batch=2))
    shard = line([1, 2], [2, 6])
    fit, _ = trainer(task).one({"x": np.zeros(2)}, None, shard, KEY, 1.0)
    mask = 2 * (KEY.rng("dropout/0/0/1").random((2, 1), np.float32) >= 0.5)[:, 0]
    slope = 2 * -shard.y * mask / 2
    np.testing.assert_allclose(fit.report["x"], [-0.1 * slope @ shard.X[:, 0], -0.1 * slope.sum()], atol=1e-12)


def test_gaps_are_filled_once_for_all_epochs() -> None:
    gaps = sequential(2, impute(3.0), dense(1))
    task = Task(model=gaps, loss="mse", recipe=Recipe(batch=2, epochs=2))
    X = np.array([[1, np.nan], [np.nan, 2], [0, 1]], "f4")
    filled = np.nan_to_num(X, nan=3)
    fits = [
        trainer(task).one({"x": np.zeros(3, "f4")}, None, Shard(x, np.ones(3), x, np.ones(3)), KEY, 1.0)[0]
        for x in (X, filled)
    ]
    np.testing.assert_array_equal(fits[0].report["x"], fits[1].report["x"])
    assert fits[0].metrics["loss"].tolist() == fits[1].metrics["loss"].tolist() == [3, 3 * ONE]


def test_without_test_samples_zeros_are_sent_and_weights_can_be_equal() -> None:
    task = Task(model=LINE, loss="mse")
    shards = [line([1, 2], [1, 2]), line([1], [1]), line([1, 2, 3], [1, 2, 3], ([1, 2], [0, 0]))]
    model, keys = {"x": np.ones(2, "f4")}, [KEY._replace(device=name) for name in "abc"]
    fit, _ = trainer(task, weight="equal").many(model, [None] * 3, shards, keys, [1.0] * 3)
    assert fit.weight.tolist() == [1, 1, 1]
    assert fit.metrics["loss"].tolist() == [[0, 0], [0, 0], [2, (4 + 9) * ONE]]
    only, states = evaluator(task).many(model, [None] * 3, shards, keys, [1.0] * 3)
    assert only.report == {} and only.weight.tolist() == [1, 1, 1] and states == [None] * 3
    assert "train" not in only.metrics
    for name, sums in only.metrics.items():
        np.testing.assert_array_equal(sums, fit.metrics[name])


def test_a_model_that_diverges_passes_on_without_warnings() -> None:
    task = Task(model=mlp(1, 4, 1), loss="mse", recipe=Recipe(lr=1e30, epochs=20, batch=1))
    shard = line([1, 2, 3], [1e10, 2, 3], ([1e20], [1]))
    fit, _ = trainer(task).one({"x": task.model.init(0)}, None, shard, KEY, 1.0)
    assert not np.isfinite(fit.report["x"]).all()
    assert fit.metrics["train"][1] == 2**52


def test_runs() -> None:
    def found(*sizes: int) -> list[tuple[int, int, int]]:
        return list(runs(np.array(sizes)))

    assert found(5, 5, 3, 0, 0, 5) == [(0, 2, 5), (2, 3, 3), (5, 6, 5)]
    assert found(4) == [(0, 1, 4)]
    assert found(0, 0) == []


def test_a_device_without_samples_changes_nothing_and_weighs_nothing() -> None:
    task = Task(model=LINE, loss="mse")
    shards, keys = [line([], []), line([1], [1])], [KEY, KEY._replace(device="b")]
    fit, _ = trainer(task, weight="equal").many({"x": np.zeros(2)}, [None] * 2, shards, keys, [1.0] * 2)
    assert fit.weight.tolist() == [0, 1]
    assert fit.metrics["train"][0].tolist() == [0, 0]
    assert not fit.report["x"][0].any() and fit.report["x"][1].all()
    alone, _ = trainer(task).one({"x": np.zeros(2)}, None, shards[0], KEY, 1.0)
    assert alone.weight == 0


def test_what_a_model_costs_is_of_targets_scaled_as_in_training() -> None:
    task = Task(model=sequential(1, dense(1), rescale([100], [50])), loss="mse")
    shard, give = line([1, 2], [150, 200]), outputs(task, "numpy", 1)
    assert costs(task, give, np.array([1.0, 0.0]), [shard]).tolist() == [0]  # 100 + 50 x
    row = np.array([0.0, 1.0])  # scaled targets are 1 and 2, it says 1
    fit, _ = trainer(task).one({"x": row}, None, shard, KEY, 1.0)
    assert costs(task, give, row, [shard]).tolist() == [0.5]
    assert fit.metrics["train"].tolist() == [2, ONE]
