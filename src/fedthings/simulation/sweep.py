"""Sweeps: one federation with all combinations of some settings and several seeds, each a run in its own directory.

The directories are named after the settings, so that a sweep that was stopped goes on with the runs that are missing.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace

from fedthings import run
from fedthings.comparison import Comparison, Spread, shortened, shown
from fedthings.errors import FedthingsError, SpecError, StoreError, nearest
from fedthings.federation import Federation, dumps
from fedthings.history import Line
from fedthings.learn.fleet import Fleet
from fedthings.lifeline import alone
from fedthings.phase import fits
from fedthings.run import Run
from fedthings.simulation.simulator import simulate
from fedthings.simulation.world import World
from fedthings.spelling import decode
from fedthings.vector import Array, Vector, mark

FILE, PICTURE = run.SWEEP, "sweep.png"
LOOKED_AT = 16
"""Devices whose data tells a fleet from another with as many samples."""
LONGEST = 40
"""Characters of a value in the name of a directory; what is longer has a digest."""


class Trial(NamedTuple):
    """One run of a sweep: its `label` (the settings, without the seed), where it lies, and its federation."""

    label: str
    seed: int
    directory: Path
    federation: Federation
    settings: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """Whether the run has ended."""
        return (self.directory / run.SUMMARY).is_file()


class Result(NamedTuple):
    """What `runs` with the same settings came to: the metric at the end and at its best, and what it took."""

    label: str
    settings: Mapping[str, Any]
    runs: int
    last: Spread
    best: Spread
    seconds: Spread
    bytes: Spread
    joules: Spread | None


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep in `out`; `failed` says by directory why a run could not be made."""

    out: Path
    trials: Sequence[Trial]
    failed: Mapping[str, str]

    @cached_property
    def runs(self) -> list[Run]:
        """The runs that have ended, in the order of the trials; see `ended`."""
        return [run.read(trial.directory) for trial in self.ended]

    @property
    def ended(self) -> list[Trial]:
        """The trials whose runs have ended."""
        return [trial for trial in self.trials if trial.directory.name not in self.failed]

    def compare(self, metric: str = "", target: float | None = None, path: str | Path | None = None) -> Comparison:
        """Return what it took each setting to reach `target` of `metric`; see `ft.compare`. Raises SpecError."""
        return run.compare(self.runs, [trial.label for trial in self.ended], path, metric, target)

    def results(self, metric: str = "") -> list[Result]:
        """Return what each setting came to, of `metric` or the first one. Raises SpecError."""
        found = []
        for cost in self.compare(metric).costs:
            mine = [(t, one.summary) for t, one in zip(self.ended, self.runs, strict=True) if t.label == cost.label]
            totals = [summary["total"] for _, summary in mine]
            joules = [total["joules"] for total in totals if total["joules"] is not None]
            found.append(
                Result(
                    cost.label,
                    mine[0][0].settings,
                    cost.runs,
                    cost.last,
                    cost.best,
                    Spread.of([summary["seconds"] for _, summary in mine]),
                    Spread.of([total["bytes_up"] + total["bytes_down"] for total in totals]),
                    Spread.of(joules) if joules else None,
                )
            )
        return found

    def plot(self, path: str | Path, metric: str = "") -> None:
        """Draw `metric`, or the first one, over versions with the spread over seeds. Raises SpecError."""
        from fedthings.plot import sweep

        sweep(self.compare(metric), Path(path), self.trials[0].federation.name)


def sweep(
    federation: Federation,
    fleet: Fleet,
    rounds: int,
    grid: Mapping[str, Sequence[Any]],
    out: str | Path,
    seeds: int | Sequence[int] = 1,
    test: tuple[Array, Array] | None = None,
    init: Vector | None = None,
    stop: Mapping[str, float] | None = None,
    on_version: Callable[[Trial, Line], None] | None = None,
    world: World | None = None,
    engine: str = "auto",
    workers: int | str = 0,
) -> Sweep:
    """Simulate all combinations of `grid`, such as `{"strategy.mu": [0, 0.1]}`, each with `seeds`; return the sweep.

    `seeds` are how many, from the federation's own on, or which. Each run is a directory in `out`; after Ctrl-C, a
    crash or a full disk the same call makes what is missing, and more values or seeds may be given.
    A run that cannot be made is noted in `failed`. Raises SpecError, DataError, StoreError.
    """
    if rounds < 1:
        raise SpecError(f"rounds is {rounds}: it must be at least 1")
    planned = trials(federation, grid, out, seeds)
    for trial in planned:
        fits(trial.federation, fleet.shard(fleet.names[0]), fleet.names[0])
    out, failed = Path(out), {}
    facts = {
        "federation": dumps(replace(federation, seed=0)),  # each run has a seed of its own
        "rounds": rounds,
        "fields": list(grid),
        "stop": dict(stop or {}),
        "fleet": repr(fleet),
        "data": _data(fleet),
        "world": _named(world),
        "test": mark(*(test or ())),
        "init": mark(init),
    }
    with alone(out, "the directory of the sweep"), run.written(out):
        fresh = _claim(out, facts, planned)
        for trial in planned:
            if trial.finished:
                continue
            show = None if on_version is None else partial(on_version, trial)
            try:
                place = trial.directory
                simulate(trial.federation, fleet, rounds, test, init, stop, show, place, world, False, engine, workers)
            except StoreError:
                raise
            except FedthingsError as error:  # of these settings; others may do
                failed[trial.directory.name] = str(error)
                if len(failed) == len(planned):
                    if fresh and not any(trial.directory.exists() for trial in planned):
                        (out / FILE).unlink()  # so that the call can be put right
                    raise
    return Sweep(out, planned, failed)


def trials(
    federation: Federation, grid: Mapping[str, Sequence[Any]], out: str | Path, seeds: int | Sequence[int] = 1
) -> list[Trial]:
    """Return the runs of a sweep, the seeds of a setting one after the other. Raises SpecError."""
    if "seed" in grid:
        raise SpecError("seed is among the settings: give the seeds by themselves (seeds=5, --seeds 5)")
    if isinstance(seeds, int | np.integer):
        if seeds < 1:
            raise SpecError(f"seeds is {seeds}: give how many, at least 1")
        seeds = range(federation.seed, federation.seed + int(seeds))
    shorts = shortened(list(grid))
    columns = [[(path, value) for value in _values(path, values)] for path, values in grid.items()]
    found = []
    for chosen in product(*columns):
        settings = dict(chosen)
        label = ", ".join(f"{shorts[path]}={shown(value)}" for path, value in chosen) or federation.name
        for seed in _values("seed", seeds):
            parts = [f"{shorts[path]}={_safe(shown(value))}" for path, value in chosen]
            name = ",".join([*parts, f"seed={seed}"])
            found.append(Trial(label, seed, Path(out) / name, varied(federation, {**settings, "seed": seed}), settings))
    return found


def varied(federation: Federation, settings: Mapping[str, Any]) -> Federation:
    """Return `federation` with other values in the fields named by paths, such as `strategy.mu`. Raises SpecError."""
    data = tomllib.loads(dumps(federation))
    if "pace.goal" in settings and "pace.concurrency" not in settings:
        pace = data["pace"]  # who named no concurrency means that of the goal
        pace["concurrency"] = 0 if pace["concurrency"] == pace["goal"] else pace["concurrency"]
    for path, value in settings.items():
        *before, last = path.split(".")
        place: Any = data
        for depth, step in enumerate(before):
            place = _below(place, step, ".".join(before[:depth]))
        if isinstance(place, list):
            _below(place, last, ".".join(before))
            place[int(last)] = value
        elif isinstance(place, dict):
            place[last] = value
        else:
            raise SpecError(f"unknown field `{path}`: {'.'.join(before)} is {place!r}, which has no fields")
    return decode(data, Federation)


def _below(place: Any, step: str, where: str) -> Any:
    """Return what `place`, which stands at `where`, has at `step`. Raises SpecError."""
    path = f"{where}.{step}".lstrip(".")
    if isinstance(place, dict) and step in place:
        return place[step]
    if isinstance(place, dict):
        raise SpecError(f"unknown field `{path}`: {nearest(step, place)}")
    if isinstance(place, list) and step.isdigit() and int(step) < len(place):
        return place[int(step)]
    if isinstance(place, list):
        raise SpecError(f"unknown field `{path}`: {where} has {len(place)} entries, numbered from 0")
    raise SpecError(f"unknown field `{path}`: {where} is {place!r}, which has no fields")


def _values(path: str, values: Sequence[Any]) -> list[Any]:
    """Return the values of a setting as plain data. Raises SpecError where there are none, or one comes twice."""
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise SpecError(f"{path} is {values!r}: give a list of values")
    try:
        values = [value.item() if isinstance(value, np.generic) else msgspec.to_builtins(value) for value in values]
        plain: list[Any] = json.loads(json.dumps(values))
    except TypeError as error:
        raise SpecError(f"{path} has a value that is not data ({error}): use numbers, texts, lists and specs") from None
    if not plain:
        raise SpecError(f"{path} has no values: give at least one")
    for value in plain:
        if plain.count(value) > 1:
            raise SpecError(f"{path} has the value {shown(value)} more than once: give each once")
    return plain


def _safe(text: str) -> str:
    """Return `text` as a part of a file's name."""
    safe = re.sub(r"[^\w.+-]", "_", text)
    if safe == text and len(text) <= LONGEST:
        return text
    return f"{safe[:LONGEST]}-{sha256(text.encode()).hexdigest()[:6]}"


def _data(fleet: Fleet) -> str:
    """Return what tells the data that some devices have at time 0 from other data."""
    names = fleet.names[:: -(-len(fleet) // LOOKED_AT)]
    shards = fleet.cohort(names, [0.0] * len(names))
    return mark(*(part for s in shards for part in (s.X, s.y, s.test_X, s.test_y)))


def _named(world: World | None) -> str:
    """Return what tells a world from others; one that does not say what it is, by its class."""
    kind = type(world)
    return kind.__qualname__ if kind.__repr__ is object.__repr__ else repr(world)


def _claim(out: Path, facts: Mapping[str, Any], planned: Sequence[Trial]) -> bool:
    """Write what the sweep is and has, or see that it is the one that lies there; return whether it is new.

    Raises StoreError.
    """
    if (out / run.FEDERATION).exists():
        raise StoreError(f"{out} holds a run, not a sweep: name another directory")
    there = read(out) if (out / FILE).exists() else {}
    for name, value in json.loads(json.dumps(facts)).items() if there else ():
        if there.get(name) != value:
            how = f": {_told(there.get(name))} there, {_told(value)} here"
            how = " differs" if name in ("federation", "data", "test", "init") else how
            raise StoreError(f"{out} holds another sweep ({name}{how}): name another directory")
    runs = {trial.directory.name: trial.label for trial in planned}
    run.replace(out / FILE, json.dumps({**facts, "runs": {**runs, **there.get("runs", {})}}, indent=2) + "\n")
    return not there


def _told(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) and value and isinstance(value[0], str) else str(value)


def read(directory: Path) -> dict[str, Any]:
    """Return what the sweep in `directory` is; `runs` are the directories that it has, and their labels.

    Raises StoreError.
    """
    try:
        facts = json.loads((directory / FILE).read_text())
        if not isinstance(facts, dict) or not isinstance(facts.get("runs"), dict):
            raise ValueError("it names no runs")
    except (OSError, ValueError) as error:
        raise StoreError(f"{directory / FILE} cannot be read ({error}): name another directory") from None
    return facts
