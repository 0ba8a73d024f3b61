"""The simulator: the coordinator and the engine of the service, driven in virtual time."""

from __future__ import annotations

import heapq
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from math import inf
from pathlib import Path
from typing import Any, TextIO

import threadpoolctl

from fedthings import checkpoint, run
from fedthings.engine import Engine
from fedthings.errors import SpecError, StoreError
from fedthings.federation import Federation, fits, plans
from fedthings.history import Line
from fedthings.learn.fleet import Fleet
from fedthings.lifeline import alone
from fedthings.protocol.coordinator import Coordinator
from fedthings.protocol.events import (
    Advance,
    Arrived,
    Assign,
    Command,
    Event,
    Finish,
    Joined,
    Keep,
    Stepped,
    Ticket,
    Woke,
)
from fedthings.run import Run
from fedthings.simulation.cohort import Cohorts, Kept
from fedthings.simulation.work import Counted
from fedthings.simulation.world import Steady, World
from fedthings.trace import traced
from fedthings.vector import Array, Vector

CHECKPOINT, TRACE = "checkpoint.cbor", "trace.jsonl"


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
    workers: int = 0,
) -> Run:
    """Train `rounds` versions on `fleet` in virtual time and return the run.

    `test` `(X, y)` is a central test set; `init` `(dim,)` a warm start; `stop` ends the training at a target,
    like `{"accuracy": 0.97}`; `on_version` is called with each complete line of history; `out` is the run
    directory: Ctrl-C leaves a checkpoint there, from which the same call goes on. `world` says when reports
    arrive and what they cost. `engine` is "auto", "numpy" or "kernels"; `workers` train at once (0: as many as
    there are processors), and never change the result. Raises SpecError, DataError, StoreError.
    """
    if rounds < 1:
        raise SpecError(f"rounds is {rounds}: it must be at least 1")
    if federation.devices > len(fleet):
        raise SpecError(
            f"devices is {federation.devices}, the fleet has {len(fleet)}: the first version would never start"
        )
    for name in fleet.names[:: max(1, len(fleet) // 1000)]:  # of a huge fleet, a thousand tell enough
        fits(federation, fleet.shard(name), name)
    with threadpoolctl.threadpool_limits(1):
        simulator = Simulator(federation, fleet, rounds, test, init, stop, world or Steady())
        return simulator.run(on_version, None if out is None else Path(out), trace)


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
    ) -> None:
        self.federation, self.fleet, self.rounds, self.world = federation, fleet, rounds, world
        self.engine = Engine(federation, rounds, init, test, stop)
        self.coordinator = Coordinator(plans(federation, rounds), federation.seed, federation.devices or len(fleet))
        self.cohorts = Cohorts(fleet)
        self.agenda: list[tuple[float, int, Ticket]] = []  # when which report arrives
        self.order = count()
        self.kept: list[Kept] = []
        self.history: list[Line] = []
        self.work = Counted(self.engine, fleet)
        self.now = 0.0
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
        said, fresh = 0, out is None or not (out / CHECKPOINT).exists()
        if out is not None:
            self._resume(out)
            said = len(self.history)
        with _traced(out if trace else None, fresh=fresh) as self.trace, _interruptible() as interrupted:
            for _ in self._versions():
                lines = self.history[said:]
                said = len(self.history)
                if out is not None:
                    run.append(out, lines)
                for line in lines if on_version else ():
                    on_version(line)  # type: ignore[misc]
                if interrupted and not self.coordinator.done:
                    if out is not None:
                        self._leave(out)
                    raise KeyboardInterrupt
        facts = {
            "devices": len(self.coordinator.last),
            "seconds": self.now,
            "wall_seconds": time.perf_counter() - began,
            "reason": self.reason,
        }
        result = run.result(self.engine, self.history, facts)
        if out is not None:
            run.finish(out, result)
            (out / CHECKPOINT).unlink(missing_ok=True)
        return result

    # -------------------------------------------------------------- the loop

    def _versions(self) -> Iterator[None]:
        """Go through the agenda; yield whenever a version was made."""
        if not self.coordinator.present:
            for name in self.fleet.names:
                self._on(Joined(name))
        yield
        while not self.coordinator.done:
            alarm = self.coordinator.alarm
            if self.agenda and self.agenda[0][0] <= alarm:
                self.now, _, ticket = heapq.heappop(self.agenda)
                event: Event = Arrived(ticket)
                if not self.coordinator.open(ticket):
                    continue  # a service answers the offer of a late report, and does not take it in
            elif alarm < inf:
                self.now, event = alarm, Woke()
            else:
                raise SpecError("nothing can happen any more: every device has left; check the world's figures")
            before = self.engine.phase, self.engine.version
            self._on(event)
            if (self.engine.phase, self.engine.version) != before:
                yield

    def _on(self, event: Event) -> None:
        if isinstance(event, Arrived):
            self.engine.arrived(event.ticket)
        commands = self.coordinator.on(event, self.now)
        self.engine.enter(self.coordinator.phase)
        if self.trace is not None:
            self.trace.write(traced(self.now, event, commands))
        for command in commands:
            self._obey(command)

    def _obey(self, command: Command) -> None:
        self.engine.obey(command)
        match command:
            case Assign(ticket=ticket):
                outcome = self.world.outcome(ticket, self.now, self.work)
                self.engine.tally.spend(outcome.joules)
                if outcome.at is not None:
                    self._plan(outcome.at, ticket)
            case Keep(ticket=ticket, lag=lag):
                self.kept.append(Kept(ticket, lag))
            case Advance():
                self.cohorts.train(self.engine, self.kept)
                self.kept = []
                made = self.engine.advance(self.now)
                self.history += made.lines
                self._on(Stepped(self.engine.version, made.stop))
            case Finish(reason=reason):
                self.reason = reason
                self.history += self.engine.finish()

    def _plan(self, at: float, ticket: Ticket) -> None:
        heapq.heappush(self.agenda, (at, next(self.order), ticket))

    # --------------------------------------------------------------- durable

    def _leave(self, out: Path) -> None:
        """Write the checkpoint from which `_resume` goes on."""
        state = {
            "rounds": self.rounds,
            "now": self.now,
            "coordinator": self.coordinator.snapshot(),
            "engine": self.engine.snapshot(),
            "rows": self.engine.rows,
            "states": self.cohorts.snapshot(),
            "kept": [[list(kept.ticket), kept.lag] for kept in self.kept],
            "agenda": [[at, list(ticket)] for at, _, ticket in sorted(self.agenda)],
        }
        partial = out / (CHECKPOINT + ".part")
        partial.write_bytes(checkpoint.pack(state))
        partial.replace(out / CHECKPOINT)

    def _resume(self, out: Path) -> None:
        """Go on from a checkpoint in `out`, or begin a new history there."""
        if not (out / CHECKPOINT).exists():
            (out / run.HISTORY).unlink(missing_ok=True)
            (out / run.HISTORY).touch()
            return
        try:
            self._restore(out, checkpoint.unpack((out / CHECKPOINT).read_bytes()))
        except (LookupError, ValueError, TypeError) as error:
            raise StoreError(
                f"{out / CHECKPOINT} is damaged ({type(error).__name__}: {error}): remove it to begin anew"
            ) from error

    def _restore(self, out: Path, state: Any) -> None:
        if state["rounds"] != self.rounds:
            raise StoreError(
                f"{out} was left after a run of {state['rounds']} rounds, not {self.rounds}: give the same number"
            )
        self.now = state["now"]
        self.history = [json.loads(line) for line in (out / run.HISTORY).read_text().splitlines()]
        self.coordinator.restore(state["coordinator"])
        self.engine.rows.update(state["rows"])
        self.engine.restore(state["engine"])
        self.cohorts.restore(self.engine, state["states"])
        self.kept = [Kept(Ticket(*ticket), lag) for ticket, lag in state["kept"]]
        for at, ticket in state["agenda"]:
            self._plan(at, Ticket(*ticket))


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
