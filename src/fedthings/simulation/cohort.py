"""Training together: the kept tasks of one version, as cohorts, at the moment the version is made (law 4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedthings.engine import Engine
from fedthings.simulation.pool import Job, Pool
from fedthings.simulation.worker import Kept, Setting
from fedthings.stage import State

ROWS = 1 << 20
"""Numbers that a part's reports hold at once (4 MB): they are folded while a core has them near."""
PARTS = 4
"""Parts a worker at least, so that all are done at about the same time."""
EACH = 16
"""Devices a thread at least, so that none waits long for the others."""


class Cohorts:
    """The devices of a fleet at work for one engine; it holds what each device keeps for itself."""

    def __init__(self, pool: Pool, engine: str, threads: int) -> None:
        self.pool, self.engine, self.threads = pool, engine, threads
        self.states: dict[str, tuple[State, State]] = {}  # device -> of its learner, of its stages
        self._phase: int | None = None

    def train(self, engine: Engine, kept: Sequence[Kept]) -> None:
        """Train the `kept` tasks and add their reports to `engine`."""
        if engine.phase != self._phase:
            self._enter(engine)
        for wave in _waves(kept):
            self._train(engine, wave)

    def _train(self, engine: Engine, wave: Sequence[Kept]) -> None:
        each = EACH if self.threads > 1 else 1
        most = self.threads * max(each, ROWS // max(engine.spec.task.model.layout.dim, 1))
        even = -(-len(wave) // -(-len(wave) // most))  # as many parts as are needed, about as large as each other
        most = -(-even // self.threads) * self.threads
        if self.pool.size > 1:
            most = max(1, min(most, -(-len(wave) // (PARTS * self.pool.size))))
        jobs, models = [], {}
        for part in _parts(wave, most):
            states = [self.states.get(one.ticket.device) for one in part] if self.states else None
            version = part[0].ticket.version
            if version not in models:
                models[version] = engine.model(version)
            jobs.append(Job(models[version], part, states))
        for job, done in zip(jobs, self.pool.train(jobs), strict=True):
            if done.states is not None:
                reasons = done.reasons or [""] * len(job.part)
                for one, reason, state in zip(job.part, reasons, done.states, strict=True):
                    if not reason and state is not None:
                        self.states[one.ticket.device] = state
        for sums, tally in self.pool.take():
            engine.partial.merge(sums, tally)

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
        self.pool.begin(Setting(engine.spec, engine.reports[engine.phase], self.engine, self.threads))


def _waves(kept: Sequence[Kept]) -> Iterator[Sequence[Kept]]:
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


def _parts(wave: Sequence[Kept], most: int) -> Iterator[Sequence[Kept]]:
    """Yield tasks of one version each, at most `most`."""
    versions: dict[int, list[Kept]] = {}
    for one in wave:
        versions.setdefault(one.ticket.version, []).append(one)
    for _, part in sorted(versions.items()):
        for start in range(0, len(part), most):
            yield part[start : start + most]
