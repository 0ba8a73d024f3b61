"""Canaries in a simulated federation: devices whose reports are easy to find, if anything is (Andrew et al. 2023).

A coin says for each canary whether its reports are a random direction as long as the clip allows, or zeros, which is
what the claim compares. The attacker has every version, the data of all others, and all but the coins.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedthings.errors import SpecError
from fedthings.federation import Federation
from fedthings.history import Line
from fedthings.learn.engines import choose
from fedthings.learn.fleet import Fleet
from fedthings.learn.learner import Fit, Learner
from fedthings.outgoing import Encoded, Outgoing
from fedthings.privacy import blt
from fedthings.privacy.audit import Shown, shown
from fedthings.privacy.central import Claim
from fedthings.privacy.clip import BELOW, Clip, bounded
from fedthings.private import clipping
from fedthings.simulation.cohort import Cohorts
from fedthings.simulation.pool import Here
from fedthings.simulation.simulator import Simulator, alone_at_work, verify
from fedthings.simulation.worker import Setting, Worker
from fedthings.simulation.world import Steady
from fedthings.stage import State
from fedthings.vector import Array, Key, Vector, keyed

MOST = 1000
"""Canaries at the most where none are asked for: they can show an epsilon of about 5."""
DELTA = 1e-5
"""Where nothing is claimed."""
LONG = 1e6
"""A length above any clip's bound: the clip makes it the bound."""


class Audited(NamedTuple):
    """What the attack has `shown` at `delta`, beside what is `claimed` of this run, None where nothing is.

    Of `canaries` so many have `reported`; those who did not are known not to show.
    """

    shown: Shown
    claimed: float | None
    delta: float
    canaries: int
    reported: int


def audit(
    federation: Federation,
    fleet: Fleet,
    rounds: int,
    canaries: int = 0,
    confidence: float = 0.95,
    on_version: Callable[[Line], None] | None = None,
) -> Audited:
    """Train `rounds` versions with some devices of `fleet` as canaries, attack them, and return what that shows.

    `canaries` is how many (0: half of the fleet, at most 1,000). All versions are held, `(rounds, dim)`.
    Raises SpecError, DataError.
    """
    verify(federation, fleet, rounds)
    if federation.edge is not None:
        raise SpecError("edge is set: an edge's report is that of many devices, and an audit is of one; leave it out")
    if federation.query or federation.strategy.statistic is not None:
        raise SpecError("the federation sums statistics, and an audit is of updates: audit one that trains by gradient")
    canaries = canaries or min(MOST, len(fleet) // 2)
    if not 2 <= canaries <= len(fleet):
        raise SpecError(f"canaries is {canaries}: give 2 to {len(fleet)}, which is how many devices there are")
    if not 0.5 <= confidence < 1:
        raise SpecError(f"confidence is {confidence}: give 0.5 or more, and less than 1, such as 0.95")
    seed = federation.seed
    chosen = keyed(seed, "audit", "who").permutation(len(fleet))[:canaries]
    coins = keyed(seed, "audit", "coins").random(canaries) < 0.5
    birds = {fleet.names[int(who)]: bool(coin) for who, coin in zip(chosen, coins, strict=True)}
    with alone_at_work():
        pool = Here(fleet)
        pool.worker = aviary = Aviary(fleet, birds)
        engine = choose(federation.task, "auto")
        threads = len(os.sched_getaffinity(0)) if engine == "kernels" else 1
        watched = Watched(federation, fleet, rounds, aviary, Cohorts(pool, engine, threads))
        watched.run(on_version, None, False)
    releases = watched.engine.releases
    claim = None if releases is None else releases.claim
    scores, inside = _scores(watched, birds, claim)
    delta = DELTA if claim is None else claim.privacy.left[1]
    claimed = None if claim is None else claim.epsilon(len(watched.steps)) - claim.privacy.spent[0]
    return Audited(shown(scores, inside, delta, confidence), claimed, delta, canaries, len(scores))


def direction(seed: int, name: str, dim: int) -> Vector:
    """Return the direction `(dim,)` of the canary `name`, of length 1."""
    row = keyed(seed, "audit", "direction", name).standard_normal(dim, np.float32)
    return np.asarray(row / np.linalg.norm(row), np.float32)


class Aviary(Worker):
    """A worker among whose devices are canaries: `birds` says which, and whether they are in."""

    def __init__(self, fleet: Fleet, birds: dict[str, bool]) -> None:
        super().__init__(fleet)
        self.birds = birds
        self.known: Array = np.zeros(0)  # the sum of what all others have reported since it was last taken

    def begin(self, setting: Setting) -> None:
        """Begin a phase; in the training one the canaries sing."""
        super().begin(setting)
        if setting.spec.kind == "train":
            self.known = np.zeros(setting.spec.task.model.layout.dim)
            self.clip = clipping(setting.spec.stages)
            self.weighs = setting.spec.strategy.weight == "samples"
            self.learner = Learner(self.learner.init, self.learner.one, self._singing(self.learner.many))
            self.outgoing = _Silenced(setting, self.birds)

    def _singing(self, trains: Callable[..., tuple[Fit, list[State]]]) -> Callable[..., tuple[Fit, list[State]]]:
        def many(model: Any, states: Any, shards: Any, keys: Sequence[Key], efforts: Any) -> tuple[Fit, list[State]]:
            fit, after = trains(model, states, shards, keys, efforts)
            x = np.array(fit.report["x"])
            others = np.array([key.device not in self.birds for key in keys])
            self._know(x[others], fit, others)
            for i in np.flatnonzero(~others).tolist():
                name = keys[i].device
                long = LONG if self.clip is not None else float(np.linalg.norm(x[i]))
                x[i] = long * direction(self.seed, name, x.shape[1]) if self.birds[name] else 0
            return fit._replace(report={**fit.report, "x": x}), after

        return many

    def _know(self, x: Array, fit: Fit, others: Array) -> None:
        """Note what the devices that are no canaries report, after the clip."""
        if self.clip is not None:
            bound = self.clip.bound if isinstance(self.clip, Clip) else fit.report[BELOW.name][others]
            x = bounded(x, bound)
        weights = fit.weight[others] if self.weighs else np.ones(len(x))
        self.known += np.nan_to_num(weights @ x.astype(np.float64))


class _Silenced(Outgoing):
    """The way out of reports; one that is zero says nothing about the clip's bound either."""

    def __init__(self, setting: Setting, birds: dict[str, bool]) -> None:
        super().__init__(setting.spec)
        self.birds = birds

    def encode(self, fit: Fit, states: Sequence[State], keys: Sequence[Key]) -> Encoded:
        """Return the n reports as they are sent."""
        sent = super().encode(fit, states, keys)
        if BELOW.name in sent.fit.report:
            told = np.array(sent.fit.report[BELOW.name])
            told[[self.birds.get(key.device) is False for key in keys]] = 0
            sent = sent._replace(fit=sent.fit._replace(report={**sent.fit.report, BELOW.name: told}))
        return sent


class Watched(Simulator):
    """A simulator that notes how each version differs from the one before, and who has reported to it."""

    def __init__(self, federation: Federation, fleet: Fleet, rounds: int, aviary: Aviary, cohorts: Cohorts) -> None:
        super().__init__(federation, fleet, rounds, None, None, None, Steady(), cohorts)
        self.aviary = aviary
        self.steps: list[Vector] = []  # (dim,) each, without what the others have reported
        self.reported: list[set[str]] = []

    def _advance(self) -> None:
        trains, reported = self.engine.spec.kind == "train", {kept.ticket.device for kept in self.kept}
        before = self.engine.rows[self.engine.trained]
        super()._advance()
        if not trains:
            return
        change = np.asarray(self.engine.rows[self.engine.trained] - before, np.float64)
        known, self.aviary.known = self.aviary.known, np.zeros_like(self.aviary.known)
        if square := float(known @ known):
            change -= known * (known @ change / square)  # whatever the server's step has made of it
        self.steps.append(change.astype(np.float32))
        self.reported.append(reported)


def _scores(watched: Watched, birds: dict[str, bool], claim: Claim | None) -> tuple[Array, Array]:
    """Return the score of each canary that has reported `(m,)`, and whether it was in `(m,)`.

    It is the change of the model along the canary's direction, in the versions it reported to: a matched filter, after
    the noise's dependence over time is undone. Where the claim rests on nobody knowing who reported, all versions
    count, and all canaries.
    """
    seen, n = np.stack(watched.steps), len(watched.steps)
    fit = None if claim is None else claim.fit
    response = np.eye(1, n)[0] if fit is None else blt.column(fit.theta, fit.omega, n)
    hidden = claim is not None and claim.share > 0
    scores, inside = [], []
    for name, coin in birds.items():
        there = np.array([hidden or name in reported for reported in watched.reported], float)
        if not there.any():
            continue
        along = seen @ direction(watched.federation.seed, name, seen.shape[1])
        expected = np.convolve(response, there)[:n]
        scores.append(float(np.convolve(response, along)[:n] @ expected / np.linalg.norm(expected)))
        inside.append(coin)
    return np.array(scores), np.array(inside, bool)
