"""Edges in virtual time: when each has made its rounds, and the training of all their devices together (law 4).

Who works in which edge round, and until when, the edge's own coordinator says at `Assign`; at `Advance` the devices of
all edges that are in the version train together, an edge round after the other, and each edge's report is folded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

import numpy as np

from fedthings.edge import EdgeEngine, begun, coordinator, federation
from fedthings.engine import Engine
from fedthings.errors import SpecError
from fedthings.learn.fleet import Fleet
from fedthings.phase import below
from fedthings.protocol.events import (
    Advance,
    Arrived,
    Assign,
    Command,
    Declined,
    Event,
    Joined,
    Keep,
    Stepped,
    Ticket,
    Woke,
)
from fedthings.simulation.agenda import Agenda, Answer
from fedthings.simulation.cohort import Cohorts, waves
from fedthings.simulation.work import Counted
from fedthings.simulation.worker import Kept
from fedthings.simulation.world import Change, Outcome, Waking, Work, World
from fedthings.stage import State
from fedthings.vector import Array, Key, Payload

Rounds = tuple[tuple[Kept, ...], ...]
"""Of each edge round, the devices' tasks whose reports are in it."""


class Carried(NamedTuple):
    """What an edge's task asks of its link: it computes nothing itself."""

    work: Work

    def down(self, ticket: Ticket) -> int:
        """Return the bytes of the model body that goes down to the edge."""
        return self.work.down(ticket)

    def up(self, ticket: Ticket) -> int:
        """Return the bytes of the edge's report."""
        return self.work.up(ticket)

    def effort(self, ticket: Ticket, seconds: float, left: float, most: float = 1.0) -> float:
        """Return 1: what its devices do in the time that they have is decided below."""
        return 1.0

    def flops(self, ticket: Ticket, now: float, effort: float = 1.0) -> float:
        """Return 0."""
        return 0.0

    def memory(self, ticket: Ticket, now: float) -> int:
        """Return 0."""
        return 0


class Edges:
    """The edges of `fleet` at work for one federation; `present` are the devices that are there."""

    def __init__(self, engine: Engine, fleet: Fleet, world: World, cohorts: Cohorts) -> None:
        edge = engine.federation.edge
        assert edge is not None
        self.engine, self.fleet, self.world, self.cohorts, self.edge = engine, fleet, world, cohorts, edge
        self.present: set[str] = set()
        self.states: dict[str, State] = {}  # edge -> what its stages keep
        self.rounds: dict[Ticket, Rounds] = {}  # of the edges at work
        self._engines: list[EdgeEngine] = []
        self._phase: int | None = None

    # -------------------------------------------------------------- when

    def changed(self, change: Change | Waking) -> None:
        """Note that a device has come or gone: an edge that begins asks those that are there. Raises SpecError."""
        if isinstance(change, Waking):
            raise SpecError(
                f"{change.device} sleeps in this world, and a simulated edge asks only devices that stay linked: "
                'set leaving = "wait" in the groups of the world'
            )
        (self.present.add if change.present else self.present.discard)(change.device)

    def outcome(self, ticket: Ticket, now: float, work: Work) -> Outcome:
        """Return when the report of `ticket`, given out at `now` seconds, is here, and what the devices spent.

        `work` is what the edge's task asks of its link.
        """
        self._enter()
        course = _Course(self, ticket, Counted(self._engine(0, ticket), self.fleet), now)
        if course.ended == inf:
            return Outcome(None, course.joules)
        self.rounds[ticket] = tuple(course.rounds)
        own = self.world.outcome(ticket, course.ended, Carried(work))
        joules = [spent for spent in (course.joules, own.joules) if spent is not None]
        return Outcome(own.at, sum(joules) if joules else None, own.declined)

    def drop(self, open_tickets: Iterable[Ticket]) -> None:
        """Forget the rounds of all tickets but these."""
        needed = set(open_tickets)
        self.rounds = {ticket: rounds for ticket, rounds in self.rounds.items() if ticket in needed}

    # -------------------------------------------------------------- what

    def train(self, kept: Sequence[Kept]) -> None:
        """Train the devices of the edges whose tasks are `kept`, and add the edges' reports to the engine."""
        self._enter()
        for wave in waves(kept):
            self._train(wave)

    def _train(self, wave: Sequence[Kept]) -> None:
        engines = [self._engine(index, one.ticket) for index, one in enumerate(wave)]
        rounds = [self.rounds.pop(one.ticket) for one in wave]
        self.cohorts.enter(self.engine.phase, engines[0].spec)
        for number in range(max(map(len, rounds))):
            self.cohorts.fold(
                [
                    (engine.model(engine.version), some[number], engine.partial)
                    for engine, some in zip(engines, rounds, strict=True)
                ]
            )
            for engine in engines:
                engine.advance(0.0)
        self._report(wave, engines)

    def _report(self, wave: Sequence[Kept], engines: Sequence[EdgeEngine]) -> None:
        """Fold the edges' reports, as the coordinator does when they arrive."""
        partial, seed = self.engine.partial, self.engine.spec.seed
        for one, engine in zip(wave, engines, strict=True):  # a row at a time: there may be many edges
            ticket, fit = one.ticket, engine.report()
            rows = {name: row[None] for name, row in fit.report.items()}
            state = self.states.get(ticket.device) or partial.stage.init()
            key = Key(seed, ticket.device, ticket.version, ticket.attempt)
            encoded, (after,) = partial.stage.encode(rows, [state], [key])
            metrics: Mapping[str, Array] = {name: stats[None] for name, stats in fit.metrics.items()}
            (reason,) = partial.keep(encoded, fit.weight[None], metrics, [one.lag])
            if not reason and any(part is not None for part in after):
                self.states[ticket.device] = after

    # ------------------------------------------------------------- parts

    def _enter(self) -> None:
        if self._phase != self.engine.phase:
            self._phase, self.states, self._engines = self.engine.phase, {}, []

    def _engine(self, index: int, ticket: Ticket) -> EdgeEngine:
        """Return one of the engines, at the beginning of the work on `ticket`."""
        if index == len(self._engines):
            row: Payload = self.engine.model(ticket.version)
            dim = self.engine.spec.task.model.layout.dim
            made = EdgeEngine(federation(self.engine.spec), {0: row.get("x", np.zeros(dim, np.float32))})
            self._engines.append(made)
        engine = self._engines[index]
        engine.begin(self.engine.spec, ticket, self.engine.model(ticket.version))
        return engine

    # ----------------------------------------------------------- durable

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data and arrays."""
        rounds = [
            [list(ticket), [[[list(one), *more] for one, *more in some] for some in done]]
            for ticket, done in self.rounds.items()
        ]
        return {"present": sorted(self.present), "states": self.states, "rounds": rounds}

    def restore(self, state: Mapping[str, Any], devices: Mapping[str, Any]) -> None:
        """Take up what `snapshot` returned, and that of the `devices`; the engine is in the phase it was in."""
        self._enter()
        self.cohorts.restore(self.engine.phase, below(self.engine.spec), devices)
        self.present, self.states = set(state["present"]), dict(state["states"])
        for ticket, rounds in state["rounds"]:
            self.rounds[Ticket(*ticket)] = tuple(
                tuple(Kept(Ticket(*one), *more) for one, *more in some) for some in rounds
            )


class _Course:
    """The course of one edge's rounds, as its coordinator decides them: `ended` when the last is over (inf: never)."""

    def __init__(self, edges: Edges, ticket: Ticket, work: Counted, now: float) -> None:
        self.world, self.work, self.now = edges.world, work, now
        self.joules: float | None = None
        self.rounds: list[tuple[Kept, ...]] = []
        self.ended = inf
        self._left = edges.edge.rounds if work.engine.spec.kind == "train" else 1
        self._kept: list[Kept] = []
        self._agenda = Agenda()
        there = [name for name in edges.fleet.edges[ticket.device] if name in edges.present]
        if not there:
            return
        self.coordinator = coordinator(edges.edge, work.engine.spec.seed, len(there))
        for name in there:
            self._on(Joined(name))
        self._on(begun(edges.edge, ticket))
        most = now + 1000 * edges.edge.patience  # a world in which nobody ever answers
        while self._left and self.now < most:
            alarm, answer = self.coordinator.alarm, self._agenda.next
            if min(alarm, answer) == inf:
                return
            self.now = min(alarm, answer)
            if answer > alarm:
                self._on(Woke())
            else:
                self._answered(self._agenda.take())
        if not self._left:
            self.ended = self.now

    def _answered(self, answer: Answer) -> None:
        ticket = answer.ticket
        if answer.declined:
            self._on(Declined(ticket, answer.declined))
        elif self.coordinator.open(ticket):
            self._answer = answer
            self._on(Arrived(ticket))

    def _on(self, event: Event) -> None:
        for command in self.coordinator.on(event, self.now):
            self._obey(command)

    def _obey(self, command: Command) -> None:
        if isinstance(command, Assign):
            until = command.deadline if self.work.engine.spec.partial else inf
            outcome = self.world.outcome(command.ticket, self.now, self.work, until)
            if outcome.joules is not None:
                self.joules = (self.joules or 0.0) + outcome.joules
            if outcome.at is not None:
                self._agenda.plan(outcome.at, Answer(command.ticket, self.now, outcome.declined, outcome.effort))
        elif isinstance(command, Keep):
            self._kept.append(Kept(command.ticket, command.lag, self._answer.began, self._answer.effort))
        elif isinstance(command, Advance):
            self.rounds.append(tuple(self._kept))
            self._kept = []
            self._left -= 1
            if self._left:
                self._on(Stepped(command.version))
