"""Law 8 with SecAgg+: whoever is killed, at whatever point, the model is the one that would have been."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fate import THINGS, Fate, Killed
from fedthings.device.member import Member
from fedthings.server.status import status
from fedthings.simulation.simulator import simulate
from fedthings.transport.topics import COORDINATOR
from fedthings.vector import keyed
from hiding import federation
from secure import fleet
from virtual import Virtual

ROUNDS = 2


def disturbed(directory: Path, fate: Fate) -> tuple[Virtual, str]:
    """Run to the end; whoever is killed starts again with its directory."""
    fate.seen = 0
    world = Virtual(federation(4, {"min_batch": 4}), fleet(), ROUNDS, directory)  # with one lost, no sum is made
    killed = ""
    while not world.service.done:
        try:
            assert world.step(), f"stuck after {killed!r} was killed: {status(world.service, world.now)}"
        except Killed as death:
            killed = victim(death, world)
            world.mail = type(world.mail)((to, arrival) for to, arrival in world.mail if to != killed)
            world.agenda = [e for e in world.agenda if killed != COORDINATOR and e[3].sender != killed]  # type: ignore[union-attr]
            if killed == COORDINATOR:
                world.serve()
            else:
                world.join(killed)
            world.drain()
    return world, killed


def victim(death: Killed, world: Virtual) -> str:
    """Return who was at work when it was killed."""
    names = {id(agent): name for name, agent in world.agents.items()} | {id(world.service): COORDINATOR}
    trace = death.__traceback__
    while trace is not None:
        if (name := names.get(id(trace.tb_frame.f_locals.get("self")))) is not None:
            return name
        trace = trace.tb_next
    raise AssertionError("nobody was at work")


def test_killed_at_any_point_the_model_is_the_one_that_would_have_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fate = Fate(monkeypatch, (*THINGS, (Member, "_keep")))
    world, killed = disturbed(tmp_path / "calm", fate)
    assert killed == ""
    want = simulate(federation(4, {"min_batch": 4}), fleet(), ROUNDS)
    assert np.array_equal(world.result().row, want.row)
    points, victims = fate.seen, set()
    assert points > 200
    for moment in sorted(keyed("secagg moments").choice(points - 1, 24, replace=False) + 1):
        for before in (True, False):
            fate.at = int(moment) if before else -int(moment)
            world, killed = disturbed(tmp_path / f"{moment}-{before}", fate)
            victims.add(killed)
            served = world.result()
            where = f"point {moment}, {killed} killed, before={before}"
            assert [line["updates"] for line in served.history] == [4] * ROUNDS, where
            assert np.array_equal(served.row, want.row), where
            fate.at = 0
    assert COORDINATOR in victims and len(victims) > 3


def test_the_coordinator_killed_again_and_again(tmp_path: Path) -> None:
    world = Virtual(federation(), fleet(), ROUNDS, tmp_path)
    kills = 0
    while not world.service.done:
        assert world.step(), status(world.service, world.now)
        if kills < 30 and world.service.coordinator.phase == 1:
            kills += 1
            world.mail = type(world.mail)((to, arrival) for to, arrival in world.mail if to != COORDINATOR)
            world.serve()
            world.drain()
    assert kills == 30
    assert np.array_equal(world.result().row, simulate(federation(), fleet(), ROUNDS).row)
