"""Asking a fleet in virtual time: the same rounds that real devices answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from fedthings.federation import QUORUM, question
from fedthings.learn.fleet import Fleet
from fedthings.privacy.local import LocalDp
from fedthings.privacy.secagg import SecAgg
from fedthings.privacy.shares import TwoServers
from fedthings.simulation.simulator import simulate
from fedthings.simulation.world import World


class Answer(NamedTuple):
    """What the fleet's sums say: `value` of a column, or {column: value} of several; of how many devices and samples.

    `missing` samples have no value; the round trips took `seconds`, virtual ones where simulated. Where each device
    added noise of its own, `epsilon` is what that cost it, `error` the standard error of each number in `value`, and
    each device stands for one sample; missing are so many of them, None where that is not known.
    """

    query: str
    value: Any
    devices: int
    samples: int
    missing: float | None
    rounds: int
    seconds: float
    error: Any = None
    epsilon: float | None = None
    mechanism: str = ""


def query(
    fleet: Fleet,
    text: str,
    quorum: int = QUORUM,
    *,
    world: World | None = None,
    secure: TwoServers | SecAgg | None = None,
    local: LocalDp | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> Answer:
    """Return what `fleet` answers to `text`, like `quantiles(temperature, [.05, .5, .95])` (docs/queries.md).

    Fewer than `quorum` devices with a value give no answer. With `secure` the sums add up as they would behind masks;
    with `local` each device adds noise of its own, here keyed by the `seed`.
    Raises SpecError for a query that cannot be read or answered, DataError for a column that is not there.
    """
    federation = question(text, quorum, len(fleet), seed=seed, secure=secure, local=local)
    return answered(simulate(federation, fleet, 1, world=world, out=out).summary)


def answered(summary: dict[str, Any]) -> Answer:
    """Return the answer in the `summary` of a query's run."""
    return Answer(**summary["answer"], rounds=summary["rounds"], seconds=summary["seconds"])
