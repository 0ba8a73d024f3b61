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
from fedthings.compress import delta, low_rank, quantize, rotate, rotation, rows, sign, sparsify
from fedthings.errors import DataError, SpecError, WireError
from fedthings.learn import own, own_learner, prototypes, staying
from fedthings.learn.data import Shard, check
from fedthings.learn.engines import choose
from fedthings.learn.learner import Fit, Learner, alone
from fedthings.learn.local import evaluator, of_their_own, trainer
from fedthings.learn.metrics import MANY, nothing
from fedthings.learn.normalise import standardised, statistician, statistics_schema
from fedthings.learn.series import windowed
from fedthings.learn.task import Task
from fedthings.methods.method import Local
from fedthings.privacy import clip
from fedthings.privacy.central import CentralDp, Claim, Source
from fedthings.privacy.local import LocalDp, drawn, simulated
from fedthings.privacy.secagg import SecAgg
from fedthings.privacy.shares import TwoServers
from fedthings.protocol.pace import Edge
from fedthings.stage import Field, Schema, Stage, State, chain
from fedthings.statistics import query, randomised, specs
from fedthings.statistics.statistic import Known, Statistic, measurer
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
    | rows.SeenRows
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
"""What makes the stage of each spec, for the arrays it is given; those of low rank and seen rows ask for the layout."""


class Phase(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device must know to work in one phase; it travels as the task body.

    A phase is a run of versions with one payload schema. "normalise" and "evaluate" have one version; "query" asks what
    `query` says, or what the strategy's statistic must know before it begins.
    `reports`: the most that one version can have; it sets the scale of exact sums, which gateways make too. Devices
    are told the claim, and report nothing that it does not cover. `claim`: where two servers add the noise, what it
    is. `local`: they answer the query with noise of their own.
    """

    kind: Literal["normalise", "query", "train", "evaluate"]
    task: Task
    strategy: Strategy
    stages: tuple[StageSpec, ...]
    privacy: CentralDp | None = None
    down: Down | None = None
    seed: int
    reports: int = 1 << 20
    edge: Edge | None = None
    secure: TwoServers | SecAgg | None = None
    query: str = ""
    claim: Claim | None = None
    local: LocalDp | None = None

    def __post_init__(self) -> None:
        if self.local is not None:
            randomised.check(self.query, self.local)
        if self.query and self.kind != "query":
            raise SpecError(f"a phase of the kind {self.kind!r} asks {self.query!r}: only one of the kind 'query' asks")
        if self.privacy is not None and (self.kind != "train" or self.strategy.statistic is not None):
            raise SpecError(f"a phase of the kind {self.kind!r} under a privacy claim, which covers training alone")

    @property
    def partial(self) -> bool:
        """Whether a device may do a part of the local work."""
        return self.strategy.partial and self.kind == "train"


def follow(phase: Phase, statistics: Payload, after: Phase) -> Phase:
    """Return `after` with what `phase` learned: the fleet's scaling becomes the model's first layer."""
    if phase.kind == "query" and after.strategy.statistic is not None:
        found = specs.informed(after.strategy.statistic, statistics)
        after = msgspec.structs.replace(after, strategy=msgspec.structs.replace(after.strategy, statistic=found))
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


def statistic(phase: Phase) -> Statistic | None:
    """Return what devices sum in `phase`; None where they do something else."""
    spec = phase.strategy.statistic
    if phase.local is not None:
        return randomised.build(phase.query, phase.local)
    if phase.kind == "query":
        return query.build(phase.query) if phase.query else specs.before(spec, phase.task)
    return specs.build(spec, phase.task, phase.seed) if phase.kind == "train" and spec is not None else None


def answer(phase: Phase, known: Known, quorum: int) -> dict[str, Any]:
    """Return what the fleet answers to the query of `phase`. Raises SpecError where fewer than `quorum` devices do."""
    if phase.local is not None:
        return randomised.answer(phase.query, phase.local, known, quorum)
    return query.answer(phase.query, known, quorum)


def schema(phase: Phase) -> Schema:
    """Return the arrays that a report of `phase` holds, and how they fold."""
    if (found := statistic(phase)) is not None:
        return found.fields
    if phase.kind == "normalise":
        return statistics_schema(phase.task.model)
    if phase.kind == "evaluate":
        return ()
    x = Field("x", staying.layout(phase.task).dim, heaviest=fold.HEAVY if phase.edge else fold.WEIGHT)
    below = (clip.BELOW,) if private.adaptive(phase.stages) else ()
    return (x, *below, *phase.strategy.method.fields(x.dim))


def width(phase: Phase) -> int:
    """Return how many numbers a report of `phase` has before its stages, or a model more than that."""
    return max(phase.task.model.layout.dim, sum(f.dim for f in schema(phase)))


def bound(phase: Phase) -> float:
    """Return the norm that no decoded report of `phase` may have more than; inf where nothing is claimed."""
    if phase.privacy is None:
        return inf
    found = private.clipping(phase.stages)
    return found.bound if isinstance(found, clip.Clip) else 1.0  # adaptive clipping sends units of the bound


def learner(phase: Phase, engine: str = "auto", threads: int = 1, noise: Source = "secure") -> Learner:
    """Return what a device does in `phase`, with `engine` for its local steps on `threads`.

    Its own `noise`, where it adds any, is "keyed" in simulations.
    """
    return windowed(phase.task, _learner(phase, engine, threads, noise))


def _learner(phase: Phase, engine: str, threads: int, noise: Source) -> Learner:
    if phase.kind == "normalise":
        return statistician(phase.task)
    if phase.task.model.prototypes is not None:
        return prototypes.learner(phase.task, phase.strategy.weight, phase.kind == "train", phase.privacy is not None)
    task, mu, weight, silent = phase.task, phase.strategy.mu, phase.strategy.weight, phase.privacy is not None
    if (found := statistic(phase)) is not None:
        judge = evaluator(task, engine, threads) if phase.kind == "train" else None
        return measurer(found, judge, drawn if noise == "secure" else simulated)
    if isinstance(task.model, own.Own):
        if phase.kind == "evaluate":
            return own_learner.evaluator(task)
        trains = own_learner.trainer(task, mu=mu, weight=weight, silent=silent)
        return _told_the_bound(trains) if private.adaptive(phase.stages) else trains
    method = phase.strategy.method
    if method.corrects or task.local_epochs:
        engine = choose(task, engine, corrects=True)
    local = Local(task, mu, engine, threads)
    personal = method.personal(local) if phase.kind in method.measures else None
    if phase.kind == "evaluate":
        does = evaluator(task, engine, threads, personal)
    else:
        does = trainer(
            task,
            weight=weight,
            engine=engine,
            threads=threads,
            silent=silent,
            work=staying.alternating(task, mu) if task.local_epochs else method.work(local),
            personal=personal,
        )
    if task.local:
        does = staying.staying(does, task, phase.seed)
    return _told_the_bound(does) if phase.kind == "train" and private.adaptive(phase.stages) else does


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
    if phase.kind in ("normalise", "query") or phase.privacy is not None:
        return {}
    if isinstance(phase.task.model, own.Own):
        own.verify(phase.task)  # what it measures is known then
    found = {name: stats[0] for name, stats in nothing(phase.task, 1).items()}
    if phase.task.local or phase.kind in phase.strategy.method.measures:
        found |= of_their_own(found)
    trains = phase.kind == "train" and phase.strategy.statistic is None
    return found | ({"train": np.zeros(2, np.int64)} if trains else {})


def fits(spec: Federation | Phase, shard: Shard, name: str) -> None:
    """Raise DataError unless the data of device `name` fits the task, and its reports can be summed.

    Raises SpecError where a model that is Python code cannot be had here, or secure mode cannot hide its reports.
    """
    if isinstance(spec.task.model, own.Own):
        own.verify(spec.task)
    if isinstance(spec, Phase):  # a task that comes from the network may ask for what cannot be hidden
        if spec.secure is not None and spec.privacy is not None:
            hidden.believed(spec.claim, spec.privacy, spec.stages, sum(f.dim for f in schema(spec)))
        rings(spec)
    if spec.query:
        query.fits(spec.query, shard, name)
        return
    spec.task.window.check(shard, name)
    shard = spec.task.window.shard(shard)
    check(shard, spec.task, name)
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
        return low_rank.build(spec, given, staying.layout(task))
    if isinstance(spec, rows.SeenRows):
        return rows.build(spec, given, staying.layout(task))
    return STAGES[type(spec)](spec, given)


def rings(phase: Phase) -> Ring | None:
    """Return how reports of `phase` lie in the rings of secure mode; None where nothing is hidden.

    Raises SpecError where they cannot.
    """
    if phase.secure is None:
        return None
    metrics, fields = measures(phase), schema(phase)
    return hidden.rings(phase.secure, fields, phase.stages, phase.strategy, phase.reports, metrics, phase.claim)


def sends(phase: Phase) -> dict[str, int]:
    """Return the rows of the server's state that go down with the model in `phase`, and their dimensions."""
    method = phase.strategy.method
    return method.sends(phase.task.model.layout.dim) if phase.kind == "train" or method.chooses else {}


def sent(phase: Phase, row: Vector, version: int, bound: float = 0.0, beside: Payload | None = None) -> Payload:
    """Return the arrays in which the model `row` `(dim,)` goes down as `version`: float32, or as `down` says.

    With it go the `bound` of adaptive clipping, where that is a stage, and of `beside` what the method `sends`.
    """
    told = {clip.BELOW.name: np.array([bound], np.float32)} if private.adaptive(phase.stages) else {}
    for name, dim in sends(phase).items():
        told[name] = np.zeros(dim, np.float32) if beside is None else beside[name].astype(np.float32, copy=False)
    if phase.task.local:
        row = row[staying.travels(phase.task)]
    if phase.down is None:
        return {"x": row, **told}
    encoded, _ = _down(phase, phase.down).encode({"x": row[None]}, [None], [Key(phase.seed, "", version, 0)])
    return {**{name: rows[0] for name, rows in encoded.items()}, **told}


def first(phase: Phase) -> Vector:
    """Return the row that `phase` begins with where nothing was trained: its length is that of all."""
    found = statistic(phase)
    dim = phase.task.model.layout.dim if phase.kind != "query" else 0
    row = np.zeros(dim, np.float32)
    return row if found is None else found.start(row)


def received(phase: Phase, arrays: Payload) -> Payload:
    """Return the model that devices train from, as `arrays` tell it. Raises WireError where they are not its arrays."""
    if phase.kind == "normalise":
        return {}
    due = sent(phase, first(phase), 0)
    for name, row in due.items():
        if name not in arrays or (arrays[name].shape, arrays[name].dtype) != (row.shape, row.dtype):
            raise WireError("wrong arrays", f"the model's {name} is not {row.dtype} {row.shape}")
    if phase.down is None:
        return arrays
    decoded = _down(phase, phase.down).decode({name: arrays[name][None] for name in due})
    return {name: decoded[name][0] for name in ("x", *(n for n in due if n == clip.BELOW.name or n in sends(phase)))}


def kept(phase: Phase, model: Payload, state: State) -> Vector:
    """Return the row `(dim,)` that a device keeps for predictions: of the `model` received, and what it has itself."""
    if phase.task.local:
        return staying.whole(phase.task, model["x"], state, phase.seed)
    return phase.strategy.method.kept(model, state)


def _down(phase: Phase, spec: Down) -> Stage:
    given = (Field("x", staying.layout(phase.task).dim),)
    return delta.build(spec, given) if isinstance(spec, delta.Delta) else quantize.build(spec, given)


def differs(phase: Phase) -> bool:
    """Return whether models of `phase` go down as what they differ in from others (`bodies.Change`)."""
    return phase.kind != "normalise" and isinstance(phase.down, delta.Delta)
