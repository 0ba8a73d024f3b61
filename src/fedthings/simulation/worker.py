"""One worker: trains parts of a cohort and holds their partial sum until it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedthings.aggregate.fold import Sums
from fedthings.federation import Phase, learner
from fedthings.history import Tally
from fedthings.learn.fleet import Fleet
from fedthings.outgoing import Outgoing
from fedthings.partial import Partial
from fedthings.protocol.events import Ticket
from fedthings.stage import State
from fedthings.vector import Key, Payload

States = list[tuple[State, State] | None]
"""Of each device: what its learner keeps, and what its stages keep."""


class Kept(NamedTuple):
    """A report that will be folded: its ticket, how many versions it lags, and when the task was given out."""

    ticket: Ticket
    lag: int
    began: float


class Setting(NamedTuple):
    """What a worker must know of a phase: the most reports of one version, the engine, the threads it has."""

    spec: Phase
    reports: int
    engine: str
    threads: int


class Done(NamedTuple):
    """What a part of a cohort came to, beside its sums: why reports were left out, and what the devices keep."""

    reasons: list[str]
    states: States | None


class Worker:
    """It trains as devices would, and sums as the coordinator would: any split gives the same (laws 3 and 7)."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def begin(self, setting: Setting) -> None:
        """Begin a phase, with nothing kept."""
        self.seed = setting.spec.seed
        self.learner = learner(setting.spec, setting.engine, setting.threads)
        self.partial = Partial(setting.spec, setting.reports, threads=setting.threads)
        self.outgoing = Outgoing(setting.spec)
        self.fresh: tuple[State, State] = (self.learner.init(), self.outgoing.stage.init())

    def train(self, model: Payload, part: Sequence[Kept], states: States | None) -> Done:
        """Train the tasks of `part`, all of one version and each of another device.

        `states` has None for a device that has kept nothing yet, and is None where none has.
        """
        n = len(part)
        tickets = [kept.ticket for kept in part]
        shards = self.fleet.cohort([ticket.device for ticket in tickets], [kept.began for kept in part])
        keys = [Key(self.seed, t.device, t.version, t.attempt) for t in tickets]
        before, stored = zip(*(state or self.fresh for state in states or [None] * n), strict=True)
        fit, after = self.learner.many(model, before, shards, keys, [1.0] * n)
        sent, encoded, unseen = self.outgoing.encode(fit, stored, keys)
        reasons = self.partial.keep(sent.report, np.asarray(sent.weight), sent.metrics, [kept.lag for kept in part])
        reasons[reasons == ""] = unseen[reasons == ""]
        nothing = all(state is None for state in after) and all(not state for state in encoded)
        return Done(
            [] if not reasons.any() else reasons.tolist(),
            None if nothing else list(zip(after, encoded, strict=True)),
        )

    def take(self) -> tuple[Sums, Tally]:
        """Return the partial sum, and begin a new one."""
        return self.partial.take()
