"""The way of a report from the learner to the wire: through its stages, and in secure mode into the rings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedthings.aggregate import ring
from fedthings.learn.learner import Fit
from fedthings.phase import Phase, rings, stage
from fedthings.stage import State
from fedthings.vector import Array, Key


class Encoded(NamedTuple):
    """n reports as they are sent, what their stages keep, and why one says nothing where only its device can see it.

    `reasons` are "" where it does say something, or where others will see that it does not `(n,)`.
    """

    fit: Fit
    states: Sequence[State]
    reasons: Array


class Outgoing:
    """What reports of the phase `spec` go through."""

    def __init__(self, spec: Phase) -> None:
        self.stage, self.ring = stage(spec), rings(spec)

    def encode(self, fit: Fit, states: Sequence[State], keys: Sequence[Key]) -> Encoded:
        """Return the n reports of `fit` as they are sent, with a state and a key for each device."""
        report, after = self.stage.encode(fit.report, states, keys)
        if self.ring is None:
            return Encoded(fit._replace(report=report), after, np.full(len(keys), "", dtype=object))
        hidden, reasons = ring.encode(self.ring, report, fit.weight, fit.metrics, keys)
        return Encoded(Fit(hidden, np.ones(len(keys), np.int64), {}), after, reasons)
