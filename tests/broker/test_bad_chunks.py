"""Chunks that come damaged, twice, in another order or never, up and down over real brokers: the same model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedthings as ft
from fedthings.device import bodies, upload
from fedthings.device.membership import Membership
from fedthings.learn.digits import digits
from fedthings.messages import Chunk, Envelope
from fedthings.run import read
from fedthings.server.broker import Kind
from fedthings.transport.mqtt import MqttTransport
from fedthings.transport.transport import Arrival, Delivery
from processes import Processes

ROUNDS = 4


class Fault:
    """What a bad link makes of the first chunks; `left` is to how many it will still be done."""

    def __init__(self, kind: str, times: int) -> None:
        self.kind, self.left = kind, times
        self._held: Chunk | None = None

    def __call__(self, chunk: Chunk) -> list[Chunk]:
        if not self.left:
            return [chunk]
        self.left -= 1
        if self.kind == "damaged":
            return [Chunk(chunk.digest, chunk.start, bytes(len(chunk.data)))]
        if self.kind == "twice":
            return [chunk, chunk]
        if self.kind == "missing":
            return []
        before, self._held = self._held, chunk
        if before is None:
            return []
        self._held = None
        return [chunk, before]


class Bad(MqttTransport):
    """A device's end whose chunks up suffer a fault."""

    up: Fault

    def send(self, to: str, message: Envelope, federation: str = "") -> bool:
        messages = self.up(message) if type(message) is Chunk else [message]
        sent = [super(Bad, self).send(to, one, federation) for one in messages]
        return all(sent)


def attend(member: Membership, down: Fault) -> None:
    """Take part to the end; chunks down suffer a fault."""
    end = time.monotonic() + 60
    while not member.ended:
        assert time.monotonic() < end
        arrival = member.transport.inbox.get(min(max(0.0, member.alarm - time.monotonic()), 0.2))
        arrivals: list[Arrival] = [] if arrival is None else [arrival]
        if isinstance(arrival, Delivery) and isinstance(arrival.message, Chunk):
            arrivals = [Delivery(arrival.sender, chunk, arrival.federation) for chunk in down(arrival.message)]
        for one in arrivals:
            member.receive(one, time.monotonic())
        member.wake(time.monotonic())


@pytest.mark.parametrize("fault", ["damaged", "twice", "missing", "reversed"])
def test_the_model_is_the_simulators(fault: str, kind: Kind, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(bodies, "RETRY", 0.5)
    monkeypatch.setattr(upload, "RETRY", 0.5)
    monkeypatch.setattr(upload, "PATIENCE", 0.5)
    task = ft.Task(model=ft.mlp(64, 400, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.2, batch=32))
    spec, fleet = ft.Federation(task, ft.fedavgm(), ft.Pace(goal=3, patience=60.0), seed=1, devices=3), digits(3, 0)
    with Processes(spec, fleet, ROUNDS, tmp_path, kind) as world:
        world.serve()
        name = fleet.names[0]
        for other in fleet.names[1:]:
            world.join(other)
        url, seal = world.enrolled(name)
        transport = Bad(url, name, seal=seal)
        transport.up, down = Fault(fault, 2), Fault(fault, 2)
        try:
            attend(Membership(name, fleet.shard(name), transport, tmp_path / "state"), down)
        finally:
            transport.close()
        assert transport.up.left == down.left == 0
        summary = world.wait(60)
        run, simulated = read(world.out), ft.simulate(spec, fleet, ROUNDS)
    assert summary["reason"] == "done" and np.array_equal(run.row, simulated.row)
    assert [(line["updates"], line["dropped"]) for line in run.history] == [(3, {})] * ROUNDS
    assert not list((world.out / "spool").iterdir())
