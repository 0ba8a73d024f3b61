"""One worker: trains parts of a cohort and holds their partial sum until it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedthings.aggregate.fold import Sums
from fedthings.history import Tally
from fedthings.learn.fleet import Fleet
from fedthings.outgoing import Outgoing
from fedthings.partial import Partial
from fedthings.phase import Phase, learner
from fedthings.protocol.events import Ticket
from fedthings.stage import State
from fedthings.vector import Key, Payload

States = list[tuple[State, State] | None]
"""Of each device: what its learner keeps, and what its stages keep."""


Models = Sequence[tuple[Payload, int, int]]
"""The models of a part of a cohort: each with how many are trained from it, and the sum that their reports go into."""


class Kept(NamedTuple):
    """A report that will be folded: how many versions it lags, when its task was given out, the share that is done."""

    ticket: Ticket
    lag: int
    began: float
    effort: float


class Setting(NamedTuple):
    """What a worker must know of a phase: the engine, the threads it has."""

    spec: Phase
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
        self.failed: Exception | None = None  # why it could not begin the phase

    def begin(self, setting: Setting) -> None:
        """Begin a phase, with nothing kept."""
        self.seed = setting.spec.seed
        self.learner = learner(setting.spec, setting.engine, setting.threads, noise="keyed")
        self.setting = setting
        self.partials = {0: Partial(setting.spec, threads=setting.threads)}
        self.outgoing = Outgoing(setting.spec)
        self.fresh: tuple[State, State] = (self.learner.init(), self.outgoing.stage.init())

    def train(self, models: Models, part: Sequence[Kept], states: States | None) -> Done:
        """Train the tasks of `part`, each of another device: so many in a row from each of `models`.

        `states` has None for a device that has kept nothing yet, and is None where none has.
        """
        model = models[0][0]
        if len(models) > 1:
            counts = [count for _, count, _ in models]
            model = {name: np.repeat([one[name] for one, _, _ in models], counts, 0) for name in model}
        n = len(part)
        tickets = [kept.ticket for kept in part]
        shards = self.fleet.cohort([ticket.device for ticket in tickets], [kept.began for kept in part])
        keys = [Key(self.seed, t.device, t.version, t.attempt) for t in tickets]
        before, stored = zip(*(state or self.fresh for state in states or [None] * n), strict=True)
        fit, after = self.learner.many(model, before, shards, keys, [kept.effort for kept in part])
        sent, encoded, unseen = self.outgoing.encode(fit, stored, keys)
        weights, lags = np.asarray(sent.weight), [kept.lag for kept in part]
        reasons, start = np.full(n, "", dtype=object), 0
        for _, count, where in models:
            some = slice(start, start + count)
            rows = {name: row[some] for name, row in sent.report.items()}
            metrics = {name: stats[some] for name, stats in sent.metrics.items()}
            reasons[some] = self._partial(where).keep(rows, weights[some], metrics, lags[some])
            start += count
        reasons[reasons == ""] = unseen[reasons == ""]
        nothing = all(state is None for state in after) and all(not state for state in encoded)
        return Done(
            [] if not reasons.any() else reasons.tolist(),
            None if nothing else list(zip(after, encoded, strict=True)),
        )

    def take(self) -> dict[int, tuple[Sums, Tally]]:
        """Return the partial sums, and begin new ones."""
        taken = {where: partial.take() for where, partial in self.partials.items()}
        self.partials = {0: self.partials[0]}
        return taken

    def _partial(self, where: int) -> Partial:
        if where not in self.partials:
            self.partials[where] = Partial(self.setting.spec, threads=self.setting.threads)
        return self.partials[where]
