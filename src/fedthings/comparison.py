"""Several runs beside each other: what each had spent, in seconds, bytes and joules, when it was how good."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from math import ceil, floor, isfinite, log10
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np

from fedthings.errors import SpecError, nearest
from fedthings.federation import Federation
from fedthings.history import Line, beats
from fedthings.learn.metrics import METRICS
from fedthings.spelling import encode
from fedthings.vector import Array

SPENT = ("version", "seconds", "bytes", "joules")
"""What it takes to become better."""
TRAINING = "training"
PARTS = ("test", "metrics", TRAINING)
"""Where a line's measures are from: the central test set, the devices' test samples, or, without any, training."""


class Course(NamedTuple):
    """The `values` `(n,)` of a metric in one run, and what had been spent by then: each of SPENT `(n,)`."""

    values: Array
    spent: Mapping[str, Array]  # without joules where nobody counts them


class Spread(NamedTuple):
    """The mean over runs and their standard deviation (of n - 1; None of one run)."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of `values`, at least one."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else None)


class Cost(NamedTuple):
    """Of `runs` with a label, how many `reached` the target, and what that took: each of SPENT; `best` and `last`."""

    label: str
    runs: int
    reached: int
    took: Mapping[str, Spread]  # of those that reached it
    best: Spread
    last: Spread


class Comparison(NamedTuple):
    """What a comparison found: the metric, of which `part` of the lines, its target, `costs` and `courses` by label."""

    metric: str
    part: str
    target: float
    costs: list[Cost]
    courses: Mapping[str, Sequence[Course]]

    @property
    def measure(self) -> str:
        """The metric in words, such as "test accuracy"; on the devices' own test samples it is the metric alone."""
        words = self.metric.replace("_", " ")
        return words if self.part == "metrics" else f"{self.part} {words}"

    @property
    def joules(self) -> bool:
        """Whether any run counts joules."""
        return any("joules" in course.spent for courses in self.courses.values() for course in courses)


def named(federations: Sequence[Federation]) -> list[str]:
    """Return a label for each: its name, or in what it differs from the others; the same where only seeds differ."""
    names = [federation.name for federation in federations]
    if len(set(names)) == len(names):
        return names
    fields = [{path: v for path, v in _flat(encode(f), "") if path not in ("seed", "name")} for f in federations]
    every = dict.fromkeys(path for each in fields for path in each)
    differ = [path for path in every if any(each.get(path) != fields[0].get(path) for each in fields)]
    shorts = shortened(differ)
    labels = [
        ", ".join([*([name] * (len(set(names)) > 1)), *(f"{shorts[p]}={shown(each[p])}" for p in differ if p in each)])
        or name
        for name, each in zip(names, fields, strict=True)
    ]
    seeded = [(label, federation.seed) for label, federation in zip(labels, federations, strict=True)]
    if len(set(seeded)) == len(seeded):
        return labels
    # What differs is not in the federation: the world, or the data.
    return [f"{label} {labels[: i + 1].count(label)}" for i, label in enumerate(labels)]


def shortened(paths: Sequence[str]) -> dict[str, str]:
    """Return for each path of a field, such as `strategy.mu`, as much of its end as tells it from the others."""
    found = {}
    for path in paths:
        parts = path.split(".")
        ends = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        found[path] = next((e for e in ends if sum(f".{other}".endswith(f".{e}") for other in paths) == 1), path)
    return found


def shown(value: Any) -> str:
    """Return a value of a setting as a person writes it; of bytes a digest."""
    if isinstance(value, bytes):
        return sha256(value).hexdigest()[:6]
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, dict):
        kind = next((tag for tag in ("kind", "type") if tag in value), "")
        fields = ",".join(f"{name}={shown(one)}" for name, one in value.items() if name != kind)
        return f"{value.get(kind, '')}({fields})" if fields or not kind else str(value[kind])
    return value if isinstance(value, str) else json.dumps(value)


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield each number and text in plain data with its path."""
    if isinstance(value, Mapping | list | tuple):
        for key, below in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _flat(below, f"{path}.{key}".lstrip("."))
    else:
        yield path, value


def compared(
    histories: Sequence[Sequence[Line]], labels: Sequence[str], metric: str = "", target: float | None = None
) -> Comparison:
    """Return the comparison of `histories`, each with its label. Raises SpecError."""
    for label, history in zip(labels, histories, strict=True):
        if not history:
            raise SpecError(f"{label} has no version yet: leave it out, or wait for the first one")
    part, metric = _measured(histories, metric)
    courses: dict[str, list[Course]] = {}
    for label, history in zip(labels, histories, strict=True):
        courses.setdefault(label, []).append(course(history, part, metric))
    if target is None:
        target = _reached_by_all(metric, [best(metric, one.values) for group in courses.values() for one in group])
    elif not isfinite(target):
        raise SpecError(f"target is {target}: give a value of {metric} that a run can reach")
    costs = [_cost(label, group, metric, target) for label, group in courses.items()]
    return Comparison(metric, part, target, costs, courses)


def course(history: Sequence[Line], part: str, metric: str) -> Course:
    """Return the course of `metric`, of the `part` (of PARTS) of each line that has it."""
    there = [metric in _measures(line, part) for line in history]
    spent = {
        "version": np.array([line["version"] for line in history], float),
        "seconds": np.array([line["time"] for line in history], float),
        "bytes": np.cumsum([line["bytes_up"] + line["bytes_down"] for line in history], dtype=float),
    }
    joules = [line.get("joules") for line in history]
    if any(value is not None for value in joules):
        spent["joules"] = np.cumsum([value or 0.0 for value in joules])
    values = np.array([_measures(line, part)[metric] for line, has in zip(history, there, strict=True) if has], float)
    return Course(values, {name: column[there] for name, column in spent.items()})


def band(courses: Sequence[Course], over: str) -> tuple[Array, Array, Array, Array]:
    """Return places of what was spent `over`, and there the mean, lowest and highest value of `courses`.

    A place for each version of each, from where the last has begun to where the first has ended.
    """
    spent = [course.spent[over] for course in courses]
    low, high = max(column[0] for column in spent), min(column[-1] for column in spent)
    every = np.unique(np.concatenate(spent))
    places = every[(every >= low) & (every <= max(low, high))]
    values = np.stack([np.interp(places, c.spent[over], c.values) for c in courses])
    return places, values.mean(0), values.min(0), values.max(0)


def best(metric: str, values: Iterable[float]) -> float:
    """Return the best of `values`."""
    return float((max if METRICS[metric].better == "high" else min)(values))


def _cost(label: str, courses: Sequence[Course], metric: str, target: float) -> Cost:
    took: dict[str, list[float]] = {name: [] for name in SPENT}
    reached = 0
    for values, spent in courses:
        met = [i for i, value in enumerate(values.tolist()) if beats(metric, value, target, even=True)]
        reached += bool(met)
        for name, column in spent.items() if met else ():
            took[name].append(float(column[met[0]]))
    spreads = {name: Spread.of(values) for name, values in took.items() if values}
    bests = Spread.of([best(metric, values) for values, _ in courses])
    return Cost(label, len(courses), reached, spreads, bests, Spread.of([float(values[-1]) for values, _ in courses]))


def _measured(histories: Sequence[Sequence[Line]], metric: str) -> tuple[str, str]:
    """Return which of PARTS is compared, the first that all have, and the metric."""
    there = {}
    for part in PARTS:
        first, *others = (_names(history, part) for history in histories)
        there[part] = [name for name in first if all(name in names for names in others)]
    if metric:
        part = next((part for part, names in there.items() if metric in names), "")
        if not part:
            every = {name for names in there.values() for name in names}
            hint = nearest(metric, every) if every else "none is measured in all of them"
            raise SpecError(f"the metric {metric!r} is not in every run: {hint}")
        return part, metric
    for part, names in there.items():
        if names:
            return part, next((name for name in names if name != "loss"), names[0])
    raise SpecError("the runs have no metric in common: give each test samples, or a central test set")


def _names(history: Sequence[Line], part: str) -> list[str]:
    """Return the metrics that are measured in a history, and still known."""
    return list(dict.fromkeys(name for line in history for name in _measures(line, part) if name in METRICS))


def _measures(line: Line, part: str) -> Mapping[str, float]:
    """Return what the `part` of a line has measured, each metric by its name."""
    if part != TRAINING:
        return line.get(part) or {}
    return {} if line["loss"] is None else {"loss": line["loss"]}


def _reached_by_all(metric: str, bests: Sequence[float]) -> float:
    """Return what the least good has reached, to three digits, rounded so that it has."""
    least, away = (min(bests), floor) if METRICS[metric].better == "high" else (max(bests), ceil)
    digits = 2 - floor(log10(abs(least))) if least else 0
    return float(away(least * 10.0**digits) / 10.0**digits)
