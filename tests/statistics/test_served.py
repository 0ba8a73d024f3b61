"""Statistics are the same simulated and served, behind gateways, behind masks, and after a kill (laws 2, 7 and 8)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedthings as ft
from fedthings.device.rules import Rules
from fedthings.errors import DataError, SpecError
from fedthings.federation import question
from fedthings.learn.data import Shard
from fedthings.simulation.audit import audit
from fedthings.statistics.statistic import DONE
from fedthings.transport.topics import COORDINATOR
from gateways import Tree
from secure import Secure, key_in
from virtual import Virtual

N = 6


def fleet() -> ft.Fleet:
    rng = np.random.default_rng(1)
    n = 40 * N
    X = (rng.normal(size=(n, 4)) * [1, 10, 0.1, 5] + [0, 100, -5, 3]).astype("f4")
    y = (X @ [1, 0.1, 3, 0.2] + rng.normal(size=n)).astype("f4")
    return ft.Fleet.from_arrays(X, y, np.arange(n) % N, split=np.arange(n) // N % 5 == 0)


def methods(**more: Any) -> dict[str, ft.Federation]:
    def asked(text: str) -> ft.Federation:
        return question(text, devices=N, patience=1e6, **more)

    def made(strategy: ft.Strategy, task: ft.Task) -> ft.Federation:
        return ft.Federation(task, strategy, ft.Pace(goal=N, patience=1e6), devices=N, **more)

    values = ft.Task(model=ft.mlp(4, 1), loss="mse", normalise="fleet")
    return {
        "moments": asked("variance(1)"),
        "quantiles": asked("quantiles(1, [.1, .5])"),
        "ridge": made(ft.ridge(0.5), values),
    }


def same(run: ft.Run, due: ft.Run) -> None:
    assert np.array_equal(run.row, due.row)
    assert run.summary.get("answer") == due.summary.get("answer")
    assert [line["metrics"] for line in run.history] == [line["metrics"] for line in due.history]
    assert run.summary["reason"] == due.summary["reason"] == DONE
    assert all(line["updates"] == N for line in run.history)


@pytest.mark.parametrize("name", methods())
def test_served_is_simulated(tmp_path: Path, name: str) -> None:
    spec = methods()[name]
    simulated = ft.simulate(spec, fleet(), 40)
    served = Virtual(spec, fleet(), 40, tmp_path).run()
    same(served, simulated)
    sizes = ("bytes_up", "bytes_down", "time")
    for line, other in zip(served.history, simulated.history, strict=True):
        assert {key: line[key] for key in sizes} == {key: other[key] for key in sizes}


@pytest.mark.parametrize("name", methods())
def test_behind_gateways_it_is_the_same(tmp_path: Path, name: str) -> None:
    spec = methods()[name]
    tree = Tree(spec, fleet(), 40, tmp_path, {"west": "", "east": ""}, settings={"count": 3})
    same(tree.run(), ft.simulate(spec, fleet(), 40))
    assert sum(gateway.merged for gateway in tree.gateways.values()) >= N


@pytest.mark.parametrize("name", methods())
def test_behind_masks_it_is_the_same(tmp_path: Path, name: str) -> None:
    spec = methods(secure=ft.two_servers(key_in(tmp_path / "helper")))[name]
    hidden = Secure(spec, fleet(), 40, tmp_path).run()
    same(hidden, ft.simulate(spec, fleet(), 40))
    plain = ft.simulate(methods()[name], fleet(), 40)
    assert np.array_equal(hidden.row, plain.row)
    assert hidden.summary.get("answer") == plain.summary.get("answer")


@pytest.mark.parametrize("name", methods())
def test_hidden_among_devices_it_is_the_same(tmp_path: Path, name: str) -> None:
    spec = methods(secure=ft.secagg())[name]
    hidden = Virtual(spec, fleet(), 40, tmp_path).run()
    same(hidden, ft.simulate(spec, fleet(), 40))
    same(hidden, ft.simulate(methods()[name], fleet(), 40))


@pytest.mark.parametrize("name", methods())
def test_the_coordinator_is_killed_and_the_answer_is_the_one_that_would_have_been(tmp_path: Path, name: str) -> None:
    spec, due = methods()[name], ft.simulate(methods()[name], fleet(), 40)
    world, steps, killed = Virtual(spec, fleet(), 40, tmp_path), 0, 0
    while not world.service.done:
        assert world.step()
        steps += 1
        if steps in (9, 20, 31) and not world.service.done:
            world.mail = type(world.mail)((to, arrival) for to, arrival in world.mail if to != COORDINATOR)
            world.agenda, killed = [], killed + 1
            world.serve()
            world.drain()
    assert killed
    same(world.result(), due)


def test_where_there_is_nothing_to_answer_it_ends_with_the_reason(tmp_path: Path) -> None:
    X = np.zeros((12, 2), "f4")
    X[:, 1] = np.nan
    things = ft.Fleet.from_arrays(X, X[:, 0], np.arange(12) % 3)
    world = Virtual(question("max(1)", devices=3), things, 1, tmp_path)
    run = world.run()
    assert run.summary["reason"] == "cancelled"
    assert world.service.failure == "no device has a value in 1: there is nothing to answer"
    again = Virtual(question("max(1)", devices=3), things, 1, tmp_path)
    assert again.service.done
    assert again.service.failure == world.service.failure
    again.service.close()


def test_an_audit_of_sums_is_refused() -> None:
    with pytest.raises(SpecError, match="an audit is of updates"):
        audit(methods()["ridge"], fleet(), 2)


def test_a_device_may_refuse_to_be_asked(tmp_path: Path) -> None:
    no = Rules(queries=False)
    world = Virtual(methods()["moments"], fleet(), 1, tmp_path, rules={"device-2": no})
    run = world.run()
    assert run.summary["answer"]["devices"] == N - 1
    assert run.history[0]["dropped"] == {"owner: no queries": 1}


def test_a_column_that_no_device_has_is_told_with_those_there_are(tmp_path: Path) -> None:
    from fedthings.commands.query import unanswerable

    world = Virtual(question("mean(humidity)", devices=N), fleet(), 1, tmp_path)
    with pytest.raises(DataError, match="6 said: no column 'humidity': there are 0, 1, 2, 3, y"):
        while world.step():
            unanswerable(world.service)


def test_devices_with_other_columns_answer_for_those_they_have(tmp_path: Path) -> None:
    class Other(Virtual):
        def join(self, name: str, every: float = 0.0):
            agent = super().join(name, every)
            names = ("a", "b", "c", "d") if name != "device-3" else ("a", "c", "x", "y2")
            X, y, test_X, test_y = agent.shard[:4]
            agent.shard = Shard(X, y, test_X, test_y, (*names, "y"))
            return agent

    world = Other(question("mean(c)", devices=N), fleet(), 1, tmp_path)
    answer = world.run().summary["answer"]
    X = [np.concatenate(fleet().shard(name)[0:3:2]) for name in fleet().names]
    column = [part[:, 1 if i == 3 else 2] for i, part in enumerate(X)]
    assert answer["value"] == pytest.approx(np.concatenate(column).astype("f8").mean())
