"""Law 8: whatever is killed, at whatever point, the model is the one that would have been."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fate import Fate, Killed
from fedthings.server.status import status
from fedthings.transport.topics import COORDINATOR
from fedthings.vector import keyed
from virtual import NAME, Virtual

ROUNDS = 5


def fleet() -> ft.Fleet:
    rng = keyed("law 8")
    X = rng.normal(0, 1, (120, 4)).astype(np.float32)
    y = (X.sum(1) > 0).astype(np.int64)
    return ft.Fleet.from_arrays(X, y, np.arange(120) % 4, split=np.arange(120) % 5 == 0)


def federation() -> ft.Federation:
    recipe = ft.Recipe(lr=0.1, batch=8, keep=0.25)
    task = ft.Task(model=ft.mlp(4, 5, 2), loss="cross_entropy", normalise="fleet", recipe=recipe)
    return ft.Federation(task, ft.fedavgm(), ft.Pace(goal=4, patience=1e6), seed=2, devices=4)


def disturbed(directory: Path, fate: Fate) -> tuple[Virtual, str]:
    """Run to the end; whoever is killed starts again with its directory."""
    world = Virtual(federation(), fleet(), ROUNDS, directory)
    killed = ""
    while not world.service.done:
        try:
            if not world.step():
                raise AssertionError(f"stuck after {killed!r} was killed: {status(world.service, world.now)}")
        except Killed as death:
            killed = victim(death, world)
            fate.at = -1
            lost(world, killed)
            if killed == COORDINATOR:
                world.serve()
            else:
                world.join(killed)
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
        world.agenda = []
    else:
        world.agenda = [e for e in world.agenda if e[3].sender != address]


@pytest.fixture
def want():
    return ft.simulate(federation(), fleet(), ROUNDS)


def test_killed_at_any_point_the_model_is_the_one_that_would_have_been(tmp_path, monkeypatch, want):
    fate = Fate(monkeypatch)
    world, killed = disturbed(tmp_path / "calm", fate)
    assert killed == ""
    assert np.array_equal(world.result().row, want.row)
    points = fate.seen
    assert points > 200
    rng = keyed("moments")
    victims = set()
    moments = sorted(rng.choice(points - 1, 60, replace=False) + 1)
    for moment in moments:
        for before in (True, False):
            fate.seen, fate.at = 0, int(moment) if before else -int(moment) - 2
            world, killed = disturbed(tmp_path / f"{moment}-{before}", fate)
            victims.add(killed)
            served = world.result()
            assert np.array_equal(served.row, want.row), f"point {moment}, {killed} killed, before={before}"
            assert [line["updates"] for line in served.history] == [4] * ROUNDS
            assert [line["metrics"] for line in served.history] == [line["metrics"] for line in want.history]
            assert not list((tmp_path / f"{moment}-{before}" / "spool").iterdir())
    assert COORDINATOR in victims
    assert len(victims) > 3


def test_history_on_disk_has_each_version_once_after_a_kill(tmp_path, monkeypatch, want):
    fate = Fate(monkeypatch)
    fate.at = 150
    world, killed = disturbed(tmp_path, fate)
    world.result()
    assert killed
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert len(lines) == ROUNDS
    assert world.service.transport.federation == NAME
