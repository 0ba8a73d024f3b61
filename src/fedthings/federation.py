"""The federation a user writes, as data; its phases, in order; TOML to and from it."""

from __future__ import annotations

import re
import runpy
import tomllib
import traceback
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from fedthings import compatible, hidden, private
from fedthings.aggregate import step
from fedthings.errors import FedthingsError, SpecError
from fedthings.learn import own
from fedthings.learn.effort import HASTE
from fedthings.learn.model import mlp
from fedthings.learn.task import Task, within
from fedthings.phase import Down, Phase, StageSpec, rings, stage, statistic
from fedthings.privacy.central import CentralDp
from fedthings.privacy.local import LocalDp
from fedthings.privacy.secagg import SecAgg
from fedthings.privacy.shares import TwoServers
from fedthings.protocol.pace import Edge, Pace, Plan
from fedthings.spelling import decode, sound
from fedthings.statistics import query, randomised, specs
from fedthings.strategy import Strategy

NOTHING = Task(model=mlp(1, 1), loss="mse")
"""The task of a query, which trains no model."""


QUORUM = 2
"""Devices that a query must be answered by at least: what one says alone is its own data."""


class Federation(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a coordinator and its devices must agree on; it travels in TOML.

    `pace` is when, `strategy` is how, `stages` protect or compress a report on its way, and `down` the model on its.
    `devices`: how many must be there before the first version (0: as many as work at once). `privacy` is what is
    claimed of the models: with it, devices report no metrics, and no closing evaluation is made. `secure` hides each
    report from the coordinator. With `edge` the participants are edges, which `pace`, `stages`, `down` and `devices`
    then speak of. With a `query` nothing is trained: it is answered, and the task is left out. With `local` each device
    adds noise of its own to its answer.
    """

    task: Task = NOTHING
    strategy: Strategy = Strategy()
    pace: Pace = Pace()
    stages: tuple[StageSpec, ...] = ()
    privacy: CentralDp | None = None
    down: Down | None = None
    seed: int = 0
    name: str = "federation"
    devices: int = 0
    edge: Edge | None = None
    secure: TwoServers | SecAgg | None = None
    query: str = ""
    local: LocalDp | None = None

    def __post_init__(self) -> None:
        if self.query:
            query.parse(self.query)
        elif self.task == NOTHING:
            raise SpecError("`task` is missing: add it, or a query")
        if self.local is not None:
            sound("local", self.local)
            randomised.check(self.query, self.local)
        specs.check(self)
        for name in ("task", "strategy", "pace", *(("edge",) if self.edge else ())):
            sound(name, getattr(self, name))
        compatible.check(self)
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
            hidden.check(self.secure, self.pace, self.strategy, self.privacy, self.stages)
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


def question(
    text: str,
    quorum: int = QUORUM,
    devices: int = 0,
    patience: float = 60.0,
    seed: int = 0,
    secure: TwoServers | SecAgg | None = None,
    local: LocalDp | None = None,
) -> Federation:
    """Return the federation that answers `text` of at least `quorum` devices, begun when `devices` are there.

    Each has `patience` seconds a round, and adds noise of its own where `local` says so. Raises SpecError.
    """
    least = max(quorum, secure.min_batch if secure is not None else 1)
    if isinstance(secure, SecAgg):  # fewer are not summed, and whose masks are in the sum is settled before
        pace, secure = Pace(goal=least, patience=patience), msgspec.structs.replace(secure, min_batch=least)
    else:
        pace = Pace(goal=least, patience=patience, quorum=least)
    return Federation(query=text, pace=pace, devices=devices, seed=seed, secure=secure, local=local, name="query")


def check_name(name: str) -> None:
    """Raise SpecError unless a federation can have this name, and a directory of it among files of ours."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name):
        raise SpecError(f"name is {name!r}: use 1 to 32 letters, digits, - and _")
    if name in ("lock", "passwords"):
        raise SpecError(f"name is {name!r}: choose another, which no file of ours has")


def phases(federation: Federation) -> tuple[Phase, ...]:
    """Return the phases in order: normalise where the task asks for it, train, the closing evaluation where it may be.

    A query is one phase; a statistic may ask one of its own before it begins.

    Raises SpecError where a model that is Python code cannot be had here.
    """
    if isinstance(federation.task.model, own.Own):
        own.verify(federation.task)

    spec = federation.strategy.statistic

    def phase(kind: Literal["normalise", "query", "train", "evaluate"]) -> Phase:
        stages = federation.stages if kind == "train" else ()
        # While a federation is paused, all that are at work may report toward one version.
        some = kind == "train" and spec is None
        most = max(federation.pace.goal, federation.pace.concurrency) if some else 1 << 20
        return Phase(
            kind=kind,
            task=federation.task,
            strategy=federation.strategy,
            stages=stages,
            privacy=federation.privacy,
            down=federation.down if kind != "query" else None,
            seed=federation.seed,
            reports=most,
            edge=federation.edge,
            secure=federation.secure,
            query=federation.query,
            local=federation.local,
        )

    if federation.query:
        return (phase("query"),)

    first = (phase("normalise"),) if federation.task.normalise == "fleet" else ()
    before = (phase("query"),) if spec is not None and specs.asks(spec) else ()
    last = (phase("evaluate"),) if federation.privacy is None else ()  # what devices measure is not covered
    return (*first, *before, phase("train"), *last)


CLOSING = 1000
"""Devices that the closing evaluation asks at the most."""


def plans(federation: Federation, rounds: int) -> tuple[Plan, ...]:
    """Return the phases as the coordinator sees them; `rounds` versions are trained."""
    if rounds < 1:
        raise SpecError(f"rounds is {rounds}: it must be at least 1")
    pace, count = federation.pace, federation.pace.concurrency
    closed = isinstance(federation.secure, SecAgg)  # with whom reports are masked is settled first
    if federation.secure is not None and not closed:  # fewer could not be summed
        pace = msgspec.structs.replace(pace, quorum=max(pace.quorum, federation.secure.min_batch))
    whole = Pace(goal=count, concurrency=count, patience=pace.patience, quorum=min(pace.quorum, count))

    def plan(phase: Phase) -> Plan:
        if (found := statistic(phase)) is not None:  # everyone is asked: it is of all or of who knows whom
            if phase.kind == "train" and rounds < found.needed:
                raise SpecError(f"rounds is {rounds}, and strategy.statistic needs {found.needed}: give so many")
            versions, most = found.tries, rounds if phase.kind == "train" and found.needed == 1 else 1 << 31
            return Plan(whole, min(versions, most), everyone=True, closed=closed)
        if phase.kind == "train":
            return Plan(pace, rounds, closed=closed)
        if phase.kind == "normalise":
            return Plan(whole, 1, everyone=True, closed=closed)
        return Plan(whole, 1, everyone=True, most=CLOSING, optional=True, closed=closed)

    return tuple(map(plan, phases(federation)))


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
    told = {name: value for name, value in data.items() if value not in (None, "")}
    if federation.query:
        del told["task"]
    told["strategy"] = {name: value for name, value in told["strategy"].items() if value is not None}
    return tomli_w.dumps(told)
