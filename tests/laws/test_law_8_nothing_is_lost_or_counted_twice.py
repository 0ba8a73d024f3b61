"""Law 8: whatever is killed, at whatever point, the model is the one that would have been."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import fedthings as ft
from fate import Fate, Killed
from fedthings.server import service
from fedthings.server.service import JOURNALED
from fedthings.server.status import status
from fedthings.simulation.world import Steady, Uneven, World
from fedthings.transport.topics import COORDINATOR
from fedthings.vector import keyed
from virtual import NAME, Virtual

ROUNDS, POINTS = 5, 4
SLOW = Uneven(median=2.0, spread=1.0, lost=0.1, seed=3)


def fleet(devices: int = 4) -> ft.Fleet:
    rng = keyed("law 8")
    X = rng.normal(0, 1, (120, 4)).astype(np.float32)
    y = (X.sum(1) > 0).astype(np.int64)
    return ft.Fleet.from_arrays(X, y, np.arange(120) % devices, split=np.arange(120) % 5 == 0)


class Case(NamedTuple):
    """What is disturbed: when versions are made, the world, and what else a federation says."""

    pace: ft.Pace
    world: World = SLOW
    settings: Mapping[str, Any] = {}
    devices: int = 6

    def federation(self) -> ft.Federation:
        settings = {"strategy": ft.fedavgm(), **self.settings}
        recipe = ft.Recipe(lr=0.1, batch=8, **settings.pop("recipe", {"keep": 0.25}))
        task = ft.Task(model=ft.mlp(4, 5, 2), loss="cross_entropy", normalise="fleet", recipe=recipe)
        return ft.Federation(task, pace=self.pace, seed=2, devices=self.devices, **settings)


SYNCHRONOUS = Case(ft.Pace(goal=4, patience=1e6), Steady(), devices=4)
CASES = {
    "FedBuff": Case(ft.Pace(goal=3, concurrency=5, patience=20.0, staleness=4), settings={"strategy": ft.fedbuff()}),
    "FedAsync": Case(
        ft.Pace(goal=1, concurrency=4, patience=20.0, staleness=6),
        settings={"strategy": ft.fedasync(0.6, ft.polynomial(0.5))},
    ),
    "over-selected": Case(ft.Pace(goal=3, concurrency=5, patience=5.0, quorum=2)),
    "semi-synchronous": Case(
        ft.Pace(goal=6, concurrency=4, patience=20.0, staleness=4, period=3.0, quorum=2),
        settings={"strategy": ft.fedbuff()},
    ),
    "capped, sitting out": Case(ft.Pace(goal=2, concurrency=3, patience=8.0, quorum=1, separation=1, cap=4)),
    "forecast, own deadlines": Case(
        ft.Pace(goal=2, concurrency=3, patience=20.0, staleness=2, slack=1.5, selection=ft.forecast())
    ),
    "sleepers": Case(
        ft.Pace(goal=2, concurrency=3, patience=300.0, staleness=3),
        ft.Things(
            (ft.Group(device="pi4", link="wifi", available=ft.duty_cycle(awake=5, every=60), leaving="sleep"),), seed=2
        ),
    ),
    "error feedback, int8 down": Case(
        ft.Pace(goal=3, concurrency=5, patience=20.0, staleness=4),
        settings={
            "strategy": ft.fedbuff(),
            "stages": (ft.top_k(0.3), ft.int8(8)),
            "down": ft.int8(8),
            "recipe": {},
        },
    ),
    "control variates": Case(
        ft.Pace(goal=3, concurrency=5, patience=5.0, quorum=2), settings={"strategy": ft.scaffold(6), "recipe": {}}
    ),
    "several models": Case(
        ft.Pace(goal=3, concurrency=5, patience=20.0, staleness=4), settings={"strategy": ft.ifca(2), "recipe": {}}
    ),
    "down by differences": Case(ft.Pace(goal=4, patience=1e6), Steady(), {"down": ft.delta(6, 16)}, devices=4),
    "a part of the work": Case(
        ft.Pace(goal=3, concurrency=5, patience=3.0, quorum=2), settings={"strategy": ft.fedprox(0.1)}
    ),
}


def disturbed(directory: Path, fate: Fate, case: Case = SYNCHRONOUS, together: int = 1) -> tuple[Virtual, str]:
    """Run to the end; whoever is killed starts again with its directory."""
    killed = ""
    try:
        world = Virtual(case.federation(), fleet(case.devices), ROUNDS, directory, case.world)
    except Killed:  # when it had hardly begun
        killed = COORDINATOR
        world = Virtual(case.federation(), fleet(case.devices), ROUNDS, directory, case.world)
    world.together = together
    while not world.service.done:
        try:
            if not world.step():
                raise AssertionError(f"stuck after {killed!r} was killed: {status(world.service, world.now)}")
        except Killed as death:
            killed = victim(death, world)
            lost(world, killed)
            if killed == COORDINATOR:
                world.serve()
            else:
                world.join(killed, world.agents[killed].every)
            world.drain()
    return world, killed


def victim(death: Killed, world: Virtual) -> str:
    """Return who was at work when it was killed: the outermost service or agent on the stack."""
    trace = death.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        for name, agent in world.agents.items():
            if owner is agent:
                return name
        if owner is world.service:
            return COORDINATOR
        trace = trace.tb_next
    raise AssertionError("nobody was at work")


def lost(world: Virtual, address: str) -> None:
    """What was under way to or from a killed process is lost."""
    world.mail = type(world.mail)((to, arrival) for to, arrival in world.mail if to != address)
    if address == COORDINATOR:
        if world.changes is None:  # a sleeper's report is not sent before it is due
            world.agenda = []
    else:
        world.agenda = [e for e in world.agenda if e[3].sender != address]


@pytest.fixture
def want():
    return ft.simulate(SYNCHRONOUS.federation(), fleet(), ROUNDS)


@pytest.mark.parametrize(("together", "journaled"), [(1, 0), (1, JOURNALED), (3, 0), (3, JOURNALED)])
def test_killed_at_any_point_the_model_is_the_one_that_would_have_been(
    together, journaled, tmp_path, monkeypatch, want
):
    """Whether a transaction holds what one arrival or several have caused, and reports lie there or in files."""
    monkeypatch.setattr(service, "JOURNALED", journaled)
    fate = Fate(monkeypatch)
    world, killed = disturbed(tmp_path / "calm", fate, together=together)
    assert killed == ""
    assert np.array_equal(world.result().row, want.row)
    points = fate.seen
    assert points > 200
    rng = keyed("moments", together, journaled)
    victims = set()
    moments = sorted(rng.choice(points - 1, 20, replace=False) + 1)
    for moment in moments:
        for before in (True, False):
            fate.begin(int(moment) if before else -int(moment))
            world, killed = disturbed(tmp_path / f"{moment}-{before}", fate, together=together)
            victims.add(killed)
            served = world.result()
            assert np.array_equal(served.row, want.row), f"point {moment}, {killed} killed, before={before}"
            assert [line["updates"] for line in served.history] == [4] * ROUNDS
            assert [line["metrics"] for line in served.history] == [line["metrics"] for line in want.history]
            assert not list((tmp_path / f"{moment}-{before}" / "spool").iterdir())
    assert COORDINATOR in victims
    assert len(victims) > 3


@pytest.mark.parametrize("name", CASES)
def test_killed_at_some_points_of_every_pace(name, tmp_path, monkeypatch):
    case, fate = CASES[name], Fate(monkeypatch)
    want = ft.simulate(case.federation(), fleet(case.devices), ROUNDS, world=case.world)
    world, killed = disturbed(tmp_path / "calm", fate, case)
    points, victims = fate.seen, set()
    calm = world.result()
    assert killed == "" and np.array_equal(calm.row, want.row) and len(calm.history) == ROUNDS
    for moment in sorted(keyed("moments", name).choice(points - 1, POINTS, replace=False) + 1):
        for before in (True, False):
            fate.begin(int(moment) if before else -int(moment))
            world, killed = disturbed(tmp_path / f"{moment}-{before}", fate, case)
            victims.add(killed)
            served = world.result()
            where = f"point {moment} of {points}, {killed} killed, before={before}"
            assert np.array_equal(served.row, calm.row), where
            same = ("version", "updates", "dropped", "loss", "metrics", "worst_decile", "bytes_up", "time")
            for line, due in zip(served.history, calm.history, strict=True):
                assert {k: line[k] for k in same} == {k: due[k] for k in same}, where
            assert not list((tmp_path / f"{moment}-{before}" / "spool").iterdir())
    assert "" not in victims


def test_history_on_disk_has_each_version_once_after_a_kill(tmp_path, monkeypatch, want):
    fate = Fate(monkeypatch)
    fate.at = 150
    world, killed = disturbed(tmp_path, fate)
    world.result()
    assert killed
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert len(lines) == ROUNDS
    assert world.service.transport.federation == NAME
