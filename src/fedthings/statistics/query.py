"""The query language: one question about the columns of a fleet, like `quantiles(temperature, [.05, .5, .95])`.

A query is read by a grammar of its own, never evaluated as code:

    query = verb "(" [argument {"," argument}] ")"
    argument = name | "text in quotes" | number | "[" number {"," number} "]"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from math import inf, sqrt
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fedthings.errors import DataError, SpecError, nearest
from fedthings.learn.data import Shard
from fedthings.statistics import moments
from fedthings.statistics.columns import SAMPLES, place
from fedthings.statistics.histogram import between, of_columns, order_statistics
from fedthings.statistics.statistic import Known, Statistic
from fedthings.vector import Array

Argument: TypeAlias = "str | float | tuple[float, ...]"
FLOOR = 1e-4
"""The least share of a bin in the population stability index: an empty bin has no logarithm."""
MOST = 1 << 12
"""Numbers in a list, bins and columns at the most."""


class Query(NamedTuple):
    """A question that was read: the columns it is about, and its other arguments."""

    text: str
    verb: str
    columns: tuple[str | int, ...]
    rest: tuple[float | tuple[float, ...], ...] = ()


class Verb(NamedTuple):
    """How a question is asked, `columns` at the most (0: none), `rest` what follows: "number" or "list", or either.

    `answer(known, i, query)` is what it comes to for column i.
    """

    example: str
    columns: int
    rest: tuple[str, ...]
    statistic: Callable[[Query], Statistic]
    answer: Callable[[Known, int, Query], Any]


# --------------------------------------------------------------------- answers


def _moment(name: str) -> Callable[[Known, int, Query], Any]:
    return lambda known, i, query: float(known[name][i])


def _once(query: Query) -> Statistic:
    return moments.of_columns(query.columns, twice=False)


def _twice(query: Query) -> Statistic:
    return moments.of_columns(query.columns, twice=True)


def _ranks(*shares: float) -> Callable[[Query], Statistic]:
    return lambda query: order_statistics(of_columns(query.columns), len(query.columns), shares)


def _quantiles(query: Query) -> Statistic:
    return order_statistics(of_columns(query.columns), 1, _list(query, 0))


def _histogram(query: Query) -> Statistic:
    if isinstance(bins := query.rest[0], float):
        return order_statistics(of_columns(query.columns), 1, (0.0, 1.0), then=int(bins))
    return between(of_columns(query.columns), np.array([bins]))


def _labels(query: Query) -> Statistic:
    classes = int(_number(query, 0))
    return between(of_columns(query.columns), np.arange(classes + 1)[None] - 0.5)


def _drift(query: Query) -> Statistic:
    return between(of_columns(query.columns), np.array([_list(query, 0)]))


def _values(known: Known, i: int, query: Query) -> Any:
    return known["value"][i].tolist()


def _value(known: Known, i: int, query: Query) -> Any:
    return float(known["value"][i, 0])


def _bins(known: Known, i: int, query: Query) -> Any:
    counts = known["counts"][i].astype(int).tolist()
    if "edges" in known:
        return {"edges": known["edges"][i].tolist(), "counts": counts}
    return {"edges": list(_list(query, 0)), "counts": counts[1:-1], "below": counts[0], "above": counts[-1]}


def _counts(known: Known, i: int, query: Query) -> Any:
    counts = known["counts"][i].astype(int).tolist()
    return {"counts": counts[1:-1], "others": counts[0] + counts[-1]}


def _index(known: Known, i: int, query: Query) -> Any:
    counts = known["counts"][i]
    inner = counts[1:-1].copy()
    inner[0] += counts[0]  # the outermost bins take what lies beyond
    inner[-1] += counts[-1]
    return stability(inner, np.array(_list(query, 1)))


def stability(counts: Array, reference: Array) -> float:
    """Return the population stability index, sum of (p - q) ln(p / q) over the bins, of two histograms `(bins,)`.

    A common reading (Siddiqi 2006, ch. 8): below 0.1 nothing has moved, above 0.25 much has. A share below 0.0001
    counts as that.
    """
    p, q = (np.maximum(x / max(x.sum(), 1e-300), FLOOR) for x in (counts, reference))
    return float(((p - q) * np.log(p / q)).sum())


VERBS: dict[str, Verb] = {
    "count": Verb("count(temperature)", MOST, (), _once, lambda known, i, query: int(known["count"][i])),
    "missing": Verb("missing(temperature)", MOST, (), _once, lambda known, i, query: int(known["missing"][i])),
    "sum": Verb("sum(temperature)", MOST, (), _once, _moment("sum")),
    "mean": Verb("mean(temperature)", MOST, (), _once, _moment("mean")),
    "variance": Verb("variance(temperature)", MOST, (), _twice, _moment("variance")),
    "deviation": Verb("deviation(temperature)", MOST, (), _twice, lambda k, i, query: sqrt(float(k["variance"][i]))),
    "min": Verb("min(temperature)", MOST, (), _ranks(0.0), _value),
    "max": Verb("max(temperature)", MOST, (), _ranks(1.0), _value),
    "median": Verb("median(temperature)", MOST, (), _ranks(0.5), _value),
    "quantiles": Verb("quantiles(temperature, [.05, .5, .95])", 1, ("list",), _quantiles, _values),
    "histogram": Verb("histogram(temperature, 20)", 1, ("number or list",), _histogram, _bins),
    "labels": Verb("labels(6)", 0, ("number",), _labels, _counts),
    "drift": Verb("drift(temperature, [0, 10, 20, 30], [120, 800, 80])", 1, ("list", "list"), _drift, _index),
}


# --------------------------------------------------------------------- reading

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<name>[^\W\d]\w*(?:[.\-]\w+)*)|"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<mark>[()\[\],]))""",
    re.VERBOSE,
)


def parse(text: str) -> Query:
    """Return the question in `text`. Raises SpecError that says where it goes wrong, and how it would be right."""
    tokens = list(_tokens(text))
    verb = tokens[0][1] if tokens and tokens[0][0] == "name" else ""
    if verb not in VERBS:
        raise SpecError(f"query {text!r} begins with {verb or 'no verb'!r}: {nearest(str(verb), VERBS)}")
    found = Query(text, verb, *_sorted(text, verb, _arguments(text, verb, tokens[1:])))
    _check(found)
    return found


def _tokens(text: str) -> Iterator[tuple[str, Any, int]]:
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            raise SpecError(f"query {text!r} has {text[at]!r} at character {at + 1}: put names that have it in quotes")
        kind = match.lastgroup or ""
        value: Any = float(match["number"]) if kind == "number" else match[kind]
        yield ("name" if kind == "name" else "text" if kind in ("double", "single") else kind), value, match.start(kind)
        at = match.end()


def _arguments(text: str, verb: str, tokens: list[tuple[str, Any, int]]) -> list[Argument]:
    """Read "(" arguments ")"."""

    def wrong(what: str) -> SpecError:
        return SpecError(f"query {text!r} {what}: write it like {VERBS[verb].example}")

    marks = iter([*tokens, ("end", None, len(text))])

    def take(*kinds: str) -> tuple[str, Any]:
        kind, value, at = next(marks)
        if kind not in kinds and value not in kinds:
            raise wrong("ends too early" if kind == "end" else f"has {value!r} at character {at + 1}")
        return kind, value

    found: list[Argument] = []
    take("(")
    kind, value = take("name", "text", "number", "[", ")")
    while value != ")" or kind == "text":
        if value == "[" and kind == "mark":
            numbers = [take("number")[1]]
            while take(",", "]")[1] == ",":
                numbers.append(take("number")[1])
            found.append(tuple(numbers))
        else:
            found.append(value)
        kind, value = take(",", ")")
        if value == ",":
            kind, value = take("name", "text", "number", "[")
    take("end")
    return found


def _sorted(
    text: str, verb: str, arguments: list[Argument]
) -> tuple[tuple[str | int, ...], tuple[float | tuple[float, ...], ...]]:
    """Return the columns among `arguments`, and the rest, as the verb takes them."""
    takes = VERBS[verb]
    places = len(arguments) - len(takes.rest)
    columns, rest = arguments[: max(places, 0)], arguments[max(places, 0) :]
    if verb == "count" and not columns:
        columns = [SAMPLES]
    kinds = tuple("list" if isinstance(a, tuple) else "number" if isinstance(a, float) else "name" for a in rest)
    fits = len(kinds) == len(takes.rest) and all(kind in wanted for kind, wanted in zip(kinds, takes.rest, strict=True))
    named = all(not isinstance(c, tuple) and (isinstance(c, str) or c == int(c) >= 0) for c in columns)
    if not fits or not named or not min(takes.columns, 1) <= len(columns) <= takes.columns:
        raise SpecError(f"query {text!r} has other arguments than {verb} takes: write it like {takes.example}")
    if verb == "labels":
        columns = ["y"]
    return tuple(int(c) if isinstance(c, float) else c for c in columns if not isinstance(c, tuple)), tuple(
        value for value in rest if not isinstance(value, str)
    )


def _check(query: Query) -> None:
    """Raise SpecError unless the numbers of `query` make sense."""
    for value in query.rest:
        many = value if isinstance(value, tuple) else ()
        if len(many) > MOST or not all(abs(number) < inf for number in many):
            raise SpecError(f"query {query.text!r} has a list of {len(many)} numbers: give {MOST} finite ones at most")
        if isinstance(value, float) and not (value == int(value) and 1 <= value <= MOST):
            raise SpecError(f"query {query.text!r} has {value:g}: give a whole number from 1 to {MOST}")
    if query.verb == "quantiles" and not all(0 <= share <= 1 for share in _list(query, 0)):
        raise SpecError(f"query {query.text!r}: quantiles are shares from 0 to 1, such as [.05, .5, .95]")
    if query.verb in ("histogram", "drift") and isinstance(query.rest[0], tuple):
        edges = np.array(query.rest[0], np.float32)
        if len(edges) < 2 or not (np.diff(edges) > 0).all():
            raise SpecError(f"query {query.text!r}: give at least 2 edges, each above the one before")
    if query.verb == "drift":
        bins, reference = len(_list(query, 0)) - 1, _list(query, 1)
        if len(reference) != bins or min(reference) < 0 or not sum(reference) > 0:
            raise SpecError(
                f"query {query.text!r}: the reference is counts or shares, one for each of the {bins} bins between the "
                "edges, none below 0 and not all 0"
            )


def _list(query: Query, i: int) -> tuple[float, ...]:
    value = query.rest[i]
    assert isinstance(value, tuple)
    return value


def _number(query: Query, i: int) -> float:
    value = query.rest[i]
    assert isinstance(value, float)
    return value


# --------------------------------------------------------------------- asking


def build(text: str) -> Statistic:
    """Return what the devices sum to answer `text`. Raises SpecError."""
    query = parse(text)
    return VERBS[query.verb].statistic(query)


def fits(text: str, shard: Shard, name: str) -> None:
    """Raise DataError, which names the columns there are, unless device `name` has those that `text` asks about."""
    for column in parse(text).columns:
        try:
            place(shard, column)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None


def answer(text: str, known: Known, quorum: int) -> dict[str, Any]:
    """Return what the fleet's sums say: the value, and of how many devices and samples it is.

    Raises SpecError where fewer than `quorum` devices have a value in a column.
    """
    query = parse(text)
    for column, devices in zip(query.columns, known["devices"].astype(int).tolist(), strict=True):
        if not devices:
            raise SpecError(f"no device has a value in {column!r}: there is nothing to answer")
        if devices < quorum:
            raise SpecError(f"{devices} of the devices have a value in {column!r}, below the quorum of {quorum}")
    found = {str(column): VERBS[query.verb].answer(known, i, query) for i, column in enumerate(query.columns)}
    return {
        "query": text,
        "value": found if len(found) > 1 else next(iter(found.values())),
        "devices": int(known["devices"].min()),
        "samples": int(known["count"].max()),
        "missing": int(known["missing"].max()),
    }
