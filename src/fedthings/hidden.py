"""Secure mode: which federations can be summed unseen, and how the reports of a phase lie in the rings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

from msgspec import Struct

from fedthings.aggregate import fold
from fedthings.aggregate.ring import COARSEST, Ring, room
from fedthings.aggregate.step import Constant, Mixing
from fedthings.compress import rotation
from fedthings.errors import SpecError
from fedthings.privacy import sketch
from fedthings.privacy.clip import Clip
from fedthings.privacy.secagg import SecAgg
from fedthings.privacy.shares import TwoServers
from fedthings.protocol.pace import Pace
from fedthings.stage import Schema
from fedthings.strategy import Strategy
from fedthings.vector import Array


def check(spec: TwoServers | SecAgg, pace: Pace, strategy: Strategy) -> None:
    """Raise SpecError, with the reason, where sets of reports cannot be summed unseen at this pace by this strategy."""
    if pace.goal < spec.min_batch:
        raise SpecError(
            f"secure.min_batch is {spec.min_batch}, above pace.goal {pace.goal}: no version could ever be summed"
        )
    if not isinstance(strategy.staleness, Constant):
        raise SpecError(
            "strategy.staleness is set beside secure: in a sum where most reports count k times, what is left modulo k "
            "is of the few that do not; let all count alike, as in ft.fedavg()"
        )
    if isinstance(strategy.step, Mixing) and pace.staleness:
        raise SpecError(
            f"pace.staleness is {pace.staleness} with mixing beside secure: what the reports of each version weigh is "
            "hidden; set it to 0"
        )
    if isinstance(spec, SecAgg):
        _together(spec, pace)


def _together(spec: SecAgg, pace: Pace) -> None:
    """Raise SpecError where devices cannot hide their reports together at this pace."""
    if pace.staleness:
        raise SpecError(
            f"pace.staleness is {pace.staleness} beside secagg: the masks of a version cancel among its own reports; "
            "set it to 0, or use ft.two_servers"
        )
    for name, least, why in (
        ("quorum", 1, "a version with fewer reports than secure.min_batch is made without them"),
        ("period", 0, "a version ends when its devices have reported"),
    ):
        if getattr(pace, name) != least:
            raise SpecError(f"pace.{name} is {getattr(pace, name):g} beside secagg: {why}; set it to {least}")
    spec.degree(pace.concurrency)


def rings(
    spec: TwoServers | SecAgg,
    fields: Schema,
    stages: Sequence[Struct],
    strategy: Strategy,
    reports: int,
    metrics: Mapping[str, Array],
) -> Ring:
    """Return how `reports` reports of one version, with the arrays `fields` and `metrics`, lie in the rings.

    A device asks this too, before it rounds anything. Raises SpecError, with the reason, where they cannot.
    """
    dim = sum(f.dim for f in fields if f.dtype == "f4")
    wide = fold.announced(tuple(f for f in fields if f.dtype == "f8"), reports)
    heaviest = spec.heaviest if strategy.weight == "samples" else 1
    sizes = tuple((name, len(sums)) for name, sums in sorted(metrics.items()))
    if not dim:
        return Ring(spec.bits, 0, 0, 0.0, heaviest, wide, sizes)
    most = room(spec.bits, reports + 1)  # one may come too many while the helper is asked
    if most < COARSEST:
        raise SpecError(
            f"secure.bits is {spec.bits}, which has no room for {reports} reports of {COARSEST} steps each: "
            f"{'set it to 32, or ' if spec.bits == 16 else ''}lower pace.concurrency"
        )
    bound, reach = _reach(stages, dim)
    longest = 0.0
    if spec.norms:
        _may_be_seen(strategy, dim)
        most = min(most, int(sketch.widest(spec.bits) * reach / bound))  # projections must not wrap either
        longest = sqrt((most * bound / reach) ** 2 + dim / 4)  # and what rounding adds
    return Ring(spec.bits, dim, most, reach * heaviest / most, heaviest, wide, sizes, longest)


def _reach(stages: Sequence[Struct], dim: int) -> tuple[float, float]:
    """Return what no update is longer than after `stages` (L2), and what no number of it goes beyond."""
    for stage in stages:
        if not isinstance(stage, Clip | rotation.Rotate):
            raise SpecError(
                f"stages has {type(stage).__name__} beside secure: what it sends is undone report by report, and none "
                "can be seen; leave it out, and set secure.bits to 16 for half of the bytes"
            )
    match list(stages):
        case [Clip(bound=bound)]:
            return bound, bound
        case [Clip(bound=bound), rotation.Rotate()]:
            return bound, rotation.largest(bound, dim)
    raise SpecError(
        "secure needs a bound on every number, so that sums cannot wrap unseen: set stages to (ft.clip(...),), or to "
        "(ft.clip(...), ft.rotate()) for secure.bits of 16"
    )


def _may_be_seen(strategy: Strategy, dim: int) -> None:
    """Raise SpecError where projections of a report would say too much, or its length too little."""
    if strategy.weight != "equal":
        raise SpecError(
            'secure.norms is set with strategy.weight "samples": a hidden weight could say anything; set it to "equal"'
        )
    if dim < sketch.LEAST:
        raise SpecError(
            f"secure.norms is set for a model of {dim} parameters: of fewer than {sketch.LEAST} the "
            f"{sketch.PROJECTIONS} projections that the servers see would say too much; leave it out"
        )
