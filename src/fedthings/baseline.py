"""What a federated model is held against: each device alone, a copy tuned on the device, all data in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from fedthings.errors import SpecError
from fedthings.history import worst
from fedthings.learn.data import Shard
from fedthings.learn.local import evaluator, trainer
from fedthings.learn.metrics import measured, values
from fedthings.learn.model import Sequential
from fedthings.learn.series import Window
from fedthings.learn.task import Recipe, Task
from fedthings.vector import Array, Key

if TYPE_CHECKING:
    from fedthings.learn.fleet import Fleet
    from fedthings.run import Run


class Measured(NamedTuple):
    """Each metric over all test samples of the fleet, and the mean of the worst tenth of its devices."""

    metrics: dict[str, float]
    worst_decile: dict[str, float]


def baselines(
    run: Run,
    fleet: Fleet,
    alone: Recipe,
    personal: Recipe,
    pooled: Recipe,
    test: tuple[Array, Array] | None = None,
) -> dict[str, Measured]:
    """Return what four ways to train the model of `run` give on each device's own test samples, or each on `test`.

    "local only": each device alone, by `alone` from the first model; "federated": the model of `run`; "federated +
    personal": a copy of it that each device goes on to train by `personal`; "centralised": one model of all the data
    in one place, by `pooled`. All have the scaling of `run`. Raises SpecError for a model that is Python code, and for
    one of which layers stay on the devices.
    """
    if not isinstance(run.model, Sequential):
        raise SpecError("baselines are of a portable model, and the run's is Python code: train those by hand")
    task, seed = run.federation.task, run.federation.seed
    if task.local:
        raise SpecError(
            f"baselines are of a model that is whole, and of the run's {', '.join(task.local)} stays on each device "
            "(task.local): its history has what each device's own model measures"
        )
    window = task.window
    task = msgspec.structs.replace(task, model=run.model, normalise="none", window=Window())
    shards = [window.shard(rows) for rows in fleet.cohort(fleet.names, [0.0] * len(fleet))]
    keys = [Key(seed, name, 0, 0) for name in fleet.names]
    if test is not None:
        shards = [shard._replace(test_X=test[0], test_y=test[1]) for shard in shards]
    first = run.model.init(seed)
    everything = Shard(
        np.concatenate([shard.X for shard in shards]),
        np.concatenate([shard.y for shard in shards]),
        shards[0].X[:0],
        shards[0].y[:0],
    )
    rows = {
        "local only": _trained(task, alone, first, shards, keys),
        "federated": run.row,
        "federated + personal": _trained(task, personal, run.row, shards, keys),
        "centralised": _trained(task, pooled, first, [everything], [Key(seed, "pooled", 0, 0)])[0],
    }
    return {name: _measured(task, row, shards, keys) for name, row in rows.items()}


def _trained(task: Task, recipe: Recipe, row: Array, shards: Sequence[Shard], keys: Sequence[Key]) -> Array:
    """Return the rows `(n, dim)` that training by `recipe` makes of `row` `(dim,)`."""
    learner = trainer(msgspec.structs.replace(task, recipe=recipe), silent=True)
    fit, _ = learner.many({"x": row}, [None] * len(shards), shards, keys, [1.0] * len(shards))
    return np.asarray(row + fit.report["x"])


def _measured(task: Task, rows: Array, shards: Sequence[Shard], keys: Sequence[Key]) -> Measured:
    n = len(shards)
    fit, _ = evaluator(task).many({"x": rows}, [None] * n, shards, keys, [1.0] * n)
    each = [values(task, {name: sums[i] for name, sums in fit.metrics.items()}) for i in range(n)]
    of_all = values(task, {name: sums.sum(0) for name, sums in fit.metrics.items()})
    better = {name: metric.better for name, metric in measured(task).items()}
    return Measured(of_all, {name: worst([one[name] for one in each if name in one], better[name]) for name in of_all})
