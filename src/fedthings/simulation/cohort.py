"""Training together: tasks that are kept, as cohorts, at the moment their version is made (law 4)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from fedthings.engine import Engine
from fedthings.errors import SpecError
from fedthings.federation import Federation
from fedthings.learn.engines import choose
from fedthings.learn.fleet import Fleet
from fedthings.learn.own import Own
from fedthings.partial import Partial
from fedthings.phase import Phase, width
from fedthings.simulation.forked import forked
from fedthings.simulation.pool import Here, Job, Pool
from fedthings.simulation.worker import Kept, Models, Setting
from fedthings.stage import State
from fedthings.vector import Payload

ROWS = 1 << 20
"""Numbers that a part's reports hold at once (4 MB): they are folded while a core has them near."""
PARTS = 4
"""Parts a worker at least, so that all are done at about the same time."""
EACH = 16
"""Devices a thread at least, so that none waits long for the others."""
FAR = 1 << 25
"""Numbers (128 MB) of reports so large that no core has them near: then fewer parts cost less, and threads wait less.

With stages, which copy a part's reports, it is not worth the memory.
"""


Group: TypeAlias = tuple[Payload, Sequence[Kept], Partial]
"""Tasks with the model they are trained from, and where their reports are summed."""


class Cohorts:
    """The devices of a fleet at work; it holds what each device keeps for itself.

    Those of a part are `each` at least, where there are as many.
    """

    def __init__(self, pool: Pool, engine: str, threads: int, each: int = 1) -> None:
        self.pool, self.engine, self.threads = pool, engine, threads
        self.each = max(each, EACH if threads > 1 else 1)
        self.states: dict[str, tuple[State, State]] = {}  # device -> of its learner, of its stages
        self._phase: int | None = None

    def train(self, engine: Engine, kept: Sequence[Kept]) -> None:
        """Train the `kept` tasks and add their reports to `engine`."""
        self.enter(engine.phase, engine.spec)
        for wave in waves(kept):
            versions: dict[int, list[Kept]] = {}
            for one in wave:
                versions.setdefault(one.ticket.version, []).append(one)
            self.fold([(engine.model(version), tasks, engine.partial) for version, tasks in sorted(versions.items())])

    def fold(self, groups: Sequence[Group]) -> None:
        """Train the tasks of `groups`, no device twice, each group from its model, and add their reports to its sums.

        Groups whose reports go into one sum must stand side by side.
        """
        wave = [one for _, tasks, _ in groups for one in tasks]
        partials = list({id(partial): partial for _, _, partial in groups}.values())
        where = {id(partial): index for index, partial in enumerate(partials)}
        dim = max(self._dim, 1)
        each = max(self.each, ROWS // dim)
        if self.threads > 1 and self._plain and each * dim > ROWS:
            each = max(each, FAR // (self.threads * dim))
        most = self.threads * each
        even = -(-len(wave) // -(-len(wave) // most))  # as many parts as are needed, about as large as each other
        most = -(-even // self.threads) * self.threads
        if self.pool.size > 1:
            most = max(1, min(most, -(-len(wave) // (PARTS * self.pool.size))))
        jobs = []
        for models, part in _parts([(model, tasks, where[id(partial)]) for model, tasks, partial in groups], most):
            states = [self.states.get(one.ticket.device) for one in part] if self.states else None
            jobs.append(Job(models, part, states))
        for job, done in zip(jobs, self.pool.train(jobs), strict=True):
            if done.states is not None:
                reasons = done.reasons or [""] * len(job.part)
                for one, reason, state in zip(job.part, reasons, done.states, strict=True):
                    if not reason and state is not None:
                        self.states[one.ticket.device] = state
        for taken in self.pool.take():
            for index, (sums, tally) in taken.items():
                partials[index].merge(sums, tally)

    def snapshot(self) -> dict[str, Any]:
        """Return what the devices keep, as plain data and arrays."""
        return {device: list(state) for device, state in self.states.items()}

    def restore(self, phase: int, spec: Phase, states: Mapping[str, Any]) -> None:
        """Take up what `snapshot` returned, in the `phase` that devices do as `spec` says."""
        self.enter(phase, spec)
        self.states = {device: (state[0], state[1]) for device, state in states.items()}

    def enter(self, phase: int, spec: Phase) -> None:
        """Begin `phase` unless it is the one at hand; but for the closing evaluation with nothing kept."""
        if phase != self._phase:
            self._phase, self._dim, self._plain = phase, width(spec), not spec.stages
            if spec.kind != "evaluate":
                self.states = {}
            self.pool.begin(Setting(spec, self.engine, self.threads))


def hired(federation: Federation, fleet: Fleet, engine: str, workers: int | str) -> Cohorts:
    """Return the workers: threads for the kernels, otherwise this process, or processes where several are asked for.

    Raises SpecError.
    """
    engine = choose(federation.task, engine, federation.strategy.method.corrects)
    if workers == "ray":
        from fedthings.simulation.cluster import Cluster

        return Cohorts(Cluster(fleet), engine, 1)
    if not isinstance(workers, int) or workers < 0:
        raise SpecError(f'workers is {workers!r}: give how many train at once, 0 for what suits this machine, or "ray"')
    if engine == "kernels":
        return Cohorts(Here(fleet), engine, workers or len(os.sched_getaffinity(0)))
    model = federation.task.model
    if workers > 1 and isinstance(model, Own) and (reason := model.made.unforked()):
        raise SpecError(f"workers is {workers}, and the model {reason}")
    each = model.made.together(federation.task) if isinstance(model, Own) else 1
    return Cohorts(forked(fleet, workers) if workers > 1 else Here(fleet), engine, 1, each)


def waves(kept: Sequence[Kept]) -> Iterator[Sequence[Kept]]:
    """Yield tasks with no device twice.

    A device that stands in a set twice trains in waves, since the second task begins from the first's state.
    """
    if len({one.ticket.device for one in kept}) == len(kept):
        yield kept
        return
    waves: list[list[Kept]] = []
    turns: dict[str, int] = {}
    for one in kept:
        turn = turns[one.ticket.device] = turns.get(one.ticket.device, -1) + 1
        if turn == len(waves):
            waves.append([])
        waves[turn].append(one)
    yield from waves


def _parts(groups: Sequence[tuple[Payload, Sequence[Kept], int]], most: int) -> Iterator[tuple[Models, Sequence[Kept]]]:
    """Yield parts of at most `most` tasks with their models; where all have one sum, of one model each.

    A model of its own for each row is a copy of it, which small groups are worth and large ones are not.
    """
    models: list[tuple[Payload, int, int]] = []
    part: list[Kept] = []
    alone = len({index for _, _, index in groups}) == 1
    for model, tasks, index in groups:
        for start in range(0, len(tasks), most):
            some = tasks[start : start + most]
            if part and (alone or len(part) + len(some) > most):
                yield models, part
                models, part = [], []
            models = [*models, (model, len(some), index)]
            part = [*part, *some]
    if part:
        yield models, part
