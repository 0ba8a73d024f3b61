"""What holds of every method: a cohort is its devices (law 3); what is refused when it is built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fedthings.errors import SpecError
from fedthings.federation import phases
from fedthings.learn.data import Shard
from fedthings.learn.digits import digits
from fedthings.phase import learner
from fedthings.vector import Key, keyed
from ways import DEVICES, METHODS, TASK, federation

NAMES = [name for name, strategy in METHODS.items() if strategy.method.name != "average"]


def shards(n: int) -> list[Shard]:
    rng = keyed("cohort", n)
    sizes = rng.integers(1, 60, n)
    return [
        Shard(rng.normal(0, 1, (k, 64)).astype("f4"), rng.integers(0, 10, k), np.zeros((3, 64), "f4"), np.arange(3))
        for k in sizes
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 7, 20])
def test_a_cohort_is_its_devices(name: str, n: int) -> None:
    """Twice, so that the second time each begins with what it kept."""
    (train, closing), devices = phases(federation(METHODS[name])), shards(n)
    row = TASK.model.init(1)
    beside = METHODS[name].begun(row, lambda i: TASK.model.init(i))
    models = {"x": row, **{part: beside[part] for part in METHODS[name].method.sends(len(row))}}
    efforts = np.linspace(0.1, 1, n).tolist()
    together = alone = [None] * n
    for phase in (train, train, closing):
        ours = learner(phase)
        keys = [Key(3, str(i), 1, 0) for i in range(n)]
        fit, together = ours.many(models, together, devices, keys, efforts)
        ones = [ours.one(models, *each) for each in zip(alone, devices, keys, efforts, strict=True)]
        alone = [state for _, state in ones]
        for array, rows in fit.report.items():
            np.testing.assert_array_equal(rows, np.stack([one.report[array] for one, _ in ones]))
        for metric, sums in fit.metrics.items():
            np.testing.assert_array_equal(sums, np.stack([one.metrics[metric] for one, _ in ones]))
        np.testing.assert_equal(list(together), alone)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: federation(ft.scaffold(4)), "strategy.method.devices is 4 in scaffold, below pace.goal 8"),
        (lambda: federation(ft.Strategy(method=ft.scaffold(8).method)), 'strategy.weight is "samples" beside'),
        (
            lambda: federation(ft.Strategy(weight="equal", mu=0.1, method=ft.feddyn(8).method)),
            "strategy.mu is",
        ),
        (lambda: ft.qffl(11.0), "strategy.method.q is 11.0: it must be from 0 to 10"),
        (lambda: ft.feddyn(8, 0.0), "strategy.method.alpha is 0.0: it must be above 0"),
        (lambda: ft.ifca(1), "strategy.method.models is 1: it must be from 2 to 64"),
        (lambda: ft.Federation(_adam(), ft.fednova()), 'task.recipe.optimizer is "adam" beside nova'),
        (lambda: ft.Federation(_adam(), ft.scaffold(99)), 'task.recipe.optimizer is "adam" beside scaffold'),
        (lambda: ft.Federation(TASK, ft.fednova(), edge=ft.Edge(rounds=2)), "edge is set beside strategy.method nova"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_built(build, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        build()


def _adam() -> ft.Task:
    return ft.Task(model=TASK.model, loss=TASK.loss, recipe=ft.Recipe(optimizer="adam", lr=0.01))


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_numpy_does_the_steps_where_gradients_are_corrected(name: str) -> None:
    spec, things = federation(METHODS[name]), digits(DEVICES, 0)
    assert ft.simulate(spec, things, 1).summary["engine"]["trains"] == "numpy"
    with pytest.raises(SpecError, match='engine is "kernels", and they correct no gradients'):
        ft.simulate(spec, things, 1, engine="kernels")


@pytest.mark.parametrize("name", ["scaffold", "feddyn", "ditto", "ifca"])
def test_a_simulation_that_was_left_goes_on_with_what_server_and_devices_had(name: str, tmp_path: Path) -> None:
    spec, things = federation(METHODS[name]), digits(DEVICES, 0)

    def leave(line: Mapping[str, object]) -> None:
        if line["version"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ft.simulate(spec, things, 5, out=tmp_path, on_version=leave)
    left, whole = ft.simulate(spec, things, 5, out=tmp_path), ft.simulate(spec, things, 5)
    assert np.array_equal(left.row, whole.row)
    assert left.history == whole.history
