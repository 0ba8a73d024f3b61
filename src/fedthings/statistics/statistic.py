"""The door of every statistic: what a device sums, and what the server makes of the sums.

A device sees the row that goes down and its own samples, and answers with sums in float64, which add up exactly over
the fleet (law 7). The server makes the next row of them, until it says stop. So a statistic works behind gateways and
in secure mode. Adding one is a file with a spec and its `build`, and a line in `specs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from fedthings.learn.data import Shard
from fedthings.learn.learner import Fit, Learner, alone
from fedthings.privacy.local import Draw, Words, drawn
from fedthings.stage import Field, Schema, State
from fedthings.vector import Array, Key, Payload

Known: TypeAlias = Mapping[str, Array]
"""What the server keeps from round to round, beside the row: named arrays."""
DONE = "done"
"""Why a statistic ends that has all it needs."""
SPARE = 3
"""Rounds more than a statistic needs: one whose sums are lost is made again."""


class Next(NamedTuple):
    """The next row `(dim,)`, what the server keeps, and why this was the last round, "" where it was not."""

    row: Array
    known: Known
    stop: str = ""


class Noise(NamedTuple):
    """What a device's own `ones` become before they leave it, by so many random `words`."""

    words: int
    add: Callable[[Array, Words], Array]


class Statistic(NamedTuple):
    """`measure` on each device, `step` on the server, at most `rounds` times, from `start`.

    `fields` are the sums; `start` gives the row to begin with from the one there is; `measure(row, shard)` a device's
    sums `(dim,)` each; `step(row, known, totals)` what follows from those of the fleet, {} known at first. Fewer than
    `needed` rounds make nothing of use. Where there is `noise`, nothing leaves a device without it.
    """

    fields: Schema
    rounds: int
    start: Callable[[Array], Array]
    measure: Callable[[Array, Shard], Payload]
    step: Callable[[Array, Known, Payload], Next]
    needed: int = 1
    noise: Noise | None = None

    @property
    def tries(self) -> int:
        """Rounds at the most, lost ones too; none is made again that costs the devices privacy."""
        return self.rounds + (SPARE if self.noise is None else 0)


def summed(**dims: int) -> Schema:
    """Return the schema of exact sums of these names and lengths."""
    return tuple(Field(name, dim, dtype="f8", per="one") for name, dim in dims.items())


def measurer(statistic: Statistic, judge: Learner | None = None, draw: Draw = drawn) -> Learner:
    """Return the learner that reports the sums of `statistic`, and what `judge` measures of the model received.

    Noise is of the words that `draw` gives.
    """

    def many(
        models: Payload,
        states: Sequence[State],
        shards: Sequence[Shard],
        keys: Sequence[Key],
        efforts: Sequence[float],
    ) -> tuple[Fit, list[State]]:
        n, told = len(shards), models["x"]
        report = {f.name: np.zeros((n, f.dim)) for f in statistic.fields}
        with np.errstate(all="ignore"):  # what is not finite is the engine's to refuse
            for i, shard in enumerate(shards):
                found = statistic.measure(told if told.ndim == 1 else told[i], shard)
                if (noise := statistic.noise) is not None:
                    found = {**found, "ones": noise.add(found["ones"], draw(keys[i], noise.words))}
                for name, sums in found.items():
                    report[name][i] = sums
        measured = {} if judge is None else judge.many(models, states, shards, keys, efforts)[0].metrics
        return Fit(report, np.ones(n, np.int64), measured), list(states)

    return Learner(lambda: None, alone(many), many)
