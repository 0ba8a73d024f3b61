"""What is forged, replayed or nobody's is refused and logged with its reason, and the model is that of the others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

import fedthings as ft
from fedthings.identity import cose
from fedthings.identity.keys import held, key_id, public_of
from fedthings.identity.links import Links
from fedthings.identity.seal import CoordinatorSeal, DeviceSeal, Known
from fedthings.learn.digits import digits
from fedthings.messages import Assignment, Chunk, Decline, Envelope, Farewell, Hello, Pause, Want
from fedthings.server.service import Service
from fedthings.transport import topics
from fedthings.transport.topics import COORDINATOR, ROOT
from fedthings.transport.transport import Seal
from fedthings.wire import pack, unpack
from virtual import NAME, Virtual

DEVICES, ROUNDS = 3, 4
NAMES = [f"device-{i}" for i in range(DEVICES)]
UP = topics.sent(ROOT, NAMES[0])
DOWN = topics.to(ROOT, NAMES[0])


def federation(patience: float = 60.0) -> ft.Federation:
    recipe = ft.Recipe(lr=0.3, batch=16)
    task = ft.Task(model=ft.mlp(64, 100, 10), loss="cross_entropy", recipe=recipe)
    pace = ft.Pace(goal=DEVICES, patience=patience)
    return ft.Federation(task, ft.fedavgm(), pace, seed=4, devices=DEVICES)


class Signed(Virtual):
    """A fleet that signs; `heard` is all that went over the broker, by whom, to whom and on which topic."""

    def seal(self, address: str) -> Seal:
        home = self.directory / "keys"
        key, links = held(home / address), Links(home / f"{address}.links")
        if address == COORDINATOR:
            return CoordinatorSeal(key, links, Known({name: public_of(held(home / name)) for name in NAMES}))
        pinned = public_of(held(home / COORDINATOR))
        return DeviceSeal(key, links, {key_id(pinned): pinned})

    def serve(self) -> Service:
        if not hasattr(self, "heard"):
            self.heard: list[tuple[str, str, bytes, str]] = []
            inject = self.hub.inject

            def listen(sender: str, to: str, data: bytes, topic: str = "") -> None:
                self.heard.append((sender, to, data, topic))
                inject(sender, to, data, topic)

            self.hub.inject = listen  # type: ignore[method-assign]
        return super().serve()


def _read(data: bytes) -> Envelope:
    return unpack(cose.parse(data).payload if cose.is_signed(data) else data)[1]


def other(number: int = 9) -> tuple[bytes, Links]:
    """Return the key of somebody who is nobody here."""
    return bytes([number]) * 32, Links()


Attack = Callable[[Signed], None]


def run(directory: Path, attack: Attack, times: int = 5) -> Signed:
    """Run to the end, with an attack a few times on the way; the model must be that of the simulator."""
    world = Signed(federation(), digits(DEVICES, 0), ROUNDS, directory)
    steps = 0
    while not world.service.done and world.step():
        steps += 1
        if steps % 20 == 10 and steps < 20 * times and not world.service.done:
            attack(world)
            world.drain()
    result = world.result()
    same = ft.simulate(federation(), digits(DEVICES, 0), ROUNDS)
    assert np.array_equal(result.row, same.row)
    assert [line["updates"] for line in result.history] == [DEVICES] * ROUNDS
    return world


def unknown(world: Signed) -> None:
    """A device that is not enrolled says hello."""
    seal = DeviceSeal(*other(), {})
    seal.link()
    topic = topics.sent(ROOT, "stranger")
    world.hub.inject("stranger", COORDINATOR, seal.close(topic, Hello("x"), NAME), topic)


def revoked(world: Signed) -> None:
    """One whose key was revoked says hello."""
    key, links = other()
    seal = DeviceSeal(key, links, {})
    seal.link()
    ours = world.service.transport.seal  # type: ignore[attr-defined]
    ours.known = replace_known(ours.known, key_id(public_of(key)))
    world.hub.inject("gone", COORDINATOR, seal.close(topics.sent(ROOT, "gone"), Hello("x"), NAME))


def replace_known(known: Known, kid: bytes) -> Known:
    return Known(known.keys, known.revoked | {kid})


def anothers(world: Signed) -> None:
    """device-1 declines the task of device-0, on its topic."""
    seal = world.agents[NAMES[1]].transport.seal  # type: ignore[attr-defined]
    for ticket, _ in world.service.coordinator.tasks.values():
        data = seal.close(UP, Decline(ticket, "enough"), NAME)
        world.hub.inject(NAMES[0], COORDINATOR, data)


def replayed(world: Signed) -> None:
    """What device-0 has said is said once more, all of it."""
    for sender, to, data, topic in list(world.heard):
        if sender == NAMES[0] and to == COORDINATOR and not isinstance(_read(data), Chunk | Want):
            world.hub.inject(sender, to, data, topic)
    world.heard = [said for said in world.heard if said[0] != NAMES[0]]


def unsigned(world: Signed) -> None:
    """Somebody says hello in plain words, as device-0."""
    world.hub.inject(NAMES[0], COORDINATOR, pack(Hello("x"), NAME))


def forged(world: Signed) -> None:
    """Device-0's own hello, with one byte of it changed."""
    seal = world.agents[NAMES[0]].transport.seal  # type: ignore[attr-defined]
    data = seal.close(UP, Hello("boot-1"), NAME)
    world.hub.inject(NAMES[0], COORDINATOR, data.replace(b"boot-1", b"boot-2"))


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (unknown, "unknown device"),
        (revoked, "revoked key"),
        (anothers, "wrong key"),
        (replayed, "replayed message"),
        (unsigned, "not signed"),
        (forged, "wrong signature"),
    ],
)
def test_what_a_device_may_not_say(
    attack: Attack, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fedthings.server"):
        world = run(tmp_path, attack)
    assert world.service.refusals[reason] >= 1 and set(world.service.refusals) == {reason}
    assert any(reason in message for message in caplog.messages)


def task(world: Signed) -> None:
    """Somebody else gives device-0 a task, and says that all is over."""
    seal = CoordinatorSeal(*other())
    seal.link()
    job = next(m for m in map(_read, (d for _, to, d, _ in world.heard if to == NAMES[0])) if isinstance(m, Assignment))
    mine = replace(job, ticket=job.ticket._replace(version=77))
    for message in (mine, Farewell("over", None, None), Pause("rest")):
        world.hub.inject(COORDINATOR, NAMES[0], seal.close(DOWN, message, NAME))


def model(world: Signed) -> None:
    """The right assignment, with the SHA-256 of another model in it."""
    data = next(d for _, to, d, _ in world.heard if to == NAMES[0] and isinstance(_read(d), Assignment))
    job = _read(data)
    assert isinstance(job, Assignment)
    world.hub.inject(COORDINATOR, NAMES[0], data.replace(job.model.digest, bytes(32)))


def again(world: Signed) -> None:
    """All that device-0 was told is told it once more."""
    for sender, to, data, topic in list(world.heard):
        if to == NAMES[0] and isinstance(_read(data), Assignment | Pause | Farewell):
            world.hub.inject(sender, to, data, topic)
    world.heard = [said for said in world.heard if said[1] != NAMES[0] or isinstance(_read(said[2]), Assignment)]


@pytest.mark.parametrize(
    ("attack", "reason"),
    [(task, "wrong coordinator key"), (model, "replayed message"), (again, "replayed message")],
)
def test_what_a_device_does_not_believe(
    attack: Attack, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fedthings.device"):
        world = run(tmp_path, attack)
    assert any(reason in message for message in caplog.messages)
    assert not world.service.refusals


def test_a_forged_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The broker changes the pieces of models that it keeps: a device fetches them from the coordinator instead."""
    world = Signed(federation(), digits(DEVICES, 0), ROUNDS, tmp_path)
    spoilt = 0
    with caplog.at_level(logging.WARNING, "fedthings.device"):
        while not world.service.done and world.step():
            for place, data in world.hub._blobs.items():
                chunk = _read(data)
                assert isinstance(chunk, Chunk)
                if any(chunk.data[-64:]):
                    world.hub._blobs[place] = pack(replace(chunk, data=chunk.data[:-64] + bytes(64)), NAME)
                    spoilt += 1
    assert spoilt > ROUNDS
    refused = [message for message in caplog.messages if message.startswith("a model was refused: wrong digest")]
    assert len(refused) >= ROUNDS * DEVICES
    wanted = [data for _, to, data, _ in world.heard if to == COORDINATOR and isinstance(_read(data), Want)]
    assert len(wanted) >= ROUNDS * DEVICES
    result = world.result()
    assert np.array_equal(result.row, ft.simulate(federation(), digits(DEVICES, 0), ROUNDS).row)


def lost(world: Signed, address: str) -> None:
    """What was under way to or from a killed process is lost."""
    world.mail = type(world.mail)((to, arrival) for to, arrival in world.mail if to != address)
    world.agenda = [e for e in world.agenda if address not in (e[2], e[3].sender)]  # type: ignore[union-attr]


@pytest.mark.parametrize("every", [7, 10, 16])
def test_kill_9_and_everybody_signs(every: int, tmp_path: Path) -> None:
    """Coordinator and devices are killed in turn: numbers of links go on, and the model is the simulator's."""
    world = Signed(federation(patience=1e6), digits(DEVICES, 0), ROUNDS, tmp_path)
    steps = kills = 0
    while not world.service.done and world.step():
        steps += 1
        if steps % every or steps > 150:
            continue
        kills += 1
        victim = [COORDINATOR, *NAMES][kills % (DEVICES + 1)]
        lost(world, victim)
        if victim == COORDINATOR:
            world.service.close()
            world.serve()
        else:
            world.join(victim)
        world.drain()
    result = world.result()
    assert kills > 5
    assert np.array_equal(result.row, ft.simulate(federation(), digits(DEVICES, 0), ROUNDS).row)
