"""Of an embedding only the rows that a device has seen: the others have not changed, and say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from fedthings.errors import SpecError
from fedthings.stage import Schema, Stage, State, real, resized, untouched
from fedthings.vector import Array, Key, Layout, Payload

AT = "seen_rows.at"


class SeenRows(Struct, frozen=True, tag="seen_rows", forbid_unknown_fields=True):
    """Send of each embedding the `most` rows that have changed most, and where they lie; the other arrays whole.

    A report has one size, whatever a device has seen (law 4): one that has seen at most `most` categories loses
    nothing, and of one that has seen more the rest goes into the next report. Bytes: 4 a number sent and 4 a row; the
    device keeps 4 a parameter. Which rows are sent tells the server which categories a device has.
    """

    most: int = 64

    def __post_init__(self) -> None:
        if self.most < 1:
            raise SpecError(f"stages.seen_rows.most is {self.most}: it must be at least 1")


class _Table(NamedTuple):
    """Where a table `(rows, width)` lies in the row, how many rows are sent, and where these begin among all sent."""

    start: int
    rows: int
    width: int
    sent: int
    at: int

    def of(self, x: Array) -> Array:
        """Return the table of `x` `(n, dim)` as a view `(n, rows, width)`."""
        return x[:, self.start : self.start + self.rows * self.width].reshape(len(x), self.rows, self.width)


def build(spec: SeenRows, schema: Schema, layout: Layout) -> Stage:
    """Return the stage for rows of `layout`; the device keeps what it has left out so far, `(dim,)`."""
    dim = real(schema, "seen_rows")
    if dim != layout.dim:
        raise SpecError("stages: seen_rows stands behind a stage that leaves no tables: put it first, or after clip")
    tables, count = [], 0
    whole = np.ones(dim, bool)
    for part in layout.parts:
        if part.name.endswith(".embedding.vectors"):
            rows, width = part.shape
            tables.append(_Table(part.start, rows, width, min(spec.most, rows), count))
            count += tables[-1].sent
            whole[part.start : part.stop] = False
    if not tables:
        raise SpecError("stages: seen_rows is set, and the model has no embedding: leave it out, or use top_k")
    rest = np.flatnonzero(whole)
    size = len(rest) + sum(table.sent * table.width for table in tables)

    def encode(payload: Payload, states: Sequence[State], keys: Sequence[Key]) -> tuple[Payload, Sequence[State]]:
        x = payload["x"] + np.stack(states)
        parts, places = [x[:, rest]], []
        x[:, rest] = 0
        for table in tables:
            vectors = table.of(x)
            far = np.abs(vectors).max(-1)
            at = np.sort(np.argpartition(far, table.rows - table.sent, axis=-1)[:, table.rows - table.sent :], axis=-1)
            parts.append(np.take_along_axis(vectors, at[..., None], 1).reshape(len(x), -1))
            np.put_along_axis(vectors, at[..., None], np.float32(0), 1)
            places.append(at.astype(np.uint32))
        return {**payload, "x": np.concatenate(parts, -1), AT: np.concatenate(places, -1)}, list(x)

    def decode(payload: Payload) -> Payload:
        left = dict(payload)
        sent, places = left.pop("x"), left.pop(AT).astype(np.int64)
        x = np.zeros((len(sent), dim), np.float32)
        x[:, rest] = sent[:, : len(rest)]
        begin, wrong = len(rest), np.zeros(len(sent), bool)
        for table in tables:
            at = places[:, table.at : table.at + table.sent]
            values = sent[:, begin : begin + table.sent * table.width].reshape(len(sent), table.sent, table.width)
            begin += table.sent * table.width
            wrong |= np.any(at >= table.rows, axis=-1)
            np.put_along_axis(table.of(x), np.where(at < table.rows, at, 0)[..., None], values, 1)
        x[wrong] = np.nan  # a row that is none: the report is refused by its value
        return {**left, "x": x}

    return Stage(lambda: np.zeros(dim, np.float32), encode, decode, untouched, resized(schema, size))
