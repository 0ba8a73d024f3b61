"""A device that says what it should not, among honest ones in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

import fedthings as ft
from fedthings.bodies import Report
from fedthings.messages import Assignment, Chunk, Decline, Hello, Message, Offer, Want
from fedthings.protocol.events import Ticket
from fedthings.transport.chunks import Source
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Arrival, Delivery, Linked
from fedthings.wire import pack, pack_body
from virtual import NAME, Virtual

from .conftest import federation, fleet

HONEST, ROUNDS, WHO = 3, 3, "villain"
Words = Iterable[bytes | Message]


class Villain:
    """Joins like an agent, and answers each assignment to train with `says(villain, ticket)`.

    `answers` is what the coordinator sent it; it sends the wrong chunks for whatever is wanted of it.
    """

    def __init__(self, world: Virtual, says: Callable[[Villain, Ticket], Words], name: str = WHO) -> None:
        self.world, self.says, self.name = world, says, name
        self.answers: list[Message] = []
        self.transport = world.hub.device(name, NAME)

    def receive(self, arrival: Arrival, now: float) -> None:
        if isinstance(arrival, Linked):
            self.transport.send(COORDINATOR, Hello("boot"))
        elif isinstance(arrival, Delivery):
            message = arrival.message
            self.answers.append(message)
            if isinstance(message, Assignment) and self.world.service.engine.spec.kind == "train":
                for words in self.says(self, message.ticket):
                    data = words if isinstance(words, bytes) else pack(words, NAME)
                    self.world.hub.inject(self.name, COORDINATOR, data)
            elif isinstance(message, Assignment):
                self.transport.send(COORDINATOR, Decline(message.ticket, "enough"))
            elif isinstance(message, Want):
                for start in message.starts:
                    self.transport.send(COORDINATOR, Chunk(message.digest, start, b"?" * 64))

    def report(self, ticket: Ticket, /, **changes: Any) -> Report:
        """Return a report that is right but for its `changes`."""
        due = self.world.service.engine._template
        right = {"ticket": ticket, "arrays": due.arrays, "weight": due.weight, "metrics": due.metrics}
        return Report(**{**right, **changes})


def offered(report: Report, ticket: Ticket, /, **changes: Any) -> Offer:
    """Return the offer of `report` for `ticket`, its only chunk inside, but for `changes`."""
    offer = Source(pack_body(report)).offer("report", ticket, first=True)
    return type(offer)(**{**{name: getattr(offer, name) for name in offer.__struct_fields__}, **changes})


def run(directory: Path, says: Callable[[Villain, Ticket], Words], **options: Any) -> tuple[Villain, ft.Run]:
    """Run a federation of three honest devices and one villain to its end; its model must be that of the three."""
    world = Virtual(federation(HONEST + 1), fleet(HONEST), ROUNDS, directory, **options)
    villain = world.agents[WHO] = Villain(world, says)  # type: ignore[assignment]
    result = world.run()
    honest = ft.simulate(federation(HONEST), fleet(HONEST), ROUNDS)
    assert np.array_equal(result.row, honest.row)
    for line, alone in zip(result.history, honest.history, strict=True):
        assert {k: line[k] for k in ("version", "updates", "loss", "metrics", "worst_decile")} == {
            k: alone[k] for k in ("version", "updates", "loss", "metrics", "worst_decile")
        }
    assert not list((directory / "spool").iterdir())
    return villain, result


def dropped(result: ft.Run, reason: str) -> int:
    """Return how many reports the history says were left out for `reason`."""
    return sum(line["dropped"].get(reason, 0) for line in result.history)
