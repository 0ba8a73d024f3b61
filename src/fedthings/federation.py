"""The federation a user writes, as data; TOML to and from it; its phases; what a device builds of them."""

from __future__ import annotations

import re
import runpy
import tomllib
import traceback
from collections.abc import Callable
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Struct

from fedthings import hidden, private
from fedthings.aggregate import fold, step
from fedthings.aggregate.ring import Ring
from fedthings.compress import delta, low_rank, quantize, rotate, rotation, sign, sparsify
from fedthings.errors import DataError, FedthingsError, SpecError, WireError
from fedthings.learn import own, own_learner
from fedthings.learn.data import Shard, check
from fedthings.learn.effort import HASTE
from fedthings.learn.learner import Fit, Learner, alone
from fedthings.learn.local import evaluator, trainer
from fedthings.learn.metrics import MANY, nothing
from fedthings.learn.normalise import standardised, statistician, statistics_schema
from fedthings.learn.task import Task, within
from fedthings.privacy import clip
from fedthings.privacy.central import CentralDp
from fedthings.privacy.shares import TwoServers
from fedthings.protocol.pace import Edge, Pace, Plan
from fedthings.spelling import decode, sound
from fedthings.stage import Field, Schema, Stage, chain
from fedthings.strategy import Strategy
from fedthings.vector import Array, Key, Payload, Vector

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


class Federation(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a coordinator and its devices must agree on; it travels in TOML.

    `pace` is when, `strategy` is how, `stages` protect or compress a report on its way, and `down` the model on its.
    `devices`: how many must be there before the first version (0: as many as work at once). `privacy` is what is
    claimed of the models: with it, devices report no metrics, and no closing evaluation is made. `secure` hides each
    report from the coordinator. With `edge` the participants are edges, which `pace`, `stages`, `down` and `devices`
    then speak of.
    """

    task: Task
    strategy: Strategy = Strategy()
    pace: Pace = Pace()
    stages: tuple[StageSpec, ...] = ()
    privacy: CentralDp | None = None
    down: Down | None = None
    seed: int = 0
    name: str = "federation"
    devices: int = 0
    edge: Edge | None = None
    secure: TwoServers | None = None

    def __post_init__(self) -> None:
        for name in ("task", "strategy", "pace", *(("edge",) if self.edge else ())):
            sound(name, getattr(self, name))
        if self.edge is not None and not isinstance(self.strategy.staleness, step.Constant):
            raise SpecError(
                "strategy.staleness is set beside edge: a sum has room for a share or a weight, and an edge weighs as "
                "much as its devices; leave one of them out"
            )
        for index, spec in enumerate(self.stages):
            sound(f"stages[{index}]", spec)
        if self.privacy is not None:
            sound("privacy", self.privacy)
            if self.edge is not None:
                raise SpecError(
                    "edge is set beside privacy: an edge's report is that of many devices, and no bound on it bounds "
                    "what one of them says; leave one of them out"
                )
            private.check(self.privacy, self.task, self.strategy, self.pace, self.stages, self.devices)
        else:
            private.refused_alone(self.stages)
        if self.stages and not isinstance(self.task.model, own.Own):
            stage(next(phase for phase in phases(self) if phase.kind == "train"))  # do they go together?
        if self.secure is not None:
            sound("secure", self.secure)
            hidden.check(self.secure, self.pace, self.strategy)
            if self.privacy is not None:
                raise SpecError(
                    "secure is set beside privacy: each server would have to add noise to its share, which is not "
                    "built; leave one of them out"
                )
            if self.edge is not None:
                raise SpecError(
                    "secure is set beside edge: an edge reads the reports of its devices, which secure mode is to "
                    "hide; leave one of them out"
                )
            if not isinstance(self.task.model, own.Own):
                for phase in phases(self):
                    rings(phase)
        slack = self.pace.slack
        if self.strategy.partial and 0 < slack < 1 / HASTE:
            raise SpecError(
                f"pace.slack is {slack} beside strategy.partial: a device works for {HASTE:g} of the time that it has, "
                f"so it would have less every time; give at least {1 / HASTE:g}, or 0 for the same deadline"
            )
        within("seed", self.seed, 0, 2**63 - 1)
        within("devices", self.devices, 0, 2**31)
        check_name(self.name)


def check_name(name: str) -> None:
    """Raise SpecError unless a federation can have this name, and a directory of it among files of ours."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name):
        raise SpecError(f"name is {name!r}: use 1 to 32 letters, digits, - and _")
    if name in ("lock", "passwords"):
        raise SpecError(f"name is {name!r}: choose another, which no file of ours has")


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
    secure: TwoServers | None = None

    @property
    def partial(self) -> bool:
        """Whether a device may do a part of the local work."""
        return self.strategy.partial and self.kind == "train"


def phases(federation: Federation) -> tuple[Phase, ...]:
    """Return the phases in order: normalise where the task asks for it, train, the closing evaluation where it may be.

    Raises SpecError where a model that is Python code cannot be had here.
    """
    if isinstance(federation.task.model, own.Own):
        own.verify(federation.task)

    def phase(kind: Literal["normalise", "train", "evaluate"]) -> Phase:
        stages = federation.stages if kind == "train" else ()
        # While a federation is paused, all that are at work may report toward one version.
        most = max(federation.pace.goal, federation.pace.concurrency) if kind == "train" else 1 << 20
        return Phase(
            kind=kind,
            task=federation.task,
            strategy=federation.strategy,
            stages=stages,
            privacy=federation.privacy,
            down=federation.down,
            seed=federation.seed,
            reports=most,
            edge=federation.edge,
            secure=federation.secure,
        )

    first = (phase("normalise"),) if federation.task.normalise == "fleet" else ()
    last = (phase("evaluate"),) if federation.privacy is None else ()  # what devices measure is not covered
    return (*first, phase("train"), *last)


CLOSING = 1000
"""Devices that the closing evaluation asks at the most."""


def plans(federation: Federation, rounds: int) -> tuple[Plan, ...]:
    """Return the phases as the coordinator sees them; `rounds` versions are trained."""
    if rounds < 1:
        raise SpecError(f"rounds is {rounds}: it must be at least 1")
    pace, count = federation.pace, federation.pace.concurrency
    if federation.secure is not None:  # fewer could not be summed
        pace = msgspec.structs.replace(pace, quorum=max(pace.quorum, federation.secure.min_batch))
    whole = Pace(goal=count, concurrency=count, patience=pace.patience, quorum=min(pace.quorum, count))
    kinds = {
        "normalise": Plan(whole, 1, everyone=True),
        "train": Plan(pace, rounds),
        "evaluate": Plan(whole, 1, everyone=True, most=CLOSING, optional=True),
    }
    return tuple(kinds[phase.kind] for phase in phases(federation))


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


# ------------------------------------------------------------------------ files


def load(path: str | Path) -> Federation:
    """Read a federation from a TOML file, or from a Python file that defines `federation`.

    Raises SpecError with the field, the value and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise SpecError(f"there is no file {path}: name a TOML or a Python file that holds a federation")
    if path.suffix == ".py":
        return _run(path)
    try:
        content = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not TOML: {error}") from None
    try:
        return decode(content, Federation)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def _run(path: Path) -> Federation:
    """Return the `federation` that a Python file defines."""
    try:
        found = runpy.run_path(str(path), run_name="federation").get("federation")
    except FedthingsError as error:
        raise SpecError(f"{path}: {error}") from None
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f" in line {lines[-1]}" if lines else ""
        raise SpecError(f"{path} cannot be run: {type(error).__name__}{where}: {error}") from None
    if not isinstance(found, Federation):
        raise SpecError(f"{path} defines no `federation = ft.Federation(...)` at its top level")
    return found


def dumps(federation: Federation) -> str:
    """Return `federation` as TOML."""
    import tomli_w

    data = msgspec.to_builtins(federation)  # bytes as base64, which `load` reads back
    return tomli_w.dumps({name: value for name, value in data.items() if value is not None})


def encode(spec: Struct) -> dict[str, Any]:
    """Return `spec` as plain data for TOML or CBOR."""
    data = msgspec.to_builtins(spec, builtin_types=(bytes,))
    assert isinstance(data, dict)
    return data
