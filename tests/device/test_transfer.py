"""Chunks shrink where the link breaks and grow where it stands; a device keeps to its rate. All in virtual time."""

from __future__ import annotations

from math import inf
from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fedthings.device.agent import Agent
from fedthings.messages import Chunk, Message
from fedthings.server.turns import SILENT, Turns
from fedthings.transport.chunks import CHUNK, GRAIN
from fedthings.transport.memory import MemoryTransport
from fedthings.transport.pacing import SHARE, Pacing, Rate
from fedthings.transport.transport import Arrival
from fedthings.vector import keyed
from virtual import Virtual

DEVICES = 3


def test_chunks_shrink_with_what_the_link_carries_and_grow_again() -> None:
    pacing = Pacing()
    pacing.broke(0)
    assert pacing.length == CHUNK // SHARE
    pacing.broke(36_000)
    assert pacing.length == 2048
    for carried in range(0, 40_000, 2048):  # as much as the last link carried: it does not swing
        pacing.flows(carried)
    assert pacing.length == 2048
    for carried in range(0, 1 << 23, CHUNK):
        pacing.flows(carried)
    assert pacing.length == CHUNK
    for _ in range(9):
        pacing.broke(0)
    assert pacing.length == GRAIN
    pacing.broke(1 << 30)
    assert pacing.length == CHUNK


def test_a_rate_pushes_back_what_comes_after() -> None:
    rate = Rate(1000.0)
    assert rate.free == 0.0 and rate.piece(CHUNK) == GRAIN
    rate.took(500, 10.0)
    assert rate.free == 10.5
    rate.took(1500, 10.5)
    assert rate.free == 12.0
    assert Rate().piece(CHUNK) == CHUNK
    assert Rate(1e5).piece(CHUNK) == 16384


def test_turns_go_round_and_the_silent_lose_theirs() -> None:
    turns = Turns(most=100)
    for name in "abcd":
        turns.wait(name)
    served = []
    for name in turns.next(0.0):
        turns.note(name, 50, 0.0)
        served.append(name)
    assert served == ["a", "b"]
    turns.note("a", 20, 1.0)
    turns.wait("a")
    served = []
    for name in turns.next(1.0):
        turns.note(name, 50, 1.0)
        served.append(name)
    assert served == ["c"]  # d is next, and a behind it
    assert turns.alarm == SILENT  # b has not been heard of since 0
    turns.drop("b")
    for name in turns.next(2.0):
        turns.note(name, 50, 2.0)
        served.append(name)
    assert served == ["c", "d"]
    for name in turns.next(1.0 + SILENT):
        turns.note(name, 50, 20.0)
        served.append(name)
    assert served == ["c", "d", "a"]
    for name in "acd":
        turns.drop(name)
    assert turns.alarm == inf and list(turns.next(30.0)) == []


# ----------------------------------------------------------------- the whole conversation


def federation(hidden: int = 300) -> ft.Federation:
    task = ft.Task(model=ft.mlp(4, hidden, 2), loss="cross_entropy", recipe=ft.Recipe(lr=0.1, batch=8))
    return ft.Federation(task, ft.fedavg(), ft.Pace(goal=DEVICES, patience=1e6), seed=2, devices=DEVICES)


def fleet() -> ft.Fleet:
    rng = keyed("transfer")
    X = rng.normal(0, 1, (30 * DEVICES, 4)).astype(np.float32)
    return ft.Fleet.from_arrays(X, (X.sum(1) > 0).astype(np.int64), np.arange(30 * DEVICES) % DEVICES)


class Slow(Virtual):
    """Agents are woken at their own alarms too, which is when a rate lets them go on."""

    def step(self) -> bool:
        due = min((agent.alarm for agent in self.agents.values()), default=inf)
        if not self.mail and due < min(self.service.alarm, self.agenda[0][0] if self.agenda else inf):
            self.now = max(self.now, due)
            for agent in self.agents.values():
                agent.wake(self.now)
            self.drain()
            return True
        return super().step()


def said(monkeypatch: pytest.MonkeyPatch, world: list[Virtual]) -> dict[str, list[tuple[float, int]]]:
    """Note when each end sends how many bytes of chunks."""
    found: dict[str, list[tuple[float, int]]] = {}
    send = MemoryTransport.send

    def noted(self: MemoryTransport, to: str, message: Message) -> bool:
        if isinstance(message, Chunk) and world:
            found.setdefault(self.address, []).append((world[0].now, len(message.data)))
        return send(self, to, message)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryTransport, "send", noted)
    return found


def test_a_device_keeps_to_its_rate_and_the_model_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worlds: list[Virtual] = []
    found = said(monkeypatch, worlds)
    world = Slow(federation(), fleet(), 1, tmp_path, chunk=4096)
    worlds.append(world)
    for agent in world.agents.values():
        agent.upload.chunk = 4096
        agent.rate.limit = 2000.0
    result = world.run()
    assert np.array_equal(result.row, ft.simulate(federation(), fleet(), 1).row)
    for name in world.agents:
        times, sizes = zip(*found[name], strict=True)
        assert sum(sizes) > 8000
        assert sum(sizes[:-1]) <= 2000 * (times[-1] - times[0]) + 1
        assert max(sizes) == GRAIN


class AtOnce(Virtual):
    """Reports are offered as soon as they are there, all at one time."""

    def post(self, address: str, arrival: Arrival) -> None:
        self.mail.append((address, arrival))


def test_uploads_share_the_coordinator_a_window_each_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = AtOnce(federation(2000), fleet(), 1, tmp_path)
    for agent in world.agents.values():
        agent.upload.chunk = 1024
    world.service.turns.most = 1
    order: list[str] = []
    wants = world.service.transport.send

    def sent(to: str, message: Message) -> bool:
        if type(message).__name__ == "Want":
            order.append(to)
        return wants(to, message)  # type: ignore[arg-type]

    monkeypatch.setattr(world.service.transport, "send", sent)
    result = world.run()
    assert np.array_equal(result.row, ft.simulate(federation(2000), fleet(), 1).row)
    assert len(order) > 10
    for at in range(0, 9, 3):
        assert len(set(order[at : at + 3])) == DEVICES  # nobody twice before all others once


def test_a_link_that_breaks_again_and_again(tmp_path: Path) -> None:
    """Of a report in chunks nothing is sent twice that the coordinator has, and the model is the same."""
    world = Virtual(federation(2000), fleet(), 1, tmp_path)
    for agent in world.agents.values():
        agent.upload.chunk = 4096
    steps = 0
    while not world.service.done and world.step():
        steps += 1
        if steps % 40 == 0 and steps < 2000:
            name = world.fleet.names[steps // 40 % DEVICES]
            world.mail = type(world.mail)(
                (to, a) for to, a in world.mail if to != name and getattr(a, "sender", "") != name
            )
            world.hub.unlink(name)
            world.hub.link(name)
    assert np.array_equal(world.result().row, ft.simulate(federation(2000), fleet(), 1).row)
    assert min(agent.pacing.length for agent in world.agents.values()) < CHUNK


def test_an_agent_with_nothing_under_way_does_not_shrink_its_chunks(tmp_path: Path) -> None:
    world = Virtual(federation(), fleet(), 1, tmp_path)
    agent: Agent = world.agents[world.fleet.names[0]]
    for _ in range(5):
        world.hub.unlink(agent.name)
        world.hub.link(agent.name)
        world.drain()
    assert agent.pacing.length == CHUNK
    world.service.close()
