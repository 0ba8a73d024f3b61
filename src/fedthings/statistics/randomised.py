"""Queries that each device answers once, with noise of its own: what leaves it is private already (`privacy.local`).

Of all of its samples a device tells one value: its own mean, or the category of one of them drawn at random. So what it
tells costs epsilon whatever its data is, and in the answer each device weighs the same.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from typing import Any, NamedTuple

import numpy as np

from fedthings.errors import SpecError
from fedthings.learn.data import Shard
from fedthings.privacy import local
from fedthings.privacy.local import Chances, LocalDp, Words
from fedthings.statistics.columns import values
from fedthings.statistics.query import Query, parse
from fedthings.statistics.statistic import DONE, Known, Next, Noise, Statistic, summed
from fedthings.vector import Array, Payload

EXAMPLES = "mean(temperature), histogram(temperature, [0, 10, 20]) or labels(6)"
"""What can be asked like this."""


class _Way(NamedTuple):
    """How a question is answered: the true `shares` `(k,)` of a device are given `noise`, whose bits have `chances`."""

    mechanism: str
    shares: Callable[[Shard], Array]
    size: int
    noise: Noise
    chances: Chances


def check(text: str, spec: LocalDp) -> None:
    """Raise SpecError, with the remedy, where devices cannot answer the query `text` with noise of their own."""
    if not text:
        raise SpecError(
            "local is set without a query: it is noise of answers; for models use privacy=ft.central_dp(...)"
        )
    query = parse(text)
    edges = query.verb == "histogram" and isinstance(query.rest[0], tuple)
    if query.verb not in ("mean", "labels") and not edges:
        why = (
            "its bins depend on the data" if query.verb == "histogram" else "one value of each device does not tell it"
        )
        raise SpecError(f"query {text!r} cannot be answered with noise of each device: {why}; ask {EXAMPLES}")
    if len(query.columns) > 1:
        raise SpecError(
            f"query {text!r} has {len(query.columns)} columns beside local: each costs epsilon; ask one at a time"
        )
    if query.verb == "mean" and not spec.between:
        raise SpecError(
            f"query {text!r} needs bounds beside local, which no device goes beyond: give local.between = [low, high] "
            "(--between LOW HIGH)"
        )
    if query.verb != "mean" and spec.between:
        raise SpecError(f"local.between is {list(spec.between)} beside query {text!r}: it is of means; leave it out")


def build(text: str, spec: LocalDp) -> Statistic:
    """Return what devices measure and make private to answer `text`: one round, since each costs epsilon."""
    way = _way(parse(text), spec)

    def measure(row: Array, shard: Shard) -> Payload:
        return {"devices": np.ones(1), "ones": way.shares(shard)}

    def step(row: Array, known: Known, totals: Payload) -> Next:
        return Next(row, {name: totals[name] for name in ("devices", "ones")}, DONE)

    fields = summed(devices=1, ones=way.size)
    return Statistic(fields, 1, lambda row: np.zeros(0, np.float32), measure, step, noise=way.noise)


def answer(text: str, spec: LocalDp, known: Known, quorum: int) -> dict[str, Any]:
    """Return what the fleet's answers say, without bias, and the standard error of each number.

    Raises SpecError where fewer than `quorum` devices have answered.
    """
    query, n = parse(text), int(known["devices"][0])
    if n < quorum:
        raise SpecError(f"{n} of the devices have answered, below the quorum of {quorum}")
    way = _way(query, spec)
    shares, errors = local.estimate(known["ones"], n, way.chances)
    told = {"query": text, "devices": n, "samples": n, "epsilon": spec.epsilon, "mechanism": way.mechanism}
    if query.verb == "mean":
        low, high = spec.between
        scale = high - low
        return {**told, "value": low + scale * float(shares[0]), "error": scale * float(errors[0]), "missing": None}
    counts, deviations = n * shares, n * errors
    value, error = _named(query, counts), {**_named(query, deviations), "missing": float(deviations[-1])}
    if query.verb == "histogram":
        value = {"edges": _edges(query), **value}
    return {**told, "value": value, "error": error, "missing": float(counts[-1])}


def said(text: str, spec: LocalDp) -> list[str]:
    """Return what is claimed of the devices that answer `text`, and what that rests on, a sentence each."""
    return [
        f"epsilon: {spec.epsilon:g} at delta 0, of each device for each answer that it made, whatever its data",
        f"mechanism: {_way(parse(text), spec).mechanism}, on the device itself: nobody else need be trusted",
        "noise: from the device's system; in a simulation from the seed, so that who knows it can take the noise away",
        "not covered: who answered, and who has which columns. Answers to several questions cost their sum",
    ]


def _named(query: Query, counts: Array) -> dict[str, Any]:
    """Return what the numbers `(k,)` are of, but for the last, which is of values that are missing."""
    if query.verb == "labels":
        return {"counts": counts[1:-1].tolist(), "others": float(counts[0])}
    return {"counts": counts[1:-2].tolist(), "below": float(counts[0]), "above": float(counts[-2])}


def _edges(query: Query) -> list[float]:
    """Return the edges that the query names; those around each label."""
    first = query.rest[0]
    return list(first) if isinstance(first, tuple) else (np.arange(int(first) + 1) - 0.5).tolist()


# ---------------------------------------------------------------------- on the device


def _way(query: Query, spec: LocalDp) -> _Way:
    epsilon, column = spec.epsilon, query.columns[0]
    if query.verb == "mean":
        low, high = spec.between
        noise = Noise(1, lambda shares, words: local.one_bit(shares, 0, 1, epsilon, words))
        return _Way("one bit", lambda shard: _height(shard, column, low, high), 1, noise, local.bit_chances(epsilon))
    ends, labels = np.array(_edges(query), np.float32), query.verb == "labels"
    ends[-1] = np.nextafter(ends[-1], np.float32(np.inf))  # the last bin is closed
    k = len(ends) + 2 - labels  # below, between and above them, and missing; other labels are one category
    few = k < 3 * exp(epsilon) + 2  # where one answer errs less (Wang et al. 2017, section 4.4)

    def shares(shard: Shard) -> Array:
        x = values(shard, column)
        where = np.searchsorted(ends, x, "right")
        where[labels & (where == len(ends))] = 0
        where[np.isnan(x)] = k - 1
        return np.bincount(where, minlength=k) / len(x) if len(x) else np.eye(k)[-1]

    def respond(shares: Array, words: Words) -> Array:
        """Return the bits of a category drawn by `shares`, by the first of `words`."""
        drawn = np.searchsorted(np.cumsum(shares), float(words[0]) / 2.0**64, "right")
        true = np.array([min(int(drawn), k - 1)])
        if few:
            return np.asarray(np.arange(k) == local.randomised_response(true, k, epsilon, words[None, 1:]))
        return np.asarray(local.unary(true, k, epsilon, words[None, 1:])[0])

    if few:
        return _Way("randomised response", shares, k, Noise(3, respond), local.response_chances(k, epsilon))
    return _Way("unary encoding", shares, k, Noise(1 + k, respond), local.unary_chances(epsilon))


def _height(shard: Shard, column: str | int, low: float, high: float) -> Array:
    """Return where between the bounds the mean of the device lies `(1,)`, 0 to 1: in the middle where it has none."""
    x = values(shard, column).astype(np.float64)
    whole = np.clip(x[~np.isnan(x)], low, high)
    return np.array([(whole.mean() - low) / (high - low) if len(whole) else 0.5])
