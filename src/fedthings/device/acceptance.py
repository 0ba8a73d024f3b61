"""Whether a device does a task: what its owner's rules and its own rows say of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fedthings.bodies import Work
from fedthings.device.rules import Rules, advice
from fedthings.errors import DataError, SpecError, WireError
from fedthings.learn.data import Shard
from fedthings.phase import Phase, fits
from fedthings.privacy.secagg import SecAgg
from fedthings.spelling import decode

UNFIT = "does not fit"
"""What the coordinator is told of a task that cannot be done here; the owner is told why."""
WORDS = 240
"""Characters of a reason that a device gives at the most."""


class Declined(NamedTuple):
    """What the owner is `told`, and the `reason` for the coordinator."""

    told: str
    reason: str


def accepted(
    read: Callable[[], Work], rules: Rules, federation: str, check: Callable[[Phase], None]
) -> Phase | Declined:
    """Return the phase that the work describes, or why it is not done: by the owner's rules, or by what is raised.

    `read` raises WireError, `check` DataError or SpecError.
    """
    query = ""
    try:
        phase = decode(read().spec, Phase)
        query = phase.query
        if refusal := rules.refusal(federation, phase):  # first: what it does not allow is not imported
            return Declined(f"declined: {refusal}{advice(phase, refusal)}", refusal)
        check(phase)
    except (SpecError, DataError, WireError) as error:
        mended = query and isinstance(error, DataError)  # by whoever asks, who so learns which columns there are
        return Declined(f"cannot do the task: {error}", str(error) if mended else UNFIT)
    return phase


def does(shard: Shard, name: str, sleeps: bool, phase: Phase) -> None:
    """Raise DataError or SpecError unless device `name` can do `phase` with the rows of `shard`."""
    if phase.edge is not None:
        raise SpecError("in this federation gateways take part, with devices of their own: join one of them")
    if isinstance(phase.secure, SecAgg) and sleeps:
        raise SpecError("in this federation devices hide their reports together, awake: join without --wake")
    fits(phase, shard, name)
