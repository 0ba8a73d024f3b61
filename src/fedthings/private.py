"""What a federation must be for a privacy claim to hold; all else is refused when it is built, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedthings.aggregate.step import Mixing
from fedthings.errors import SpecError
from fedthings.learn.task import Task
from fedthings.privacy.central import CentralDp
from fedthings.privacy.clip import AdaptiveClip, Clip
from fedthings.protocol.pace import Pace
from fedthings.protocol.selection import Uniform
from fedthings.strategy import Strategy


def clipping(stages: Sequence[Any]) -> Clip | AdaptiveClip | None:
    """Return the stage that bounds a report, the only one of its kind; None where there is none."""
    found = [spec for spec in stages if isinstance(spec, Clip | AdaptiveClip)]
    if len(found) > 1:
        raise SpecError("stages clip twice: leave one of them out")
    return found[0] if found else None


def check(privacy: CentralDp, task: Task, strategy: Strategy, pace: Pace, stages: Sequence[Any], devices: int) -> None:
    """Raise SpecError where the claim `privacy` would not hold."""
    clip = clipping(stages)
    if clip is None:
        raise SpecError(
            "privacy is claimed, but stages has no clip: without a bound on a report no noise hides it; add "
            "ft.clip(...) or ft.adaptive_clip() to stages"
        )
    if strategy.weight != "equal":
        raise SpecError(
            'strategy.weight is "samples" beside privacy: how many samples a device has would show in the model; set '
            'it to "equal"'
        )
    if isinstance(strategy.step, Mixing):
        raise SpecError(
            "strategy.step is mixing beside privacy: it divides by the number of good reports, which their values "
            "decide; use sgd, momentum or an adaptive step"
        )
    if task.normalise == "fleet":
        raise SpecError(
            'task.normalise is "fleet" beside privacy: the sums of the devices\' features would leave without noise; '
            'set it to "none" and scale the data on the devices, or by ft.standardise with public figures'
        )
    if pace.staleness and not pace.separation:
        raise SpecError(
            "pace.staleness is set beside privacy, and pace.separation is 0: a device could stand twice in one "
            "version; set pace.separation to 1 or more"
        )
    if pace.staleness and isinstance(clip, AdaptiveClip):
        raise SpecError(
            "stages.adaptive_clip stands beside pace.staleness: late reports were clipped to another bound; use "
            "ft.clip(...)"
        )
    if privacy.sampled:
        _sampled(pace, devices)


def _sampled(pace: Pace, devices: int) -> None:
    """Raise SpecError where amplification by sampling cannot even be assumed."""
    where = "privacy.mechanism.amplified assumes random samples of the fleet, but "
    if devices < pace.goal:
        raise SpecError(
            f"{where}devices is {devices}: set it to the size of the fleet, at least pace.goal {pace.goal}; the "
            "sampling rate is their ratio"
        )
    if not isinstance(pace.selection, Uniform):
        raise SpecError(f"{where}pace.selection prefers some: use ft.uniform(), or ft.blt(), which assumes nothing")
    for name, least in (("staleness", 0), ("separation", 0), ("cap", 0), ("period", 0), ("concurrency", pace.goal)):
        if getattr(pace, name) != least:
            raise SpecError(
                f"{where}with pace.{name} {getattr(pace, name):g} it is not chance that decides whose reports count: "
                f"set it to {least}, or use ft.blt(), which assumes nothing"
            )


def adaptive(stages: Sequence[Any]) -> bool:
    """Return whether the bound follows the reports, so that it travels with the model."""
    return isinstance(clipping(stages), AdaptiveClip)


def refused_alone(stages: Sequence[Any]) -> None:
    """Raise SpecError where `stages`, of a federation that claims nothing, need a claim."""
    if adaptive(stages):
        raise SpecError(
            "stages.adaptive_clip stands without privacy: its count gets its noise from there; add "
            "privacy=ft.central_dp(...), or use ft.clip(...)"
        )
