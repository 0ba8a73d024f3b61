"""What is recorded of each version: the lines of history.jsonl, made by the same code in both worlds (law 12).

A line's metrics are those that devices measured on that version when they received it, so a line is
complete when the next version is made, and the last one after the closing evaluation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import Any, TypeAlias

import numpy as np

from fedthings.errors import SpecError, nearest
from fedthings.federation import Federation
from fedthings.learn.metrics import METRICS, ONE, PERSONAL, judging, usual
from fedthings.vector import Array

Line: TypeAlias = dict[str, Any]
TRAIN = "train"
"""The measure of local training itself: samples, and the sum of their losses."""


class Tally:
    """What has come in for the version being made; every total is a sum of integers, free of order."""

    def __init__(self) -> None:
        self.updates = 0
        self.dropped: Counter[str] = Counter()
        self.bytes_up = self.bytes_down = 0
        self.microjoules: int | None = None  # what the devices spent, where a world counts it
        self.sums: dict[str, Array] = {}
        self.values: dict[str, list[float]] = {}

    def keep(self, metrics: Mapping[str, Array]) -> None:
        """Add what n devices measured, each `(n, m)` int64."""
        for name, stats in metrics.items():
            total = stats.sum(0)
            self.sums[name] = self.sums[name] + total if name in self.sums else total
            if (metric := judging(name)) is not None:
                values = self.values.setdefault(name, [])
                if total[0]:
                    values.extend(np.atleast_1d(metric.value(stats[stats[:, 0] > 0])).tolist())

    def merge(self, other: Tally) -> None:
        """Add what another has tallied."""
        self.updates += other.updates
        self.dropped += other.dropped
        self.bytes_up += other.bytes_up
        self.bytes_down += other.bytes_down
        if other.microjoules is not None:
            self.microjoules = (self.microjoules or 0) + other.microjoules
        for name, total in other.sums.items():
            self.sums[name] = self.sums[name] + total if name in self.sums else total
        for name, values in other.values.items():
            self.values.setdefault(name, []).extend(values)

    def spend(self, joules: float | None) -> None:
        """Add what a task cost its device, rounded to microjoules, so that the sum is free of order."""
        if joules is not None:
            self.microjoules = (self.microjoules or 0) + round(joules * 1e6)

    @property
    def joules(self) -> float | None:
        """What the devices spent; None where nobody counts it."""
        return None if self.microjoules is None else self.microjoules / 1e6

    @property
    def loss(self) -> float | None:
        """The mean training loss over the samples trained on."""
        count, total = self.sums.get(TRAIN, (0, 0))
        return float(total / ONE / count) if count else None

    @property
    def metrics(self) -> dict[str, float]:
        """Each metric over all the samples that were measured."""
        return {
            name: float(METRICS[name].value(total))
            for name, total in self.sums.items()
            if name in METRICS and total[0] > 0
        }

    @property
    def worst_decile(self) -> dict[str, float]:
        """The mean of each metric over the worst tenth of the devices."""
        return {name: worst(values, METRICS[name].better) for name, values in self._each("").items()}

    @property
    def personal(self) -> dict[str, dict[str, float]]:
        """Of each device's own model the mean over devices and over their worst tenth, and of the one received the
        mean over devices, by metric; empty where no device has its own."""
        own, received = self._each(PERSONAL), self._each("")
        if not own:
            return {}
        return {
            "mean": {name: _mean(values) for name, values in own.items()},
            "worst_decile": {name: worst(values, METRICS[name].better) for name, values in own.items()},
            "received": {name: _mean(values) for name, values in received.items()},
        }

    def _each(self, kind: str) -> dict[str, list[float]]:
        """Return by metric what each device measured, of the model received or, `PERSONAL`, of its own."""
        names = {name: name.removeprefix(kind) for name in self.values if name.startswith(kind)}
        return {metric: self.values[name] for name, metric in names.items() if metric in METRICS and self.values[name]}

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data and arrays."""
        return {
            "updates": self.updates,
            "dropped": dict(self.dropped),
            "bytes": [self.bytes_up, self.bytes_down],
            "microjoules": self.microjoules,
            "sums": self.sums,
            "values": self.values,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the state that `snapshot` returned."""
        self.updates = state["updates"]
        self.dropped = Counter(state["dropped"])
        self.bytes_up, self.bytes_down = state["bytes"]
        self.microjoules = state["microjoules"]
        self.sums = dict(state["sums"])
        self.values = {name: list(values) for name, values in state["values"].items()}


def worst(values: Iterable[float], better: str) -> float:
    """Return the mean of the worst tenth of `values`, one a device."""
    order = sorted(values, reverse=better == "low")
    worst = order[: ceil(len(order) / 10)]
    return sum(worst) / len(worst)


def _mean(values: Iterable[float]) -> float:
    order = sorted(values)  # free of the order in which they came
    return sum(order) / len(order)


def line(version: int, now: float, tally: Tally, test: Mapping[str, float] | None) -> Line:
    """Return what is known of `version` when it is made; `measured` completes it."""
    return {
        "version": version,
        "time": now,
        "updates": tally.updates,
        "dropped": dict(sorted(tally.dropped.items())),
        "loss": tally.loss,
        "metrics": {},
        "worst_decile": {},
        **({"test": dict(test)} if test is not None else {}),
        "bytes_up": tally.bytes_up,
        "bytes_down": tally.bytes_down,
        "joules": tally.joules,
    }


def measured(pending: Line, tally: Tally, closing: bool = False) -> Line:
    """Return `pending` with what the devices measured on its version; `closing`, with what that cost too."""
    complete = {**pending, "metrics": tally.metrics, "worst_decile": tally.worst_decile}
    if personal := tally.personal:
        complete["personal"] = personal
    if closing:
        complete["dropped"] = dict(sorted((Counter(pending["dropped"]) + tally.dropped).items()))
        complete["bytes_up"] += tally.bytes_up
        complete["bytes_down"] += tally.bytes_down
        if tally.joules is not None:
            complete["joules"] = (pending["joules"] or 0.0) + tally.joules
    return complete


def total(lines: Sequence[Line]) -> Line:
    """Return what `lines` come to together: reports, drops by reason, bytes and joules."""
    dropped: Counter[str] = Counter()
    for complete in lines:
        dropped.update(complete["dropped"])
    spent = [joules for complete in lines if (joules := complete.get("joules")) is not None]
    return {
        "updates": sum(complete["updates"] for complete in lines),
        "dropped": dict(sorted(dropped.items())),
        "bytes_up": sum(complete["bytes_up"] for complete in lines),
        "bytes_down": sum(complete["bytes_down"] for complete in lines),
        "joules": sum(spent) if spent else None,
    }


def reached(target: Mapping[str, float], complete: Line, test: Mapping[str, float] | None) -> bool:
    """Return whether each metric of `target` is met, on the central test set where it has the metric."""
    found = {**complete["metrics"], **(test or {})}
    return bool(target) and all(name in found and beats(name, found[name], goal, True) for name, goal in target.items())


def beats(name: str, value: float, other: float, even: bool = False) -> bool:
    """Return whether `value` of metric `name` is better than `other`, or as good where `even` is enough."""
    better = value > other if METRICS[name].better == "high" else value < other
    return better or (even and value == other)


def targets(stop: Mapping[str, float], federation: Federation, tested: bool) -> dict[str, float]:
    """Return what ends a training, by metric. Raises SpecError for one that is not measured."""
    names = [metric.name for metric in usual(federation.task)]
    for name in stop:
        if name not in names:
            raise SpecError(f"stop names the metric {name!r}: {nearest(name, names)}")
    if stop and federation.privacy is not None and not tested:
        raise SpecError(
            f"stop names {', '.join(stop)}, and under a privacy claim devices report no metrics: give a central test "
            "set, or leave stop out"
        )
    return dict(stop)
