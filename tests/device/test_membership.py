"""A device in several federations: as its owner's rules say, one task at a time, each with a directory of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

import fedthings as ft
from fedthings.bodies import Model, Work
from fedthings.device.membership import Membership
from fedthings.device.rules import Rules
from fedthings.federation import phases
from fedthings.learn.digits import digits
from fedthings.messages import Announce, Assignment, Bye, Decline, Farewell, Hello, Offer, Pause, Receipt
from fedthings.protocol.events import Ticket
from fedthings.spelling import encode
from fedthings.transport.chunks import Source
from fedthings.transport.memory import Hub
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Delivery
from fedthings.wire import pack_body

TASK = ft.Task(model=ft.mlp(64, 10), loss="cross_entropy")


class Device:
    """A membership, what coordinators say to it, and what it says to them."""

    def __init__(self, directory: Path | None = None, rules: Rules | None = None) -> None:
        fleet, hub = digits(1, 0), Hub()
        self.coordinator = hub.coordinator("")
        self.news: list[str] = []
        self.name = fleet.names[0]
        shard = fleet.shard(self.name)
        self.member = Membership(self.name, shard, hub.device(self.name), directory, rules, on_news=self.news.append)

    def told(self, federation: str, message, now: float = 0.0) -> list:
        """Tell it something, and return what it says: (federation, message)."""
        self.member.receive(Delivery(COORDINATOR, message, federation), now)
        return self.said()

    def said(self) -> list:
        found = []
        while (arrival := self.coordinator.inbox.get(0)) is not None:
            if isinstance(arrival, Delivery):
                found.append((arrival.federation, arrival.message))
        return found

    def announce(self, federation: str, name: str) -> list:
        return self.told(federation, Announce("boot", name, "running", 0, 0))

    def job(self, version: int = 0, seconds: float = 60.0) -> Assignment:
        train = phases(ft.Federation(TASK))[0]
        task = Source(pack_body(Work(0, encode(train)))).offer("task", first=True)
        model = Source(pack_body(Model(0, version, {"x": TASK.model.init(0)}))).offer("model", first=True)
        return Assignment(Ticket(0, version, self.name, 0), task, model, seconds, None)


def test_it_says_hello_where_its_owner_lets_it():
    device = Device(rules=Rules(federations=("heat", "light")))
    assert device.announce("cold-1", "cold") == []
    assert [(f, type(m)) for f, m in device.announce("heat-1", "heat")] == [("heat-1", Hello)]
    assert [(f, type(m)) for f, m in device.announce("light-1", "light")] == [("light-1", Hello)]
    assert set(device.member.agents) == {"heat-1", "light-1"}


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", ".", "lock", "x" * 40])
def test_a_name_that_cannot_be_a_directorys_is_not_joined(name, tmp_path):
    device = Device(tmp_path / "device")
    assert device.announce("evil-1", name) == []
    assert not device.member.agents


def test_two_of_one_name_are_joined_one_after_the_other(tmp_path):
    device = Device(tmp_path / "device")
    device.announce("heat-1", "heat")
    assert device.announce("heat-2", "heat") == [] == device.announce("heat-2", "heat")
    assert device.news == ["another federation is called heat: it is joined when this one has ended"]
    said = device.told("heat-1", Farewell("done", None, None))
    assert [(f, type(m)) for f, m in said] == [("heat-1", Bye), ("heat-2", Hello)]
    assert device.member.ended == {"heat-1"}


def test_a_task_waits_for_another_federations():
    device = Device()
    device.announce("heat-1", "heat"), device.announce("light-1", "light")
    ((federation, offer),) = device.told("heat-1", device.job())
    assert federation == "heat-1" and isinstance(offer, Offer)
    assert device.told("light-1", device.job(), now=1.0) == []  # it has one already
    ((federation, offer),) = device.told("heat-1", Receipt(offer.ticket, True), now=2.0)
    assert federation == "light-1" and isinstance(offer, Offer)
    assert device.member.agents["light-1"].until == pytest.approx(61.0)
    assert device.member.reports == 2


def test_a_task_does_not_wait_for_longer_than_the_other_has_time():
    """The coordinator of the first does not answer any more: when its time is over, the other task is done."""
    device = Device()
    device.announce("heat-1", "heat"), device.announce("light-1", "light")
    device.told("heat-1", device.job(seconds=10.0))
    assert device.told("light-1", device.job(seconds=60.0), now=1.0) == []
    assert device.member.alarm <= 10.0
    device.member.wake(10.0)
    assert [f for f, m in device.said() if isinstance(m, Offer)][-1] == "light-1"


def test_a_task_that_waited_for_too_long_is_forgotten():
    device = Device()
    device.announce("heat-1", "heat"), device.announce("light-1", "light")
    ((_, offer),) = device.told("heat-1", device.job())
    job = device.job()
    device.told("light-1", job)
    device.told("light-1", Receipt(job.ticket, False, "deadline"))
    assert device.told("heat-1", Receipt(offer.ticket, True)) == []
    assert not device.member.agents["light-1"].busy


def test_a_declined_task_lets_the_next_begin():
    device = Device(rules=Rules(max_parameters=1))
    device.announce("heat-1", "heat"), device.announce("light-1", "light")
    assert [type(m) for _, m in device.told("heat-1", device.job())] == [Decline]
    assert [type(m) for _, m in device.told("light-1", device.job())] == [Decline]


def test_each_federation_has_its_own_state_and_model(tmp_path):
    device = Device(tmp_path / "device")
    device.announce("heat-1", "heat"), device.announce("light-1", "light")
    ((_, offer),) = device.told("heat-1", device.job())
    device.told("heat-1", Receipt(offer.ticket, True))
    ((_, other),) = device.told("light-1", device.job(version=3))
    again = Device(tmp_path / "device")
    again.announce("heat-1", "heat"), again.announce("light-1", "light")
    heat, light = (again.member.agents[f].shelf for f in ("heat-1", "light-1"))
    assert heat.pending is None and light.pending is not None and light.pending.ticket == other.ticket
    for name in ("heat", "light"):
        assert (tmp_path / "device" / name / "model.safetensors").is_file()


def test_it_rests_when_nobody_wants_it():
    device = Device()
    assert not device.member.resting
    device.announce("heat-1", "heat"), device.announce("light-1", "light")
    device.told("heat-1", Pause("not needed now", 30.0))
    assert not device.member.resting
    device.told("light-1", Pause("not needed now", 20.0))
    assert device.member.resting and device.member.rest == 20.0


def test_a_chunk_of_a_body_that_two_federations_have_serves_both():
    device = Device()
    device.announce("heat-1", "heat"), device.announce("light-1", "light")
    job = device.job()
    source = Source(pack_body(Model(0, 0, {"x": TASK.model.init(0)})))
    held = Assignment(job.ticket, job.task, source.offer("model"), 60.0, None)
    device.told("heat-1", held)
    said = device.told("light-1", source.chunk(0))
    assert [f for f, m in said if isinstance(m, Offer)] == ["heat-1"]
