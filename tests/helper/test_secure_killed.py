"""Law 8 in secure mode: leader, helper or a device is killed at whatever point, and nothing is lost or used twice."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fate import THINGS, Fate, Killed
from fedthings.helper.store import FILE
from fedthings.helper.store import Store as HelperStore
from fedthings.server.leader import Leader
from fedthings.server.status import status
from fedthings.simulation.simulator import simulate
from fedthings.transport.topics import COORDINATOR
from fedthings.vector import keyed
from secure import NAME, Secure, federation, fleet, key_in, victim

ROUNDS = 3


def spec(directory: Path):
    return federation(key_in(directory / "helper"), secure={"min_batch": 4})  # one report lost, and no version is made


def disturbed(directory: Path, fate: Fate) -> tuple[Secure, str]:
    """Run to the end; whoever is killed starts again with its directory."""
    federation = spec(directory)
    fate.seen = 0
    world = Secure(federation, fleet(), ROUNDS, directory)
    killed = ""
    while not world.service.done:
        try:
            if not world.step():
                raise AssertionError(f"stuck after {killed!r} was killed: {status(world.service, world.now)}")
        except Killed as death:
            killed = victim(death, world)
            world.mail = type(world.mail)((to, arrival) for to, arrival in world.mail if to != killed)
            world.agenda = [e for e in world.agenda if killed != COORDINATOR and e[3].sender != killed]
            if killed == COORDINATOR:
                world.serve()
            elif killed == NAME:
                world.help()
            else:
                world.join(killed)
            world.drain()
    return world, killed


def used(directory: Path) -> tuple[int, int]:
    """Return how many batches the helper has answered, and how many reports were in them."""
    with sqlite3.connect(directory / "helper" / FILE) as db:
        return tuple(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("batches", "reports"))


def test_killed_at_any_point_the_model_is_the_one_that_would_have_been(tmp_path, monkeypatch):
    fate = Fate(monkeypatch, (*THINGS, (HelperStore, "commit"), (HelperStore, "pin"), (Leader, "ask")))
    world, killed = disturbed(tmp_path / "calm", fate)
    assert killed == ""
    versions = ROUNDS + 2  # of the statistics, and of the closing evaluation, too
    want = simulate(spec(tmp_path / "calm"), fleet(), ROUNDS)
    assert np.array_equal(world.result().row, want.row) and used(tmp_path / "calm") == (versions, 4 * versions)
    points = fate.seen
    assert points > 150
    victims = set()
    for moment in sorted(keyed("secure moments").choice(points - 1, 50, replace=False) + 1):
        for before in (True, False):
            fate.at = int(moment) if before else -int(moment)
            directory = tmp_path / f"{moment}-{before}"
            world, killed = disturbed(directory, fate)
            victims.add(killed)
            served = world.result()
            where = f"point {moment}, {killed} killed, before={before}"
            assert [line["updates"] for line in served.history] == [4] * ROUNDS, where
            assert [line["dropped"] for line in served.history] == [{}] * ROUNDS, where
            assert np.array_equal(served.row, want.row), where
            assert used(directory) == (versions, 4 * versions), where
            assert not list((directory / "run" / "spool").iterdir())
            assert not list((directory / "run" / "shares").iterdir())
    assert {COORDINATOR, NAME} < victims and len(victims) > 3


def test_whole_numbers_for_others_are_the_same_after_a_restart(tmp_path):
    """What is written 1 is read as 1.0: the task, to which seeds are bound, must not become another by that."""
    fields = {"stages": (ft.clip(1),), "pace": ft.Pace(goal=4, patience=1000)}
    whole = federation(key_in(tmp_path / "helper"), secure={"min_batch": 4}, **fields)
    world, killed = Secure(whole, fleet(), ROUNDS, tmp_path), False
    while not world.service.done:
        assert world.step()
        if world.service.engine.trained == 1 and len(world.service.folded) == 2 and not killed:
            killed = True
            world.serve()
            world.drain()
    assert killed
    assert [line["dropped"] for line in world.result().history] == [{}] * ROUNDS


@pytest.mark.parametrize("who", [COORDINATOR, NAME])
def test_killed_while_the_helper_is_asked_again_and_again(tmp_path, who):
    world = Secure(spec(tmp_path), fleet(), ROUNDS, tmp_path)
    kills = 0
    while not world.service.done:
        assert world.step(), status(world.service, world.now)
        if world.service.settlement.fixed and kills < 12:
            kills += 1
            world.mail = type(world.mail)((to, arrival) for to, arrival in world.mail if to != who)
            if who == NAME:
                world.help()
            else:
                world.serve()
            world.drain()
    assert kills == 12
    assert np.array_equal(world.result().row, simulate(spec(tmp_path), fleet(), ROUNDS).row)
