"""The arrays' side of an edge: a federation of its own, some versions of which make one report (law 1: no new rounds).

From the model received it makes `edge.rounds` versions of its devices' reports, and reports what came of them, with the
weight of the last (Liu et al. 2020, Alg. 1: edge aggregation, kappa_2 times, then cloud aggregation).
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np

from fedthings.aggregate import step
from fedthings.engine import Engine, Made
from fedthings.federation import Federation
from fedthings.history import TRAIN, Tally
from fedthings.learn.learner import Fit
from fedthings.phase import Phase, below, measures
from fedthings.protocol.coordinator import Coordinator
from fedthings.protocol.events import Begun, Ticket
from fedthings.protocol.pace import Edge
from fedthings.stage import zeros
from fedthings.vector import Array, Payload, Vector

ATTEMPTS = 1 << 16
"""Attempts of a device in one edge round, at the most, before those of the edge's next attempt begin."""
NOTHING = Ticket(-1, -1, "", 0)


def federation(phase: Phase, name: str = "federation") -> Federation:
    """Return what an edge does in `phase` as a federation of its own; its rounds begin when the edge is told to."""
    assert phase.edge is not None
    inner, pace = below(phase), phase.edge.plan.pace
    return Federation(inner.task, inner.strategy, pace, seed=phase.seed, name=name)


def coordinator(edge: Edge, seed: int, devices: int) -> Coordinator:
    """Return the coordinator of an edge with so many `devices`: it does nothing before an edge round is begun."""
    return Coordinator([edge.plan] * PHASES, seed, devices, held=True)


PHASES = 3
"""Phases of a federation at the most: an edge has the numbers of those above."""


def begun(edge: Edge, ticket: Ticket) -> Begun:
    """Return the event that begins the edge's work on `ticket`: what is drawn is keyed by version and edge round."""
    return Begun(ticket.phase, ticket.version * edge.rounds, ticket.attempt * ATTEMPTS)


class EdgeEngine(Engine):
    """The engine of one edge: `begin` with a ticket and the model received, `advance` each round, then `report`."""

    def __init__(self, federation: Federation, rows: MutableMapping[int, Vector] | None = None) -> None:
        super().__init__(federation, 1, rows=rows)
        self.ticket = NOTHING  # what the edge works on
        self._first = self._left = self._weight = 0
        self.folded = 0  # reports of devices that are in the edge's
        self._saved: tuple[int, ...] = ()  # versions whose rows the last checkpoint needs
        self._metrics: dict[str, Array] = {}
        self._total: Payload = {}

    @property
    def finished(self) -> bool:
        """Whether the report can be made."""
        return self.ticket != NOTHING and not self._left

    def begin(self, phase: Phase, ticket: Ticket, model: Payload) -> None:
        """Begin the work on `ticket` of `phase` from the `model` received; what was being made is given up."""
        assert phase.edge is not None
        spec = below(phase)
        self.phase = ticket.phase
        self.phases[self.phase] = spec
        self.ticket = ticket
        self._first = self.version = self.trained = ticket.version * phase.edge.rounds
        self._left = phase.edge.rounds if spec.kind == "train" else 1
        self._weight = self.folded = 0
        self._total = {}
        self._metrics = measures(spec)
        if "x" in model:
            self.rows[self._first] = model["x"]
            self._forget()
        self._begin(Tally())

    def advance(self, now: float, share: Payload | None = None, lost: str = "") -> Made:
        """Make the edge's next model, or in a phase without training the sum of its devices' reports."""
        sums, tally = self.partial.take()
        total, weights = self.partial.settled(sums, tally, self.version)
        self.version += 1
        self._left -= 1
        if self.spec.kind == "train":
            row = self.rows[self.trained]
            if total:
                mean = step.Mean(total["x"], weights, {0: row})
                row = step.apply(self.spec.strategy.step, row, mean, self.state, self.version)
                self._weight = sum(weights.values())
            self.trained = self.version
            self.rows[self.trained] = row
            self._forget()
        else:
            self._weight = min(1, sum(weights.values()))
            self._total = total or {name: rows[0] for name, rows in zeros(self.partial.schema).items()}
        self._measure(tally)
        return Made([], held=not self._left)

    def report(self) -> Fit:
        """Return the edge's report, arrays `(dim,)`: "x" is its model less the one received."""
        train = self.spec.kind == "train"
        report = {"x": self.rows[self.trained] - self.rows[self._first]} if train else self._total
        return Fit(report, np.array(self._weight), self._metrics)

    def _measure(self, tally: Tally) -> None:
        """Keep what the devices measured of the model that the edge received, and all that they trained."""
        self.folded += tally.updates
        first = self.version == self._first + 1
        for name, total in tally.sums.items():
            if first or name == TRAIN:
                self._metrics[name] = self._metrics[name] + total

    def _forget(self) -> None:
        """Keep the model received, the newest, and those that the last checkpoint knows as such."""
        for old in [v for v in self.rows if v not in (self._first, self.trained, *self._saved)]:
            del self.rows[old]

    # ------------------------------------------------------------- durable

    def snapshot(self) -> dict[str, Any]:
        """Return the state between two edge rounds as plain data and arrays, without the rows themselves."""
        self._saved = (self._first, self.trained)
        work = [list(self.ticket), self._first, self._left, self._weight, self.folded, self._metrics, dict(self._total)]
        return {**super().snapshot(), "edge": work}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the state that `snapshot` returned; the rows must be there already."""
        ticket, self._first, self._left, self._weight, self.folded, self._metrics, self._total = state["edge"]
        self.ticket = Ticket(*ticket)
        self._saved = (self._first, state["trained"])
        super().restore(state)
