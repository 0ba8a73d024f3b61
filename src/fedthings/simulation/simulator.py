"""The simulator: the coordinator and the engine of the service, driven in virtual time."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from math import inf
from numbers import Integral
from pathlib import Path
from typing import Any, TextIO

import threadpoolctl

from fedthings import run
from fedthings.engine import Engine
from fedthings.errors import SpecError, StoreError
from fedthings.federation import Federation, plans
from fedthings.history import Line
from fedthings.learn.engines import described
from fedthings.learn.fleet import Fleet
from fedthings.lifeline import alone
from fedthings.phase import fits
from fedthings.protocol.coordinator import Coordinator
from fedthings.protocol.events import (
    Advance,
    Arrived,
    Assign,
    CheckedIn,
    Declined,
    Discard,
    Event,
    Finish,
    Joined,
    Keep,
    Left,
    Rest,
    Stepped,
    Ticket,
    Woke,
)
from fedthings.protocol.trace import traced
from fedthings.run import Run
from fedthings.simulation import recovery
from fedthings.simulation.agenda import Agenda, Answer, Changes
from fedthings.simulation.cohort import Cohorts, hired
from fedthings.simulation.edges import Edges
from fedthings.simulation.heap import kept_memory
from fedthings.simulation.work import Counted
from fedthings.simulation.worker import Kept
from fedthings.simulation.world import Change, Steady, Waking, World
from fedthings.vector import Array, Vector

PATIENCE = 30 * 86400.0
"""Seconds of virtual time without any report after which the simulator gives up; or 1,000 times the pace's."""
IN_VAIN, LEAST = 10_000, 8 * 86400.0
"""It gives up sooner after so many deadlines without any report, and seconds at least: lives repeat by the week."""
TRACE = "trace.jsonl"


def simulate(
    federation: Federation,
    fleet: Fleet,
    rounds: int,
    test: tuple[Array, Array] | None = None,
    init: Vector | None = None,
    stop: Mapping[str, float] | None = None,
    on_version: Callable[[Line], None] | None = None,
    out: str | Path | None = None,
    world: World | None = None,
    trace: bool = False,
    engine: str = "auto",
    workers: int | str = 0,
) -> Run:
    """Train `rounds` versions on `fleet` in virtual time and return the run.

    `test` `(X, y)` is a central test set; `init` `(dim,)` a warm start; `stop` ends the training at a target,
    like `{"accuracy": 0.97}`; `on_version` is called with each complete line of history; `out` is the run
    directory: Ctrl-C leaves a checkpoint there, from which the same call goes on. `world` says when reports
    arrive and what they cost. `engine` is "auto", "numpy" or "kernels"; `workers` train at once (0: what suits this
    machine, "ray": all processors of a Ray cluster), and never change the result.
    Raises SpecError, DataError, StoreError.
    """
    verify(federation, fleet, rounds)
    if world is not None and not hasattr(world, "outcome"):
        raise SpecError(f"world is {world!r}: give a World, such as fedthings.simulation.things.load(path) returns")
    with alone_at_work():
        cohorts = hired(federation, fleet, engine, workers)
        try:
            simulator = Simulator(federation, fleet, rounds, test, init, stop, world or Steady(), cohorts)
            return simulator.run(on_version, None if out is None else Path(out), trace)
        finally:
            cohorts.pool.close()


def verify(federation: Federation, fleet: Fleet, rounds: int) -> None:
    """Raise SpecError or DataError where `federation` cannot be simulated with `fleet`."""
    if not isinstance(federation, Federation):
        raise SpecError(
            f"federation is {federation!r}: give a Federation, such as fedthings.federation.load(path) returns"
        )
    if not isinstance(rounds, Integral) or rounds < 1:
        raise SpecError(f"rounds is {rounds!r}: give a whole number, at least 1")
    if not isinstance(fleet, Fleet):
        raise SpecError(f"fleet is {fleet!r}: give a Fleet, such as Fleet.read(path) returns")
    participants = _participants(federation, fleet)
    if federation.devices > len(participants):
        raise SpecError(
            f"devices is {federation.devices}, the fleet has {len(participants)}: the first version would never start"
        )
    for name in fleet.names[:: max(1, len(fleet) // 1000)]:  # of a huge fleet, a thousand tell enough
        fits(federation, fleet.shard(name), name)


@contextmanager
def alone_at_work() -> Iterator[None]:
    """Set up this process for a simulation: memory that is kept, a BLAS of one thread, few collections."""
    with kept_memory(), threadpoolctl.threadpool_limits(1), _fewer_collections():
        yield


def _participants(federation: Federation, fleet: Fleet) -> Collection[str]:
    """Return who takes part: devices, or the edges that they are under. Raises SpecError where that does not fit."""
    if federation.edge is None:
        return fleet.names
    if not fleet.edges:
        raise SpecError(
            "edge is set, and the fleet has no edges: say which device is under which by fleet.under(...) or --edges"
        )
    most = max(map(len, fleet.edges.values()))
    if federation.edge.most < most and not federation.edge.goal:
        raise SpecError(f"an edge of the fleet has {most} devices: set edge.goal, the most that work at once")
    return fleet.edges


class Simulator:
    """An agenda of events in virtual time around one coordinator and one engine."""

    def __init__(
        self,
        federation: Federation,
        fleet: Fleet,
        rounds: int,
        test: tuple[Array, Array] | None,
        init: Vector | None,
        stop: Mapping[str, float] | None,
        world: World,
        cohorts: Cohorts,
    ) -> None:
        self.federation, self.fleet, self.rounds, self.world = federation, fleet, rounds, world
        self.engine = Engine(federation, rounds, init, test, stop)
        self.cohorts = cohorts
        self.edges = None if federation.edge is None else Edges(self.engine, fleet, world, cohorts)
        self.joining = [] if self.edges is None else list(fleet.edges)
        self.agenda = Agenda()
        self.changes = Changes(world.changes(fleet.names))
        self.first: list[Change | Waking] = []  # who is there from the start
        while self.changes.next <= 0:
            self.first.append(self.changes.take())
        there = federation.devices or len(self.first if self.edges is None else fleet.edges)
        self.coordinator = Coordinator(plans(federation, rounds), federation.seed, there)
        self.kept: list[Kept] = []
        self.planned: set[Ticket] = set()  # whose answer stands on the agenda
        self.resting: dict[str, float] = {}  # sleepers that are asleep -> until when they were told to stay away
        self.told: dict[str, tuple[Ticket, float]] = {}  # sleepers -> the last task they have heard of, its deadline
        self.history: list[Line] = []
        self.work = Counted(self.engine, fleet, lambda device: self.coordinator.last.get(device))
        self.answer: Answer | None = None  # what is given to the coordinator now
        self.now = self.last = 0.0  # now; when the last report was kept
        self.in_vain = 0  # deadlines since then
        self.made = 0  # versions, of all phases
        self.trace: TextIO | None = None
        self.reason = ""

    def run(self, on_version: Callable[[Line], None] | None, out: Path | None, trace: bool) -> Run:
        """Run to the end, or to Ctrl-C, which leaves a checkpoint in `out`."""
        if out is None:
            return self._run(on_version, None, False)
        run.prepare(out, self.federation)
        if (out / run.STATE).exists():
            raise StoreError(f"{out} holds a run that is served: name another directory")
        with alone(out, "the run directory"), run.written(out):
            return self._run(on_version, out, trace)

    def _run(self, on_version: Callable[[Line], None] | None, out: Path | None, trace: bool) -> Run:
        began = time.perf_counter()
        said, fresh = 0, out is None or not (out / recovery.CHECKPOINT).exists()
        if out is not None:
            recovery.resume(self, out)
            said = len(self.history)
        with _traced(out if trace else None, fresh=fresh) as self.trace, _interruptible() as interrupted:
            for _ in self._versions():
                lines = self.history[said:]
                said = len(self.history)
                if out is not None:
                    run.append(out, lines)
                    run.account(out, self.engine)
                for line in lines if on_version else ():
                    on_version(line)  # type: ignore[misc]
                if interrupted and not self.coordinator.done:
                    if out is not None:
                        recovery.leave(self, out)
                    raise KeyboardInterrupt
        facts = {
            "devices": len(self.coordinator.last),
            "seconds": self.now,
            "wall_seconds": time.perf_counter() - began,
            "reason": self.reason,
            "engine": run.environment(described(self.federation.task, self.cohorts.engine)),
        }
        if self.federation.secure is not None:
            facts["secure"] = "simulated: reports add up in the rings, without masks, which would cancel"
        result = run.result(self.engine, self.history, facts)
        if out is not None:
            run.finish(out, result)
            (out / recovery.CHECKPOINT).unlink(missing_ok=True)
        return result

    # -------------------------------------------------------------- the loop

    def _versions(self) -> Iterator[None]:
        """Go through the agenda; yield whenever a version was made."""
        coordinator, agenda, changes = self.coordinator, self.agenda, self.changes
        for early in self.first:
            self._changed(early)
        for edge in self.joining:
            self._on(Joined(edge))
        self.first = []
        yield
        made, alarm = self.made, coordinator.alarm
        while not coordinator.done:
            answer, change = agenda.next, changes.next
            if min(answer, change) > alarm:
                alarm = coordinator.alarm  # what closed a task meanwhile has put it off
            if change <= answer and change <= alarm and change < inf:
                self.now = change
                more = self._changed(changes.take())
            elif answer <= alarm and answer < inf:
                self.now = answer
                more = self._answered(agenda.take())
            elif alarm < inf:
                self.now = alarm
                more = self._on(Woke())
                self._still_alive()
            else:
                raise SpecError("nothing can happen any more: every device has left; check the world's figures")
            if more:
                alarm = coordinator.alarm
            if made != self.made:
                made = self.made
                yield

    def _changed(self, change: Change | Waking) -> bool:
        """Tell the coordinator who came, went or woke.

        One that has been told to sleep on does not come, and one that works on what it has heard of does not ask.
        """
        device = change.device
        if self.edges is not None:
            self.edges.changed(change)
            return False
        if isinstance(change, Change):
            return self._on(Joined(device) if change.present else Left(device))
        if self.resting.get(device, 0.0) > self.now:
            return False
        self.resting.pop(device, None)
        if (told := self.told.get(device)) and self.coordinator.open(told[0]) and self.now < told[1]:
            return False
        known = device in self.coordinator.present
        return self._on(CheckedIn(device, change.every) if known else Joined(device, change.every))

    def _answered(self, answer: Answer) -> bool:
        """Give an answer to the coordinator."""
        ticket = answer.ticket
        self.planned.discard(ticket)
        if answer.declined:
            return self._on(Declined(ticket, answer.declined))
        if not self.coordinator.open(ticket):
            return False  # a service answers the offer of a late report, and does not take it in
        self.answer = answer
        self.engine.arrived(ticket)
        return self._on(Arrived(ticket))

    def _on(self, event: Event) -> bool:
        """Let the coordinator take `event`, and do what it says; return whether the alarm can be earlier for it."""
        commands = self.coordinator.on(event, self.now)
        if type(event) is Stepped:
            self.engine.enter(self.coordinator.phase)
        if self.trace is not None:
            self.trace.write(traced(self.now, event, commands))
        for command in commands:
            kind = type(command)
            if kind is Assign:
                self._assign(command)  # type: ignore[arg-type]
            elif kind is Keep:
                answer = self.answer
                assert answer is not None
                self.kept.append(Kept(command.ticket, command.lag, answer.began, answer.effort))  # type: ignore[union-attr]
                self.last, self.in_vain = self.now, 0
            elif kind is Discard:
                self.engine.obey(command)
            elif kind is Rest:
                self.resting[command.device] = command.until  # type: ignore[union-attr]
            elif kind is Advance:
                self._advance()
            elif kind is Finish:
                self.reason = command.reason  # type: ignore[union-attr]
                self.history += self.engine.finish()
        return len(commands) != 1 or type(commands[0]) is not Keep

    def _assign(self, task: Assign) -> None:
        ticket = task.ticket
        if ticket.device in self.coordinator.sleepers.seen and ticket.device not in self.resting:
            self.told[ticket.device] = ticket, self.now + (task.deadline - self.now)  # as its own clock has it
        if ticket in self.planned:
            return  # a device that is back works on; one that had lost its task is told of it again
        engine = self.engine
        if not task.again:
            engine.assigned(ticket, task.kept)
        if self.edges is not None:
            outcome = self.edges.outcome(ticket, self.now, self.work)
        else:
            begins = max(self.now, self.resting.get(ticket.device, 0.0))
            until = task.deadline if engine.spec.partial else inf
            outcome = self.world.outcome(ticket, begins, self.work, until)
        if outcome.joules is not None:
            engine.tally.spend(outcome.joules)
        if outcome.at is not None:
            self.agenda.plan(outcome.at, Answer(ticket, self.now, outcome.declined, outcome.effort))
            self.planned.add(ticket)

    def _advance(self) -> None:
        if self.edges is not None:
            self.edges.train(self.kept)
            self.edges.drop(ticket for ticket, _ in self.coordinator.tasks.values())
        else:
            self.cohorts.train(self.engine, self.kept)
        self.kept = []
        self.engine.conversed(len(self.coordinator.attempts))  # all that were given work for this version
        made = self.engine.advance(self.now)
        self.history += made.lines
        self.made += 1
        self._on(Stepped(self.engine.version, made.stop))

    def _still_alive(self) -> None:
        """Raise SpecError where nothing has come for so long that nothing ever will."""
        self.in_vain += 1
        patience, waited = self.federation.pace.patience, self.now - self.last
        if waited <= max(PATIENCE, 1000 * patience) and (self.in_vain < IN_VAIN or waited < LEAST):
            return
        none = f"no report was kept in the last {waited / 86400:.0f} days of virtual time"
        if not self.coordinator.present:
            raise SpecError(f"{none}: no device is there; check when the world has them come and go")
        raise SpecError(
            f"{none}: the world lets none arrive within pace.patience ({patience:g} s); raise it, or check the "
            "world's figures"
        )


@contextmanager
def _fewer_collections() -> Iterator[None]:
    """Let Python look for circular garbage seldom: events and commands are many, and make none."""
    before = gc.get_threshold()
    gc.set_threshold(200_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _traced(out: Path | None, fresh: bool) -> Iterator[TextIO | None]:
    if out is None:
        yield None
    else:
        with (out / TRACE).open("w" if fresh else "a") as file:
            yield file


@contextmanager
def _interruptible() -> Iterator[list[bool]]:
    """Turn the first Ctrl-C into a note, so that the version under way is finished; a second one is at once."""
    noted: list[bool] = []

    def note(number: int, frame: Any) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(True)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread: whoever is there deals with Ctrl-C
        yield noted
        return
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
