"""What a method, and prototypes, can be beside; all else is refused, with the reason, when the federation is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedthings.aggregate.step import Constant, Sgd
from fedthings.compress.quantize import Quantize
from fedthings.compress.rotate import Eden
from fedthings.compress.rotation import Rotate
from fedthings.errors import SpecError
from fedthings.learn import staying
from fedthings.learn.own import Own
from fedthings.methods.method import Average, Way
from fedthings.privacy.clip import AdaptiveClip, Clip

if TYPE_CHECKING:
    from fedthings.federation import Federation

ROUNDING = (Clip, AdaptiveClip, Rotate, Quantize, Eden)
"""Stages that leave each number about as it was, or make all of them shorter alike."""
REMEDIES: dict[Way, tuple[str, str]] = {
    "asynchronous": ("pace.staleness is set", "set it to 0"),
    "stale": ("strategy.staleness is set", "leave it out"),
    "edge": ("edge is set", "leave it out: gateways that are no edges are right with every method"),
    "secure": ("secure is set", "leave it out"),
    "privacy": ("privacy is claimed", "leave it out"),
    "partial": ("strategy.partial is set", "leave it out"),
    "mu": ("strategy.mu is set", "set it to 0"),
    "samples": ('strategy.weight is "samples"', 'set it to "equal"'),
    "keep": ("task.recipe.keep is set", "set it to 0"),
    "local": ("task.local is set", "leave it out, or use ft.fedavg()"),
    "own": ("task.model is Python code", "give a list of layers, or use ft.fedavg()"),
}
"""How a federation says that it is so, and what to do."""


def check(federation: Federation) -> None:
    """Raise SpecError, with the reason, where the method of `federation`, or its prototypes, cannot be in it."""
    if federation.task.local:
        staying.layout(federation.task)  # raises where a layer is unknown
    method, strategy = federation.strategy.method, federation.strategy
    for way in _ways(federation):
        if way in method.lacks:
            said, remedy = REMEDIES[way]
            raise SpecError(f"{said} beside strategy.method {method.name}: {method.lacks[way]}; {remedy}")
    if federation.task.local and federation.edge is not None:
        raise SpecError("edge is set beside task.local: an edge keeps no layers of its devices; leave one of them out")
    if federation.task.local_epochs and federation.task.recipe.keep:
        raise SpecError("task.recipe.keep is set beside task.local_epochs, which keeps no whole model: set it to 0")
    method.fits(federation.task.recipe, strategy.mu, federation.pace.goal)
    if federation.secure is not None and method.fields(1) and strategy.weight != "equal":
        raise SpecError(
            f'strategy.weight is "samples" beside secure and strategy.method {method.name}: a weight that is cut to '
            'secure.heaviest would be right in one sum and wrong in another; set it to "equal"'
        )
    if federation.task.model.prototypes is not None:
        _alone(federation)


def _alone(federation: Federation) -> None:
    """Raise SpecError where prototypes, which are averaged and nothing else, are beside what moves them otherwise."""
    strategy, late = federation.strategy, federation.pace.staleness
    if federation.privacy is not None:
        raise SpecError(
            "privacy is claimed beside prototypes: the noise on a class's share of the samples divides its vector, "
            "which can then be anything, and nobody would see it where devices may report no metrics; leave the claim "
            "out, or train one model with ft.fedavg()"
        )
    for stage in federation.stages:
        if not isinstance(stage, ROUNDING) or (isinstance(stage, Eden) and stage.bits < 3):
            raise SpecError(
                f"stages has {stage.__struct_config__.tag} beside prototypes: it leaves too little of a class's share "
                "of the samples, which divides its vector; use ft.int8() or ft.eden(4)"
            )
    if strategy.step != Sgd():
        raise SpecError("strategy.step is not ft.sgd(1.0) beside prototypes: the fleet's are the mean, set it to that")
    if strategy.method != Average() or federation.task.local:
        raise SpecError(
            "strategy.method or task.local is set beside prototypes: each device keeps its whole network, and what "
            "travels is averaged; leave them out"
        )
    if late:
        raise SpecError(
            f"pace.staleness is {late} beside prototypes: the fleet's vectors are the mean of one version's reports, "
            "so set it to 0"
        )
    if strategy.mu:
        raise SpecError("strategy.mu is set beside prototypes: their pull is in the layer, ft.prototypes(pull=...)")


def _ways(federation: Federation) -> Iterator[Way]:
    """Yield how `federation` is."""
    strategy, pace = federation.strategy, federation.pace
    found: dict[Way, bool] = {
        "asynchronous": pace.staleness > 0,
        "stale": not isinstance(strategy.staleness, Constant),
        "edge": federation.edge is not None,
        "secure": federation.secure is not None,
        "privacy": federation.privacy is not None,
        "partial": strategy.partial,
        "mu": strategy.mu > 0,
        "samples": strategy.weight == "samples",
        "keep": federation.task.recipe.keep > 0,
        "local": bool(federation.task.local),
        "own": isinstance(federation.task.model, Own),
    }
    return (way for way, so in found.items() if so)
