"""One phase of a federation, as data, and what is built of it: schema, learner, stages, the model on its way down."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Struct

from fedthings import hidden, private
from fedthings.aggregate import fold, step
from fedthings.aggregate.ring import Ring
from fedthings.compress import delta, low_rank, quantize, rotate, rotation, sign, sparsify
from fedthings.errors import DataError, WireError
from fedthings.learn import own, own_learner
from fedthings.learn.data import Shard, check
from fedthings.learn.learner import Fit, Learner, alone
from fedthings.learn.local import evaluator, trainer
from fedthings.learn.metrics import MANY, nothing
from fedthings.learn.normalise import standardised, statistician, statistics_schema
from fedthings.learn.task import Task
from fedthings.privacy import clip
from fedthings.privacy.central import CentralDp
from fedthings.privacy.secagg import SecAgg
from fedthings.privacy.shares import TwoServers
from fedthings.protocol.pace import Edge
from fedthings.stage import Field, Schema, Stage, chain
from fedthings.strategy import Strategy
from fedthings.vector import Array, Key, Payload, Vector

if TYPE_CHECKING:
    from fedthings.federation import Federation

StageSpec: TypeAlias = (
    clip.Clip
    | clip.AdaptiveClip
    | rotation.Rotate
    | quantize.Quantize
    | rotate.Eden
    | sparsify.TopK
    | sparsify.RandomMask
    | sign.Sign
    | low_rank.LowRank
)
Down: TypeAlias = quantize.Quantize | delta.Delta
STAGES: dict[type, Callable[[Any, Schema], Stage]] = {
    clip.Clip: clip.build,
    clip.AdaptiveClip: clip.adaptive,
    rotation.Rotate: rotation.build,
    quantize.Quantize: quantize.build,
    rotate.Eden: rotate.build,
    sparsify.TopK: sparsify.top_k,
    sparsify.RandomMask: sparsify.random_mask,
    sign.Sign: sign.build,
}
"""What makes the stage of each spec, for the arrays it is given; one of low rank also asks for the matrices."""


class Phase(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device must know to work in one phase; it travels as the task body.

    A phase is a run of versions with one payload schema. "normalise" and "evaluate" have one version.
    `reports`: the most that one version can have; it sets the scale of exact sums, which gateways make too. Devices
    are told the claim, and report nothing that it does not cover.
    """

    kind: Literal["normalise", "train", "evaluate"]
    task: Task
    strategy: Strategy
    stages: tuple[StageSpec, ...]
    privacy: CentralDp | None = None
    down: Down | None = None
    seed: int
    reports: int = 1 << 20
    edge: Edge | None = None
    secure: TwoServers | SecAgg | None = None

    @property
    def partial(self) -> bool:
        """Whether a device may do a part of the local work."""
        return self.strategy.partial and self.kind == "train"


def follow(phase: Phase, statistics: Payload, after: Phase) -> Phase:
    """Return `after` with what `phase` learned: the fleet's scaling becomes the model's first layer."""
    if phase.kind != "normalise":
        return msgspec.structs.replace(after, task=phase.task)
    task = msgspec.structs.replace(after.task, model=standardised(after.task.model, statistics))
    return msgspec.structs.replace(after, task=task)


def below(phase: Phase) -> Phase:
    """Return what the devices of an edge do in `phase`, which is the edge's: their reports make its next model."""
    assert phase.edge is not None
    return msgspec.structs.replace(
        phase,
        strategy=msgspec.structs.replace(phase.strategy, step=step.Sgd()),
        stages=(),
        down=None,
        reports=phase.edge.most if phase.kind == "train" else phase.reports,
        edge=None,
    )


def schema(phase: Phase) -> Schema:
    """Return the arrays that a report of `phase` holds, and how they fold."""
    if phase.kind == "normalise":
        return statistics_schema(phase.task.model)
    if phase.kind == "evaluate":
        return ()
    x = Field("x", phase.task.model.layout.dim, heaviest=fold.HEAVY if phase.edge else fold.WEIGHT)
    return (x, clip.BELOW) if private.adaptive(phase.stages) else (x,)


def bound(phase: Phase) -> float:
    """Return the norm that no decoded report of `phase` may have more than; inf where nothing is claimed."""
    if phase.privacy is None:
        return inf
    found = private.clipping(phase.stages)
    return found.bound if isinstance(found, clip.Clip) else 1.0  # adaptive clipping sends units of the bound


def learner(phase: Phase, engine: str = "auto", threads: int = 1) -> Learner:
    """Return what a device does in `phase`, with `engine` for its local steps on `threads`."""
    if phase.kind == "normalise":
        return statistician(phase.task)
    mu, weight, silent = phase.strategy.mu, phase.strategy.weight, phase.privacy is not None
    if isinstance(phase.task.model, own.Own):
        if phase.kind == "evaluate":
            return own_learner.evaluator(phase.task)
        trains = own_learner.trainer(phase.task, mu=mu, weight=weight, silent=silent)
    elif phase.kind == "evaluate":
        return evaluator(phase.task, engine, threads)
    else:
        trains = trainer(phase.task, mu=mu, weight=weight, engine=engine, threads=threads, silent=silent)
    return _told_the_bound(trains) if private.adaptive(phase.stages) else trains


def _told_the_bound(trains: Learner) -> Learner:
    """Return the learner whose reports bring adaptive clipping the bound that came with the model."""
    name = clip.BELOW.name

    def many(models: Payload, states: Any, shards: Any, keys: Any, efforts: Any) -> tuple[Fit, list[Any]]:
        fit, after = trains.many(models, states, shards, keys, efforts)
        told = np.broadcast_to(models[name], (len(shards), 1))
        return fit._replace(report={**fit.report, name: told}), after

    return Learner(trains.init, alone(many), many)


def measures(phase: Phase) -> dict[str, Array]:
    """Return the metrics of a report of `phase`, each `(m,)`, with nothing measured."""
    if phase.kind == "normalise" or phase.privacy is not None:
        return {}
    if isinstance(phase.task.model, own.Own):
        own.verify(phase.task)  # what it measures is known then
    found = {name: stats[0] for name, stats in nothing(phase.task, 1).items()}
    return found | ({"train": np.zeros(2, np.int64)} if phase.kind == "train" else {})


def fits(spec: Federation | Phase, shard: Shard, name: str) -> None:
    """Raise DataError unless the data of device `name` fits the task, and its reports can be summed.

    Raises SpecError where a model that is Python code cannot be had here, or secure mode cannot hide its reports.
    """
    if isinstance(spec.task.model, own.Own):
        own.verify(spec.task)
    check(shard, spec.task, name)
    if isinstance(spec, Phase):
        rings(spec)  # a task that comes from the network may ask for what cannot be hidden
    if spec.strategy.weight == "samples" and len(shard.X) > fold.WEIGHT:
        raise DataError(
            f"{name} has {len(shard.X)} training samples, and a report weighs at most {fold.WEIGHT}: "
            'keep fewer of them, divide the device, or set strategy.weight to "equal"'
        )
    if len(shard.test_X) > MANY:
        raise DataError(f"{name} has {len(shard.test_X)} test samples: {MANY} are the most, so keep fewer of them")


def stage(phase: Phase) -> Stage:
    """Return the chain of the phase's stages."""
    return chain(schema(phase), [partial(_build, spec, phase.task) for spec in phase.stages])


def _build(spec: StageSpec, task: Task, given: Schema) -> Stage:
    if isinstance(spec, low_rank.LowRank):
        return low_rank.build(spec, given, task.model.layout)
    return STAGES[type(spec)](spec, given)


def rings(phase: Phase) -> Ring | None:
    """Return how reports of `phase` lie in the rings of secure mode; None where nothing is hidden.

    Raises SpecError where they cannot.
    """
    if phase.secure is None:
        return None
    return hidden.rings(phase.secure, schema(phase), phase.stages, phase.strategy, phase.reports, measures(phase))


def sent(phase: Phase, row: Vector, version: int, bound: float = 0.0) -> Payload:
    """Return the arrays in which the model `row` `(dim,)` goes down as `version`: float32, or as `down` says.

    With it goes the `bound` of adaptive clipping, where that is a stage.
    """
    told = {clip.BELOW.name: np.array([bound], np.float32)} if private.adaptive(phase.stages) else {}
    if phase.down is None:
        return {"x": row, **told}
    encoded, _ = _down(phase, phase.down).encode({"x": row[None]}, [None], [Key(phase.seed, "", version, 0)])
    return {**{name: rows[0] for name, rows in encoded.items()}, **told}


def received(phase: Phase, arrays: Payload) -> Payload:
    """Return the model that devices train from, as `arrays` tell it. Raises WireError where they are not its arrays."""
    if phase.kind == "normalise":
        return {}
    due = sent(phase, np.zeros(phase.task.model.layout.dim, np.float32), 0)
    for name, row in due.items():
        if name not in arrays or (arrays[name].shape, arrays[name].dtype) != (row.shape, row.dtype):
            raise WireError("wrong arrays", f"the model's {name} is not {row.dtype} {row.shape}")
    if phase.down is None:
        return arrays
    decoded = _down(phase, phase.down).decode({name: arrays[name][None] for name in due})
    return {name: decoded[name][0] for name in ("x", *(name for name in due if name == clip.BELOW.name))}


def _down(phase: Phase, spec: Down) -> Stage:
    given = (Field("x", phase.task.model.layout.dim),)
    return delta.build(spec, given) if isinstance(spec, delta.Delta) else quantize.build(spec, given)


def differs(phase: Phase) -> bool:
    """Return whether models of `phase` go down as what they differ in from others (`messages.Change`)."""
    return phase.kind != "normalise" and isinstance(phase.down, delta.Delta)
