"""What messages may hold, as Hypothesis draws it: a strategy for each."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
from hypothesis import strategies as st

from fedthings import bodies
from fedthings import messages as m
from fedthings.protocol.events import Ticket

numbers = st.integers(0, 2**63 - 1)
texts = st.text(max_size=20)
names = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
tickets = st.builds(Ticket, numbers, numbers, names, numbers)
digests = st.binary(min_size=32, max_size=32)
floats = st.floats(allow_nan=False)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | floats | texts | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
facts = st.dictionaries(texts, plain, max_size=4)
dtypes = st.sampled_from(["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"])
rows = st.builds(lambda data, dtype: np.frombuffer(data[: len(data) // 8 * 8], dtype), st.binary(), dtypes)
payloads = st.dictionaries(texts, rows, max_size=3)
offers = st.builds(
    m.Offer,
    st.sampled_from(["task", "model", "report", "subtotal", "batch", "share"]),
    digests,
    numbers,
    numbers,
    numbers,
    st.booleans(),
    st.none() | tickets,
    st.none() | st.binary(max_size=64),
    st.sampled_from(["", "http:80", "https:65535"]),
    texts,
)
receipts = st.builds(m.Receipt, tickets, st.booleans(), texts, st.none() | floats)
keys = st.builds(m.Keys, tickets, digests, digests, digests, st.binary(min_size=64, max_size=64))
sealed = st.lists(st.binary(max_size=64), max_size=3).map(tuple)
positions = st.lists(numbers, max_size=3).map(tuple)
STRATEGIES: dict[type, st.SearchStrategy[Any]] = {
    m.Offer: offers,
    m.Want: st.builds(m.Want, digests, st.lists(numbers, max_size=5).map(tuple), numbers),
    m.Chunk: st.builds(m.Chunk, digests, numbers, st.binary(max_size=64)),
    m.Announce: st.builds(
        m.Announce,
        texts,
        texts,
        st.sampled_from(["running", "paused", "finished"]),
        numbers,
        numbers,
    ),
    m.Assignment: st.builds(m.Assignment, tickets, offers, offers, floats, st.none() | tickets, st.none() | offers),
    m.Pause: st.builds(m.Pause, texts),
    m.Receipt: receipts,
    m.Farewell: st.builds(
        m.Farewell, texts, st.none() | offers, st.none() | offers, st.none() | tickets, st.none() | offers
    ),
    m.Refusal: st.builds(m.Refusal, texts, texts),
    m.Hello: st.builds(m.Hello, texts),
    m.Bye: st.builds(m.Bye),
    m.Decline: st.builds(m.Decline, tickets, texts),
    m.Keys: keys,
    m.Neighbours: st.builds(m.Neighbours, tickets, numbers, st.lists(keys, max_size=3).map(tuple)),
    m.Shares: st.builds(m.Shares, tickets, sealed),
    m.Unmask: st.builds(m.Unmask, tickets, numbers, positions, positions),
    m.Unmasked: st.builds(m.Unmasked, tickets, sealed),
    m.Enrol: st.builds(m.Enrol, texts, texts, digests, texts, st.binary(min_size=64, max_size=64)),
    m.Enrolled: st.builds(m.Enrolled, texts, digests, texts, texts),
    m.Relay: st.builds(m.Relay, names, st.binary(max_size=64)),
    m.Verdict: st.builds(m.Verdict, digests, st.booleans(), st.lists(receipts, max_size=3).map(tuple), numbers, texts),
    m.Ask: st.builds(m.Ask, texts),
    m.Status: st.builds(m.Status, facts),
    bodies.Work: st.builds(bodies.Work, numbers, facts),
    bodies.Model: st.builds(bodies.Model, numbers, numbers, payloads),
    bodies.Change: st.builds(
        bodies.Change,
        digests | st.just(b""),
        digests,
        numbers,
        st.binary().map(lambda data: np.frombuffer(data, np.uint8)),
    ),
    bodies.Report: st.builds(bodies.Report, tickets, payloads, rows, payloads),
    bodies.Subtotal: st.builds(
        bodies.Subtotal,
        st.lists(tickets, max_size=3).map(tuple),
        st.lists(texts, max_size=3).map(tuple),
        payloads,
        rows,
        payloads,
        payloads,
    ),
    bodies.Sealed: st.builds(bodies.Sealed, st.binary(max_size=64), st.binary(max_size=64)),
    bodies.Batch: st.builds(
        bodies.Batch,
        digests,
        digests,
        st.lists(tickets, max_size=3).map(tuple),
        payloads,
        numbers,
        numbers,
        numbers,
        numbers,
        st.booleans(),
        st.binary(max_size=32),
        st.lists(numbers, max_size=3).map(tuple),
        numbers,
        st.binary(max_size=32),
    ),
    bodies.Share: st.builds(bodies.Share, digests, payloads),
}
ENVELOPES, BODIES = get_args(m.Envelope), get_args(bodies.Body)
