"""What a device that sleeps says when it wakes: no more than it must."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from fedthings.device.agent import Agent
from fedthings.learn.digits import digits
from fedthings.messages import Announce, Assignment, Decline, Hello, Pause, Receipt, Refusal, Want
from fedthings.protocol.events import Ticket
from fedthings.server.outbox import Outbox
from fedthings.transport.chunks import Source
from fedthings.transport.memory import Hub

NAME = "device-0"
TICKET = Ticket(0, 0, NAME, 0)
TASK, MODEL = Source(b"task" * 200).offer("task"), Source(b"model" * 200).offer("model")


class Sleeper:
    """An agent that wakes each 60 seconds, and the coordinator's end."""

    def __init__(self) -> None:
        self.hub, self.now = Hub(), 0.0
        self.coordinator = self.hub.coordinator("fed")
        self.coordinator.announce(Announce("boot", "fed", "running", 0, 0))
        self.agent = Agent(NAME, digits(1, 0).shard(NAME), self.hub.device(NAME, "fed"), every=60.0)

    def says(self) -> list[type]:
        """Return what the device says now."""
        while (arrival := self.agent.transport.inbox.get(0)) is not None:
            self.agent.receive(arrival, self.now)
        said = []
        while (arrival := self.coordinator.inbox.get(0)) is not None:
            if hasattr(arrival, "message"):
                said.append(type(arrival.message))
        return said

    def hears(self, *messages: Assignment | Receipt | Refusal | Pause) -> list[type]:
        for message in messages:
            self.coordinator.send(NAME, message)
        return self.says()

    def wakes(self) -> list[type]:
        """Sleep until 60 seconds later, and return what the device says then."""
        self.hub.sleep(NAME)
        self.now += 60.0
        self.agent.relink(self.agent.transport)
        self.hub.link(NAME)
        return self.says()


def assigned(version: int, seconds: float = 100.0) -> Assignment:
    return Assignment(TICKET._replace(version=version), TASK, MODEL, seconds, None)


def test_it_asks_only_where_it_does_not_know_what_to_do() -> None:
    sleeper = Sleeper()
    assert sleeper.says() == [Hello]
    assert sleeper.hears(assigned(0)) == [Want]
    assert sleeper.wakes() == [Want]  # it goes on where it was
    assert sleeper.wakes() == [Want, Hello]  # its time is over
    assert sleeper.hears(assigned(1)) == []  # the same bodies, which are asked for already
    assert sleeper.wakes() == [Want]
    assert sleeper.hears(Refusal("not here")) == [Hello]
    assert sleeper.hears(Refusal("not here")) == []  # once is enough


@pytest.mark.parametrize("seconds", [None, 120.0])
def test_a_receipt_says_when_to_come_back_or_is_asked(seconds: float | None) -> None:
    sleeper = Sleeper()
    sleeper.says()
    sleeper.hears(assigned(0, 1000.0))
    sleeper.wakes()
    assert sleeper.hears(Receipt(TICKET, False, "late", seconds)) == ([Hello] if seconds is None else [])
    assert sleeper.agent.resting == (seconds is not None)
    assert sleeper.agent.rest == (None if seconds is None else 60.0 + seconds)


def test_what_it_has_declined_says_when_to_come_back_too() -> None:
    sleeper = Sleeper()
    sleeper.says()
    large = Assignment(TICKET, replace(TASK, size=1 << 40), MODEL, 100.0, None)
    assert sleeper.hears(large) == [Decline]
    assert not sleeper.agent.resting
    assert sleeper.hears(Receipt(TICKET, False, "does not fit", 120.0)) == []
    assert sleeper.agent.resting and sleeper.agent.rest == 120.0


def test_after_the_end_one_hello_is_enough() -> None:
    sleeper = Sleeper()
    sleeper.says()
    sleeper.hears(Pause("not needed now", 60.0))
    sleeper.hub.sleep(NAME)
    sleeper.coordinator.announce(Announce("boot", "fed", "finished", 1, 1))
    assert sleeper.wakes() == [Hello]
    sleeper.coordinator.announce(Announce("boot", "fed", "finished", 1, 1))  # not the one it woke to
    assert sleeper.says() == [Hello]


def test_what_is_next_travels_with_the_receipt() -> None:
    outbox = Outbox()
    kept, left_out = Receipt(TICKET, True), Receipt(TICKET, True, "not finite")
    for receipt, message, said in (
        (kept, Pause("", 5.0), [Receipt(TICKET, True, "", 5.0)]),
        (left_out, Pause("", 5.0), [Receipt(TICKET, True, "not finite", 5.0)]),
        (kept, assigned(1), [assigned(1)]),
        (left_out, assigned(1), [left_out, assigned(1)]),  # its owner is told why
    ):
        outbox.put("device-1", kept)
        outbox.put(NAME, receipt)
        outbox.follow(NAME, message)
        assert outbox.take() == [("device-1", kept), *((NAME, each) for each in said)]


def test_who_is_given_work_meanwhile_is_not_told_to_rest() -> None:
    outbox = Outbox()
    for to in (NAME, "device-1"):
        outbox.put(to, Pause("not needed now"))
    outbox.put(NAME, assigned(1))
    assert outbox.take() == [("device-1", Pause("not needed now")), (NAME, assigned(1))]
