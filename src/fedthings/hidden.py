"""Secure mode: which federations can be summed unseen, under which claims, and how reports lie in the rings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import sqrt

from msgspec import Struct

from fedthings.aggregate import fold
from fedthings.aggregate.ring import COARSEST, FINEST, Ring, room
from fedthings.aggregate.step import Constant, Mixing
from fedthings.compress import rotation
from fedthings.errors import SpecError
from fedthings.privacy import distributed, rounding, sketch
from fedthings.privacy.central import CentralDp, Claim, Source
from fedthings.privacy.clip import AdaptiveClip, Clip
from fedthings.privacy.secagg import SecAgg
from fedthings.privacy.shares import TwoServers
from fedthings.protocol.pace import Pace
from fedthings.stage import Schema
from fedthings.strategy import Strategy
from fedthings.vector import Array


def check(
    spec: TwoServers | SecAgg, pace: Pace, strategy: Strategy, privacy: CentralDp | None, stages: Sequence[Struct]
) -> None:
    """Raise SpecError, with the reason, where sets of reports cannot be summed unseen, or under the claim `privacy`."""
    if pace.goal < spec.min_batch:
        raise SpecError(
            f"secure.min_batch is {spec.min_batch}, above pace.goal {pace.goal}: no version could ever be summed"
        )
    if isinstance(strategy.step, Mixing) and pace.staleness:
        raise SpecError(
            f"pace.staleness is {pace.staleness} with mixing beside secure: what the reports of each version weigh is "
            "hidden; set it to 0"
        )
    if isinstance(spec, SecAgg):
        _together(spec, pace, strategy, privacy)
    elif privacy is not None:
        _claim(spec, strategy, privacy, stages)


def _together(spec: SecAgg, pace: Pace, strategy: Strategy, privacy: CentralDp | None) -> None:
    """Raise SpecError where devices cannot hide their reports together at this pace, for this strategy or claim."""
    if privacy is not None:
        raise SpecError(
            "privacy is claimed beside secagg: the coordinator takes off all masks, so it would have the sum without "
            "noise; leave it out, or use ft.two_servers"
        )
    if not isinstance(strategy.staleness, Constant):
        raise SpecError(
            "strategy.staleness is set beside secagg: no report of an earlier version counts; leave it out, or use "
            "ft.two_servers"
        )
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


def _claim(spec: TwoServers, strategy: Strategy, privacy: CentralDp, stages: Sequence[Struct]) -> None:
    """Raise SpecError where two servers cannot make the noise of the claim `privacy`."""
    if spec.norms:
        raise SpecError(
            "secure.norms is set beside privacy: both servers would see projections of each report, without noise; "
            "leave one of them out"
        )
    if privacy.sampled:
        raise SpecError(
            "privacy.mechanism.amplified is set beside secure: it rests on nobody knowing whose reports are in a sum, "
            "and both servers know; use ft.blt()"
        )
    if not isinstance(strategy.staleness, Constant):
        raise SpecError(
            "strategy.staleness is set beside secure and privacy: reports of each lag are summed apart, and each sum "
            "would need noise of its own; let all count alike, as in ft.fedavg()"
        )
    if any(isinstance(stage, AdaptiveClip) for stage in stages):
        raise SpecError(
            "stages.adaptive_clip stands beside secure: how many steps a number has in the ring is fixed, and so must "
            "the bound be; use ft.clip(...)"
        )


def claimed(
    spec: TwoServers,
    privacy: CentralDp,
    stages: Sequence[Struct],
    pace: Pace,
    *,
    reports: int,
    rounds: int,
    dim: int,
    source: Source,
) -> Claim:
    """Return what is claimed of `rounds` versions of at most so many `reports`, with the noise of two servers.

    Raises SpecError where the budget is too small, or the ring.
    """
    bound, reach = _reach(stages, dim)
    return distributed.claimed(
        privacy,
        Clip(bound),
        bits=spec.bits,
        reports=reports + 1,
        reach=reach,
        finest=FINEST,
        goal=pace.goal,
        separation=pace.separation,
        cap=pace.cap,
        rounds=rounds,
        dim=dim,
        source=source,
    )


def believed(claim: Claim | None, privacy: CentralDp, stages: Sequence[Struct], dim: int) -> None:
    """Raise SpecError where a task's `claim` is not one of `privacy`, with the noise that it needs: a device asks."""
    if claim is None or not claim.shared or (claim.privacy, claim.dim) != (privacy, dim):
        raise SpecError("the task has no noise for what it claims: privacy and claim differ")
    distributed.check(claim)
    if _reach(stages, dim)[0] > claim.bound:
        raise SpecError(f"the task's updates are longer than the {claim.bound:g} that its claim says")


def check_gateways(spec: TwoServers | SecAgg | None, gateways: Collection[str]) -> None:
    """Raise SpecError where `gateways` cannot sum what is hidden."""
    if gateways and isinstance(spec, SecAgg):
        raise SpecError(
            f"secagg is set, and the gateway {min(gateways)} sends sums: with whom each device masks is settled by the "
            "coordinator, device by device; let the devices join it, or use ft.two_servers"
        )
    if gateways and isinstance(spec, TwoServers) and spec.norms:
        raise SpecError(
            f"secure.norms is set, and the gateway {min(gateways)} sends sums of shares: a norm is checked by the "
            "share of one report; leave norms out, or let the devices join the coordinator"
        )


def rings(
    spec: TwoServers | SecAgg,
    fields: Schema,
    stages: Sequence[Struct],
    strategy: Strategy,
    reports: int,
    metrics: Mapping[str, Array],
    claim: Claim | None = None,
) -> Ring:
    """Return how `reports` reports of one version, with the arrays `fields` and `metrics`, lie in the rings.

    Under a `claim` the steps are its own. A device asks this too, before it rounds anything. Raises SpecError, with the
    reason, where they cannot.
    """
    dim = sum(f.dim for f in fields if f.dtype == "f4")
    wide = fold.announced(tuple(f for f in fields if f.dtype == "f8"), reports)
    heaviest = spec.heaviest if strategy.weight == "samples" else 1
    sizes = tuple((name, len(sums)) for name, sums in sorted(metrics.items()))
    if not dim:
        return Ring(spec.bits, 0, 0, 0.0, heaviest, wide, sizes)
    bound, reach = _reach(stages, dim)
    if claim is not None:
        cut = rounding.longest(bound / claim.unit, dim)
        most = distributed.steps(claim, reach)
        return Ring(spec.bits, dim, most, claim.unit, 1, wide, sizes, cut=cut, over=claim.goal)
    most = room(spec.bits, reports + 1)  # one may come too many while the helper is asked
    if most < COARSEST:
        raise SpecError(
            f"secure.bits is {spec.bits}, which has no room for {reports} reports of {COARSEST} steps each: "
            f"{'set it to 32, or ' if spec.bits == 16 else ''}lower pace.concurrency"
        )
    longest = 0.0
    if spec.norms:
        _may_be_seen(strategy, dim)
        most = min(most, int(sketch.widest(spec.bits) * reach / bound))  # projections must not wrap either
        longest = sqrt((most * bound / reach) ** 2 + dim / 4)  # and what rounding adds
    return Ring(spec.bits, dim, most, reach * heaviest / most, heaviest, wide, sizes, longest)


def seen(spec: TwoServers | SecAgg, claimed: bool) -> list[str]:
    """Return who sees what of a report in this mode, a sentence each, for the ledger; `claimed`: with noise."""
    if isinstance(spec, SecAgg):
        return [
            "hidden: each report, from a coordinator that follows the protocol, unless too many devices help it. Not "
            "hidden: who reported when",
            f"sums: the coordinator sees those of at least {spec.min_batch} reports: of updates, weights and metrics",
        ]
    what = "updates, with the helper's noise" if claimed else "updates, weights and metrics"
    said = [
        "hidden: each report, from either server alone; both together read all. Not hidden: who reported when",
        f"sums: the coordinator sees those of at least {spec.min_batch} reports: of {what}",
    ]
    if spec.norms:
        said.append(
            f"norms: both servers see the length of each report and {sketch.PROJECTIONS:,} random projections of it, "
            "once, to leave out those that are too long; the fewer parameters the more that says"
        )
    return said


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
