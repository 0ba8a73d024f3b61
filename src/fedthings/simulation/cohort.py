"""Training together: the kept tasks of one version, as cohorts, at the moment the version is made (law 4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedthings.engine import Engine
from fedthings.federation import learner, stage
from fedthings.learn.fleet import Fleet
from fedthings.protocol.events import Ticket
from fedthings.stage import State
from fedthings.vector import Key

ROWS = 1 << 23
"""Numbers that a cohort's reports hold at once (32 MB)."""


class Kept(NamedTuple):
    """A report that will be folded: its ticket and how many versions it lags."""

    ticket: Ticket
    lag: int


class Cohorts:
    """The devices of a fleet at work for one engine; it holds what each device keeps for itself."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.states: dict[str, tuple[State, State]] = {}  # device -> of its learner, of its stages
        self._phase: int | None = None

    def train(self, engine: Engine, kept: Sequence[Kept]) -> None:
        """Train the `kept` tasks and give their reports to `engine`."""
        if engine.phase != self._phase:
            self._enter(engine)
        dim = engine.spec.task.model.layout.dim
        for group in _groups(kept, max(1, ROWS // max(dim, 1))):
            self._train(engine, group)

    def _train(self, engine: Engine, group: Sequence[Kept]) -> None:
        tickets = [kept.ticket for kept in group]
        fresh = (self._learner.init(), self._stage.init(engine.schema))
        states = [self.states.get(ticket.device, fresh) for ticket in tickets]
        keys = [Key(engine.spec.seed, t.device, t.version, t.attempt) for t in tickets]
        fit, after = self._learner.many(
            engine.model(tickets[0].version),
            [state[0] for state in states],
            [self.fleet.shard(ticket.device) for ticket in tickets],
            keys,
            [1.0] * len(tickets),
        )
        report, encoded = self._stage.encode(fit.report, [state[1] for state in states], keys)
        reasons = engine.keep(report, np.asarray(fit.weight), fit.metrics, [kept.lag for kept in group])
        for ticket, reason, *state in zip(tickets, reasons, after, encoded, strict=True):
            if not reason and any(part is not None and part != [] for part in state):
                self.states[ticket.device] = (state[0], state[1])

    def snapshot(self) -> dict[str, Any]:
        """Return what the devices keep, as plain data and arrays."""
        return {device: list(state) for device, state in self.states.items()}

    def restore(self, engine: Engine, states: Mapping[str, Any]) -> None:
        """Take up what `snapshot` returned."""
        self._enter(engine)
        self.states = {device: (state[0], state[1]) for device, state in states.items()}

    def _enter(self, engine: Engine) -> None:
        """Begin a phase, with nothing kept."""
        self._phase, self.states = engine.phase, {}
        self._learner, self._stage = learner(engine.spec), stage(engine.spec)


def _groups(kept: Iterable[Kept], most: int) -> Iterator[list[Kept]]:
    """Yield tasks that can be trained at once: of one version, no device twice, at most `most`.

    A device that stands in a set twice trains in waves, since the second task begins from the first's state.
    """
    waves: dict[tuple[int, int], list[Kept]] = {}
    turns: dict[str, int] = {}
    for one in kept:
        turn = turns[one.ticket.device] = turns.get(one.ticket.device, -1) + 1
        waves.setdefault((turn, one.ticket.version), []).append(one)
    for _, wave in sorted(waves.items()):
        for start in range(0, len(wave), most):
            yield wave[start : start + most]
