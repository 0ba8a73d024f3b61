"""A device's local work: all of it, or as much as there is time for."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fedthings.learn.data import Shard
from fedthings.learn.effort import effort
from fedthings.learn.learner import Fit
from fedthings.phase import Phase, learner
from fedthings.privacy.central import Source
from fedthings.protocol.events import Ticket
from fedthings.stage import State
from fedthings.vector import Key, Payload


class Training:
    """It `train`s, and remembers how many `seconds` all of the local work took when it was last done (0: never).

    `noise` "keyed" is that of the simulator, for tests.
    """

    seconds = 0.0
    noise: Source = "secure"

    def train(
        self,
        phase: Phase,
        ticket: Ticket,
        model: Payload,
        kept: Sequence[State] | None,
        shard: Shard,
        left: float,
        most: float,
    ) -> tuple[Fit, State]:
        """Return what training for `ticket` gives, with `left` seconds for it, of which it takes the share `most`.

        `kept` is what the device keeps, that of the learner first (None: nothing yet). Raises SpecError where a model
        that is code fails.
        """
        ours = learner(phase, noise=self.noise)
        share = effort(self.seconds, left, most) if phase.partial else 1.0
        began = time.monotonic()
        key = Key(phase.seed, ticket.device, ticket.version, ticket.attempt)
        done = ours.one(model, kept[0] if kept else ours.init(), shard, key, share)
        self.seconds = (time.monotonic() - began) / share
        return done
