"""The federation a user writes, as data; TOML to and from it; its phases; what a device builds of them."""

from __future__ import annotations

import re
import runpy
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from fedthings.errors import FedthingsError, SpecError, nearest
from fedthings.learn.learner import Learner
from fedthings.learn.local import evaluator, trainer
from fedthings.learn.metrics import nothing
from fedthings.learn.normalise import standardised, statistician, statistics_schema
from fedthings.learn.task import Task, within
from fedthings.privacy import clip
from fedthings.protocol.coordinator import Pace, Plan
from fedthings.stage import Field, Schema, Stage, chain
from fedthings.strategy import Strategy
from fedthings.vector import Array, Payload

StageSpec: TypeAlias = clip.Clip
T = TypeVar("T")


class Federation(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a coordinator and its devices must agree on; it travels in TOML.

    `pace` is when, `strategy` is how, `stages` protect or compress a report on its way.
    `devices`: how many must be there before the first version (0: as many as work at once).
    """

    task: Task
    strategy: Strategy = Strategy()
    pace: Pace = Pace()
    stages: tuple[StageSpec, ...] = ()
    seed: int = 0
    name: str = "federation"
    devices: int = 0

    def __post_init__(self) -> None:
        within("seed", self.seed, 0, 2**63 - 1)
        within("devices", self.devices, 0, 2**31)
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", self.name):
            raise SpecError(f"name is {self.name!r}: use 1 to 32 letters, digits, - and _")


class Phase(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device must know to work in one phase; it travels as the task body.

    A phase is a run of versions with one payload schema. "normalise" and "evaluate" have one version.
    """

    kind: Literal["normalise", "train", "evaluate"]
    task: Task
    strategy: Strategy
    stages: tuple[StageSpec, ...]
    seed: int


def phases(federation: Federation) -> tuple[Phase, ...]:
    """Return the phases in order: normalise where the task asks for it, train, and the closing evaluation."""

    def phase(kind: Literal["normalise", "train", "evaluate"]) -> Phase:
        stages = federation.stages if kind == "train" else ()
        return Phase(
            kind=kind,
            task=federation.task,
            strategy=federation.strategy,
            stages=stages,
            seed=federation.seed,
        )

    first = (phase("normalise"),) if federation.task.normalise == "fleet" else ()
    return (*first, phase("train"), phase("evaluate"))


CLOSING = 1000
"""Devices that the closing evaluation asks at the most."""


def plans(federation: Federation, rounds: int) -> tuple[Plan, ...]:
    """Return the phases as the coordinator sees them; `rounds` versions are trained."""
    pace = federation.pace
    count = pace.concurrency
    whole = Pace(goal=count, concurrency=count, patience=pace.patience, quorum=min(pace.quorum, count))
    kinds = {
        "normalise": Plan(whole, 1, everyone=True),
        "train": Plan(pace, rounds),
        "evaluate": Plan(whole, 1, everyone=True, most=CLOSING),
    }
    return tuple(kinds[phase.kind] for phase in phases(federation))


def follow(phase: Phase, statistics: Payload, after: Phase) -> Phase:
    """Return `after` with what `phase` learned: the fleet's scaling becomes the model's first layer."""
    if phase.kind != "normalise":
        return msgspec.structs.replace(after, task=phase.task)
    task = msgspec.structs.replace(after.task, model=standardised(after.task.model, statistics))
    return msgspec.structs.replace(after, task=task)


def schema(phase: Phase) -> Schema:
    """Return the arrays that a report of `phase` holds, and how they fold."""
    if phase.kind == "normalise":
        return statistics_schema(phase.task.model)
    if phase.kind == "evaluate":
        return ()
    return (Field("x", phase.task.model.layout.dim),)


def learner(phase: Phase) -> Learner:
    """Return what a device does in `phase`."""
    if phase.kind == "normalise":
        return statistician(phase.task)
    if phase.kind == "evaluate":
        return evaluator(phase.task)
    return trainer(phase.task, mu=phase.strategy.mu, weight=phase.strategy.weight)


def measures(phase: Phase) -> dict[str, Array]:
    """Return the metrics of a report of `phase`, each `(m,)`, with nothing measured."""
    if phase.kind == "normalise":
        return {}
    found = {name: stats[0] for name, stats in nothing(phase.task, 1).items()}
    return found | ({"train": np.zeros(2, np.int64)} if phase.kind == "train" else {})


def stage(phase: Phase) -> Stage:
    """Return the chain of the phase's stages."""
    return chain([clip.build(spec) for spec in phase.stages])


# ------------------------------------------------------------------------ files


def load(path: str | Path) -> Federation:
    """Read a federation from a TOML file, or from a Python file that defines `federation`.

    Raises SpecError with the field, the value and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise SpecError(f"there is no file {path}: name a TOML or a Python file that holds a federation")
    if path.suffix == ".py":
        try:
            found = runpy.run_path(str(path), run_name="federation").get("federation")
        except FedthingsError:
            raise
        except Exception as error:
            raise SpecError(f"{path} cannot be run: {type(error).__name__}: {error}") from None
        if not isinstance(found, Federation):
            raise SpecError(f"{path} defines no `federation = ft.Federation(...)` at its top level")
        return found
    try:
        content = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not TOML: {error}") from None
    try:
        return decode(content, Federation)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def dumps(federation: Federation) -> str:
    """Return `federation` as TOML."""
    import tomli_w

    return tomli_w.dumps(encode(federation))


def encode(spec: Struct) -> dict[str, Any]:
    """Return `spec` as plain data for TOML or CBOR."""
    data = msgspec.to_builtins(spec, builtin_types=(bytes,))
    assert isinstance(data, dict)
    return data


def decode(data: Mapping[str, Any], kind: type[T]) -> T:
    """Return the spec of type `kind` in `data`; a misspelt field is answered with the nearest valid one.

    Raises SpecError.
    """
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise SpecError(explain(str(error), kind)) from None


def explain(message: str, kind: type) -> str:
    """Put msgspec's words into ours: the field's path, what is wrong, what would be right."""
    path = match[1] if (match := re.search(r" - at `\$\.?([^`]*)`", message)) else ""
    text = message.split(" - at `")[0]
    unknown = re.search(r"unknown field `([^`]*)`", text)
    if unknown:
        owner = _owner(kind, path)
        where = f"{path}.{unknown[1]}" if path else unknown[1]
        fields = [f.name for f in msgspec.structs.fields(owner)] if owner else []
        return f"unknown field `{where}`" + (f": {nearest(unknown[1], fields)}" if fields else "")
    return f"{path}: {text}" if path else text


def _owner(kind: Any, path: str) -> Any:
    """Return the struct type at `path` below `kind`, or None where it is one of several."""
    for name in filter(None, path.replace("[...]", "").split(".")):
        if not (isinstance(kind, type) and issubclass(kind, Struct)):
            return None
        types = {f.name: f.type for f in msgspec.structs.fields(kind)}
        kind = types.get(name)
    return kind if isinstance(kind, type) and issubclass(kind, Struct) else None
