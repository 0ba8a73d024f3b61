"""Metrics as integer sums: what is measured on a device's own samples, and what the sums over a fleet mean.

Every measure is `(m,)` int64 that folds by plain addition, entry 0 the count of what was measured, so that
gateways and masks do not break it (law 12). Real numbers are summed in units of 2**-20.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from fedthings.errors import SpecError
from fedthings.learn.losses import LOSSES, in_units, target
from fedthings.vector import Array

if TYPE_CHECKING:
    from fedthings.learn.task import Task

ONE = 2**20
"""The integer that stands for 1.0."""
MOST = 2**52
"""No device's sum goes beyond: a float64 holds it exactly, and 2,000 devices at the limit fit an int64."""
MANY = 1 << 20
"""Samples: no device's count goes beyond, so that none of them is the whole fleet's measure."""
BINS = 1024
PERSONAL = "personal."
"""How the measures of the model that a device has for itself begin."""


class Metric(NamedTuple):
    """`measure` gives sums for each of K devices, `value` what sums `(..., m)` mean (count above 0).

    Outputs are `(K, B, n)` as the loss reads them (logits), y `(K, B)` labels or `(K, B, n)` values; m is
    `size(n)`. `y` says for which the metric is: "labels", "binary" (one 0/1 value), "values", "nearest" or "any".
    """

    name: str
    size: Callable[[int], int]
    measure: Callable[[Array, Array], Array]
    value: Callable[[Array], Array]
    better: Literal["high", "low"]
    y: Literal["labels", "binary", "values", "nearest", "any"] = "any"


def fixed(costs: Array) -> Array:
    """Return `(K, 2)` int64: the count and the sum at 2**20 of `costs` `(K, B)`; not finite counts as MOST.

    Each cost is rounded by itself and the sum of integers is exact, so it is free of order and of batches.
    """
    units = np.rint(costs.astype(np.float64) * ONE)
    total = np.nan_to_num(units, copy=False, nan=MOST, posinf=MOST, neginf=-MOST).clip(-MOST, MOST).sum(-1)
    count = np.full(len(costs), costs.shape[-1])
    return np.stack([count, total.clip(-MOST, MOST).astype(np.int64)], -1)


def add(total: Array, more: Array) -> None:
    """Add the sums of a device's next batch in place; beyond MOST they stay at MOST."""
    total += more
    np.clip(total, -MOST, MOST, out=total)


def mean(stats: Array) -> Array:
    """Return the mean of what `fixed` summed."""
    return np.asarray(stats[..., 1] / ONE / stats[..., 0])


def root(stats: Array) -> Array:
    """Return the root of the mean of what `fixed` summed."""
    return np.sqrt(mean(stats))


def _classes(outputs: Array, y: Array) -> tuple[Array, Array, int]:
    """Return predicted and true classes `(K, B)` and their number; one output is above or below 0."""
    n = outputs.shape[-1]
    if n == 1:
        return (outputs[..., 0] > 0).astype(np.int64), y.reshape(y.shape[:2]).astype(np.int64), 2
    return outputs.argmax(-1), y, n


def _count(kinds: Array, n: int) -> Array:
    """Return `(K, n)`: how often each of n kinds stands in each row of `kinds` `(K, B)`."""
    rows = np.arange(len(kinds))[:, None] * n
    return np.bincount((kinds + rows).reshape(-1), minlength=len(kinds) * n).reshape(len(kinds), n)


def _hits(outputs: Array, y: Array) -> Array:
    predicted, true, _ = _classes(outputs, y)
    return np.stack([np.full(len(true), true.shape[1]), (predicted == true).sum(-1)], -1)


def _confusion(outputs: Array, y: Array) -> Array:
    """Of each class: true positives, predicted, true. F1 needs no more of the confusion matrix."""
    predicted, true, n = _classes(outputs, y)
    right = _count(np.where(predicted == true, true, n), n + 1)[:, :n]
    count = np.full((len(true), 1), true.shape[1])
    return np.concatenate([count, right, _count(predicted, n), _count(true, n)], -1)


def _macro_f1(stats: Array) -> Array:
    """The mean of 2 TP / (predicted + true) over the classes that occur (as scikit-learn)."""
    right, predicted, true = np.split(stats[..., 1:].astype(np.float64), 3, -1)
    either = predicted + true
    scores = 2 * right / np.maximum(either, 1)
    return np.asarray(scores.sum(-1) / np.maximum((either > 0).sum(-1), 1))


def _scores(outputs: Array, y: Array) -> Array:
    """Histograms of the logits of negatives, then of positives: 1,024 bins of 1/32 from -16 to 16."""
    z = outputs[..., 0] if outputs.shape[-1] == 1 else outputs[..., 1] - outputs[..., 0]
    z = np.nan_to_num(z.astype(np.float64), nan=0, posinf=16, neginf=-16)
    bins = np.clip(np.floor((z + 16) * (BINS / 32)), 0, BINS - 1).astype(np.int64)
    true = y.reshape(y.shape[:2]).astype(np.int64)
    count = np.full((len(z), 1), z.shape[1])
    return np.concatenate([count, _count(bins + BINS * true, 2 * BINS)], -1)


def _auc(stats: Array) -> Array:
    """Share of pairs where the positive scores more (Mann & Whitney 1947), and half of those in one bin.

    The error is at most half the share of pairs in one bin (`auc_error`). With one class alone it is 1/2.
    """
    negatives, positives = np.split(stats[..., 1:].astype(np.float64), 2, -1)
    below = np.cumsum(negatives, -1) - negatives / 2
    pairs = negatives.sum(-1) * positives.sum(-1)
    return np.where(pairs > 0, (positives * below).sum(-1) / np.maximum(pairs, 1), 0.5)


def auc_error(stats: Array) -> Array:
    """Return how far the AUC of these sums can be from that of the scores themselves."""
    negatives, positives = np.split(stats[..., 1:].astype(np.float64), 2, -1)
    pairs = negatives.sum(-1) * positives.sum(-1)
    return np.asarray((negatives * positives).sum(-1) / 2 / np.maximum(pairs, 1))


def _squares(outputs: Array, y: Array) -> Array:
    return fixed(np.square(outputs - y, dtype=np.float64).mean(-1))


def _distances(outputs: Array, y: Array) -> Array:
    return fixed(np.abs(outputs - y).mean(-1))


def _nearest(outputs: Array, y: Array) -> Array:
    return fixed(-outputs.max(-1))


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        # The loss measures costs `(K, B)`, for which it takes the outputs.
        Metric("loss", lambda n: 2, lambda costs, y: fixed(costs), mean, "low"),
        Metric("accuracy", lambda n: 2, _hits, lambda s: np.asarray(s[..., 1] / s[..., 0]), "high", "labels"),
        Metric("macro_f1", lambda n: 1 + 3 * max(n, 2), _confusion, _macro_f1, "high", "labels"),
        Metric("auc", lambda n: 1 + 2 * BINS, _scores, _auc, "high", "binary"),
        Metric("rmse", lambda n: 2, _squares, root, "low", "values"),
        Metric("mae", lambda n: 2, _distances, mean, "low", "values"),
        Metric("distance", lambda n: 2, _nearest, root, "low", "nearest"),
    )
}
USUAL = {
    "cross_entropy": ("accuracy", "macro_f1"),
    "binary_cross_entropy": ("accuracy", "auc"),
    "reconstruction": ("rmse",),
    "nearest": ("distance",),
}


def register(
    name: str,
    size: Callable[[int], int],
    measure: Callable[[Array, Array], Array],
    value: Callable[[Array], Array],
    better: Literal["high", "low"],
) -> Metric:
    """Add a metric of one's own; every party must have it. Raises SpecError where the name is taken."""
    if name in METRICS:
        raise SpecError(f"there is a metric {name!r} already: choose another name")
    METRICS[name] = Metric(name, size, measure, value, better)
    return METRICS[name]


def judging(name: str) -> Metric | None:
    """Return the metric that the measure `name` is of, of a device's own model too; None where it is no metric's."""
    return METRICS.get(name.removeprefix(PERSONAL))


def usual(task: Task) -> tuple[Metric, ...]:
    """Return the task's metrics, or where it names none those usual for its loss."""
    return tuple(METRICS[name] for name in task.metrics or USUAL.get(task.loss, ("rmse", "mae")))


def suits(metric: Metric, loss: str, outputs: int) -> bool:
    """Return whether `metric` can judge `outputs` numbers that `loss` trains."""
    match metric.y:
        case "labels":
            return loss in ("cross_entropy", "binary_cross_entropy")
        case "binary":
            return loss == "binary_cross_entropy" or (loss == "cross_entropy" and outputs == 2)
        case "values":
            return loss not in ("cross_entropy", "binary_cross_entropy", "nearest")
        case "nearest":
            return loss == "nearest"
        case _:
            return True


def impossible(metrics: Mapping[str, Array]) -> Array:
    """Return `(n,)`: whose sums, each `(n, m)` int64, no measuring can give.

    Counts are from 0 to MANY, sums at most MOST, and of labels no more can be right or wrong than were counted.
    """
    if not metrics:
        return np.zeros(0, bool)
    every = np.concatenate(list(metrics.values()), -1)
    counts, labels, low, high = _bounds(tuple((name, sums.shape[1]) for name, sums in metrics.items()))
    most = np.where(labels, every[:, counts], high)
    return np.asarray(((every < low) | (every > most)).any(-1))


@lru_cache(16)
def _bounds(metrics: tuple[tuple[str, int], ...]) -> tuple[Array, Array, Array, Array]:
    """Return of each sum of `metrics`, names and widths: where its count stands, whether it is of labels, its bounds.

    They are the same for every report of a federation.
    """
    counts: list[int] = []
    labels: list[bool] = []
    low: list[int] = []
    high: list[int] = []
    for name, width in metrics:
        metric = judging(name)
        of_labels = metric is not None and metric.y in ("labels", "binary")
        counts += [len(counts)] * width
        labels += [False] + [of_labels] * (width - 1)
        low += [0] + [0 if of_labels else -MOST] * (width - 1)
        high += [MOST if metric is None else MANY] + [MOST] * (width - 1)  # training counts a sample in each epoch
    return np.array(counts), np.array(labels), np.array(low), np.array(high)


def measured(task: Task) -> dict[str, Metric]:
    """Return all that a device measures on its test samples: the loss, then the task's metrics."""
    return {"loss": METRICS["loss"], **{metric.name: metric for metric in usual(task)}}


def nothing(task: Task, n: int) -> dict[str, Array]:
    """Return the sums `(n, m)` of n devices that have measured nothing yet."""
    width = task.model.outputs[-1] if len(task.model.outputs) == 1 else int(np.prod(task.model.outputs))
    return {name: np.zeros((n, metric.size(width)), np.int64) for name, metric in measured(task).items()}


def collect(task: Task, outputs: Array, X: Array, y: Array) -> dict[str, Array]:
    """Return the sums `(K, m)` of each metric, for `outputs` `(K, B, ...)` as the loss reads them."""
    loss = LOSSES[task.loss]
    true = target(task.model, loss, X, y)
    costs, _ = loss.of(outputs, true)
    flat = in_units(task.model, outputs.reshape(*outputs.shape[:2], -1))
    true = in_units(task.model, true)
    found = {name: metric.measure(flat, true) for name, metric in measured(task).items() if name != "loss"}
    return {"loss": fixed(costs), **found}


def values(task: Task, stats: Mapping[str, Array]) -> dict[str, float]:
    """Return each metric of the sums `(m,)` in `stats`, "train" too, and none where nothing was measured."""
    known = {"train": METRICS["loss"], **measured(task)}
    found = {name: total for name, total in stats.items() if name in known and total[0] > 0}
    return {name: float(known[name].value(total)) for name, total in found.items()}
