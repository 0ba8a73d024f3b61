"""Gateways and bodies of many chunks: turns, links that break, rates, sleepers, models of few bits. In virtual time."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fedthings.device import bodies as module
from fedthings.learn.digits import digits
from fedthings.messages import Message, Want
from fedthings.transport.memory import MemoryTransport
from fedthings.transport.transport import Arrival
from gateways import Tree

DEVICES, ROUNDS = 4, 2
STACKED = {"top": "", "west": "top", "east": "top"}


def federation(**more) -> ft.Federation:
    task = ft.Task(model=ft.mlp(64, 32, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.2, batch=16))
    return ft.Federation(task, ft.fedavg(), ft.Pace(goal=DEVICES, patience=1e6), seed=3, devices=DEVICES, **more)


class AtOnce(Tree):
    """Reports are offered as soon as they are there, all at one time."""

    def post_at(self, hub: str, address: str, arrival: Arrival) -> None:
        self.mail.append((f"{hub}/{address}", arrival))


def grown(directory: Path, spec: ft.Federation, under=STACKED, chunk: int = 512, kind: type[Tree] = Tree) -> Tree:
    tree = kind(spec, digits(DEVICES, 0), ROUNDS, directory, under, settings={"chunk": chunk}, chunk=chunk)
    for agent in tree.agents.values():
        agent.upload.chunk = chunk
    return tree


@pytest.mark.parametrize("down", [None, ft.int8(), ft.delta(8, 64)], ids=["float32", "int8", "delta"])
def test_bodies_in_files_and_in_many_chunks(down, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SPOOLED", 0)
    spec = federation(down=down)
    tree = grown(tmp_path, spec)
    run = tree.run()
    assert np.array_equal(run.row, ft.simulate(spec, digits(DEVICES, 0), ROUNDS).row)
    assert all(tree.gateways[name].merged for name in STACKED)


def test_uploads_take_turns_at_a_gateway(tmp_path, monkeypatch):
    order: list[str] = []
    send = MemoryTransport.send

    def noted(self: MemoryTransport, to: str, message: Message) -> bool:
        if isinstance(message, Want) and message.starts and to.startswith("device-"):
            order.append(to)
        return send(self, to, message)  # type: ignore[arg-type]

    tree = grown(tmp_path, federation(), {"west": ""}, kind=AtOnce)
    while not tree.gateways["west"].bound:
        assert tree.step()
    tree.gateways["west"].hold.turns.most = 1
    monkeypatch.setattr(MemoryTransport, "send", noted)
    run = tree.run()
    assert np.array_equal(run.row, ft.simulate(federation(), digits(DEVICES, 0), ROUNDS).row)
    assert len(order) > 3 * DEVICES
    for at in range(0, 3 * DEVICES, DEVICES):
        assert len(set(order[at : at + DEVICES])) == DEVICES  # nobody twice before all others once


def test_sums_take_turns_at_the_coordinator(tmp_path, monkeypatch):
    order: list[str] = []
    send = MemoryTransport.send

    def noted(self: MemoryTransport, to: str, message: Message) -> bool:
        if isinstance(message, Want) and message.starts and to in ("west", "east"):
            order.append(to)
        return send(self, to, message)  # type: ignore[arg-type]

    tree = grown(tmp_path, federation(), {"west": "", "east": ""}, kind=AtOnce)
    tree.service.turns.most = 1
    monkeypatch.setattr(MemoryTransport, "send", noted)
    run = tree.run()
    assert np.array_equal(run.row, ft.simulate(federation(), digits(DEVICES, 0), ROUNDS).row)
    changes = sum(one != other for one, other in pairwise(order))
    assert len(order) > 8 and changes >= len(order) // 2  # a window each, one after the other


def test_a_gateway_on_a_link_that_breaks_sends_and_fetches_in_shorter_chunks(tmp_path):
    tree = grown(tmp_path, federation(), {"west": ""}, chunk=4096)
    west = tree.gateways["west"]
    steps, shortest = 0, 4096
    while not tree.service.done:
        assert tree.step()
        steps += 1
        shortest = min(shortest, west.pacing.length)
        if steps % 7 == 0 and steps < 2000 and (west.upload.going or (west.bound and west.cache.fetching)):
            tree.mail = type(tree.mail)(
                (place, a) for place, a in tree.mail if place != "west" and getattr(a, "sender", "") != "west"
            )
            tree.hub.unlink("west")
            tree.hub.link("west")
    assert np.array_equal(tree.result().row, ft.simulate(federation(), digits(DEVICES, 0), ROUNDS).row)
    assert shortest < 4096


def test_links_that_break_behind_a_gateway_and_a_rate(tmp_path):
    tree = grown(tmp_path, federation(), {"west": ""}, chunk=4096)
    slow = tree.agents["device-1"]
    slow.rate.limit = 5000.0
    steps = 0
    while not tree.service.done:
        assert tree.step()
        steps += 1
        if steps % 40 == 0 and steps < 2000:
            name = f"device-{steps // 40 % DEVICES}"
            tree.mail = type(tree.mail)(
                (place, a) for place, a in tree.mail if place != f"west/{name}" and getattr(a, "sender", "") != name
            )
            tree.hubs["west"].unlink(name)
            tree.hubs["west"].link(name)
    assert np.array_equal(tree.result().row, ft.simulate(federation(), digits(DEVICES, 0), ROUNDS).row)
    assert min(agent.pacing.length for agent in tree.agents.values()) < 4096


def test_a_sleeper_behind_a_gateway_with_a_rate(tmp_path):
    """It is awake for 2 seconds of every 10, too short for its model: each waking goes on where the last one was."""
    tree = grown(tmp_path, federation(), {"west": ""})
    sleeper, hub = tree.agents["device-2"], tree.hubs["west"]
    sleeper.every, sleeper.rate.limit = 10.0, 1000.0
    turn, wakings = 2.0, 0  # when it falls asleep or wakes next
    while not tree.service.done:
        linked = sleeper.transport.linked
        if linked and sleeper.resting:
            hub.sleep(sleeper.name)
            turn += 8.0
            continue
        owners = [tree.service, *tree.gateways.values(), *tree.agents.values()]
        first = min([owner.alarm for owner in owners] + [entry[0] for entry in tree.agenda[:1]])
        if tree.mail or first < turn:
            assert tree.step()
            continue
        tree.now = turn
        if linked:
            hub.sleep(sleeper.name)
            turn += 8.0
        else:
            wakings += 1
            turn += 2.0
            sleeper.relink(sleeper.transport)
            hub.link(sleeper.name)
    assert np.array_equal(tree.result().row, ft.simulate(federation(), digits(DEVICES, 0), ROUNDS).row)
    assert wakings > 10
