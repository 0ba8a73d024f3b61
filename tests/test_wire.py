"""The wire loses nothing (law 6), keeps to docs/wire.cddl, and refuses everything else by name."""

from __future__ import annotations

import gc
import math
import re
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycddl import Schema

from fedthings import bodies, wire
from fedthings import messages as m
from fedthings.errors import WireError
from fedthings.protocol.events import Ticket
from wire_strategies import BODIES, ENVELOPES, STRATEGIES, names, plain

DOCS = Path(__file__).parent.parent / "docs"
CDDL = (DOCS / "wire.cddl").read_text()
SCHEMA = Schema(CDDL)


def same(a: Any, b: Any) -> bool:
    """Whether two messages are equal, arrays bit for bit and dtype for dtype."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, m.Message):
        return type(a) is type(b) and all(same(getattr(a, f), getattr(b, f)) for f in a.__struct_fields__)
    return type(a) is type(b) and bool(a == b)


def test_every_message_is_tested() -> None:
    assert set(STRATEGIES) == set(ENVELOPES) | set(BODIES)


@pytest.mark.parametrize("kind", ENVELOPES, ids=lambda kind: kind.__name__)
def test_messages_come_back_as_they_were_and_match_the_schema(kind: type) -> None:
    @settings(max_examples=25, deadline=None)
    @given(STRATEGIES[kind], names | st.just(""))
    def check(message: Any, federation: str) -> None:
        data = wire.pack(message, federation)
        assert wire.unpack(data) == (federation, message)
        assert wire.pack(message, federation) == data
        SCHEMA.validate_cbor(data)

    check()


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
def test_bodies_come_back_as_they_were_and_match_the_schema(kind: type) -> None:
    @settings(max_examples=25, deadline=None)
    @given(STRATEGIES[kind])
    def check(body: Any) -> None:
        data = wire.pack_body(body)
        assert same(wire.unpack_body(data, kind), body)
        assert wire.pack_body(body) == data
        SCHEMA.validate_cbor(data)

    check()


@pytest.mark.parametrize("kind", [*ENVELOPES, *BODIES], ids=lambda kind: kind.__name__)
def test_the_schema_names_every_field(kind: type) -> None:
    """So that a field added to a message without the schema is found even where it is optional."""
    rule = re.search(rf"^{kind.__name__.lower()} = \{{(.*?)\}}$", CDDL, re.M | re.S)
    assert rule, kind
    text = rule[1] + "".join(re.findall(r"^(?:offered|received) = \((.*?)\)$", CDDL, re.M | re.S))
    for name in kind.__struct_fields__:  # type: ignore[attr-defined]
        assert re.search(rf"\b{name}:", text), name


# -------------------------------------------------------------------- encoding

TICKET = Ticket(1, 2, "device-7", 0)


def test_encoding_is_deterministic_whatever_the_order_of_keys() -> None:
    a = bodies.Model(0, 1, {"x": np.zeros(2, np.float32), "abc": np.ones(1)})
    b = bodies.Model(0, 1, {"abc": np.ones(1), "x": np.zeros(2, np.float32)})
    assert wire.pack_body(a) == wire.pack_body(b)


def test_arrays_are_typed_byte_strings_and_views() -> None:
    body = bodies.Model(0, 1, {"x": np.arange(3, dtype=np.float32)})
    data = wire.pack_body(body)
    assert cbor2.loads(data)["arrays"]["x"] == cbor2.CBORTag(85, np.arange(3, dtype="<f4").tobytes())
    row = wire.unpack_body(data, bodies.Model).arrays["x"]
    assert not row.flags.writeable and row.base is not None and row.flags.aligned


@pytest.mark.parametrize(("tag", "dtype"), [(81, ">f4"), (82, ">f8"), (75, ">i8"), (66, ">u4"), (74, ">i4")])
def test_big_endian_arrays_are_read(tag: int, dtype: str) -> None:
    values = np.array([1, 2, 300], dtype)
    raw = {
        "v": 1,
        "t": "model",
        "phase": 0,
        "version": 0,
        "arrays": {"x": cbor2.CBORTag(tag, values.tobytes())},
    }
    row = wire.unpack_body(cbor2.dumps(raw), bodies.Model).arrays["x"]
    assert row.dtype.isnative and row.tolist() == [1, 2, 300]


@pytest.mark.parametrize(
    "body",
    [
        bodies.Model(0, 1, {"x": np.zeros((2, 2), np.float32)}),
        bodies.Model(0, 1, {"x": np.zeros(2, bool)}),
        bodies.Model(0, 1, {"x": np.zeros(2, complex)}),
        bodies.Model(0, -1, {}),
        bodies.Work(0, {"x": {1: 2}}),
        bodies.Work(0, {"x": np.float32(1)}),
        bodies.Work(0, {"x": {1, 2}}),
    ],
)
def test_what_cannot_be_said_is_refused_at_the_sender(body: Any) -> None:
    with pytest.raises(WireError) as refused:
        wire.pack_body(body)
    assert refused.value.reason == "malformed"


# ------------------------------------------------------------------- refusals


def raw(**fields: Any) -> bytes:
    return cbor2.dumps({"v": 1, "f": "fed", "t": "hello", "boot": "b"} | fields)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "malformed"),
        (raw()[:-1], "malformed"),
        (raw() + b"\0", "malformed"),
        (raw(v=2), "unknown version"),
        (raw(v=True), "malformed"),
        (raw(v="1"), "malformed"),
        (raw(t="dance"), "unknown message"),
        (raw(t="model"), "unknown message"),
        (raw(t=7), "unknown message"),
        (raw(f="a/b"), "malformed"),
        (raw(f=None), "malformed"),
        (raw(more=1), "malformed"),
        (raw(boot=1), "malformed"),
        (raw(boot=cbor2.CBORTag(0, "2020-01-01T00:00:00Z")), "malformed"),
        (raw(boot=cbor2.CBORTag(85, b"1234")), "malformed"),
        (raw(boot=2**70), "malformed"),
        (cbor2.dumps([1, 2]), "malformed"),
        (cbor2.dumps({1: 2}), "malformed"),
        (b"\xa2aa\x01aa\x02", "malformed"),
        (b"\xbfav\x01\xff", "malformed"),
        (b"\x81" * 100_000, "malformed"),
        (b"\x9b" + b"\xff" * 8, "malformed"),
        (b"\x5b\x00\x00\x00\xff\xff\xff\xff\xff", "malformed"),
        (b"\xba\x10\x00\x00\x00", "malformed"),
        (b"\0" * (wire.LIMIT + 1), "too large"),
        (raw(t="announce", name="n", state="dancing", phase=0, version=0), "malformed"),
        (cbor2.dumps({"v": 1, "f": "", "t": "want", "digest": b"short", "starts": [1]}), "malformed"),
        (cbor2.dumps({"v": 1, "f": "", "t": "want", "digest": b"d" * 32, "starts": [-1]}), "malformed"),
        (cbor2.dumps({"v": 1, "f": "", "t": "want", "digest": "d" * 32, "starts": [1]}), "malformed"),
        (raw(t="decline", ticket=[0, 1, "a/b", 0], reason="r"), "malformed"),
        (raw(t="decline", ticket=[0, 1, "ab"], reason="r"), "malformed"),
        (raw(t="relay", device="a/b", data=b""), "malformed"),
        (
            raw(t="verdict", digest=b"d" * 32, merged=True, out=[{"ticket": [0, 1, "a/b", 0], "kept": True}]),
            "malformed",
        ),
        (raw(t="verdict", digest=b"d" * 32, merged=True, out=[{"kept": True}]), "malformed"),
    ],
)
def test_refusals_carry_their_reason(data: bytes, reason: str) -> None:
    with pytest.raises(WireError) as refused:
        wire.unpack(data)
    assert refused.value.reason == reason


def test_a_lying_header_allocates_nothing() -> None:
    import tracemalloc

    tracemalloc.start()
    for data in (
        b"\x9a\x10\x00\x00\x00",
        b"\x5a\x40\x00\x00\x00",
        b"\xba\x10\x00\x00\x00",
        b"\x7a\x40\x00\x00\x00",
    ):
        with pytest.raises(WireError):
            wire.unpack_body(data, bodies.Model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_a_message_over_the_limit_is_refused_at_the_sender() -> None:
    with pytest.raises(WireError, match="too large"):
        wire.pack(m.Chunk(b"d" * 32, 0, bytes(wire.LIMIT)), "fed")


def test_one_body_is_not_another() -> None:
    with pytest.raises(WireError) as refused:
        wire.unpack_body(wire.pack_body(bodies.Work(0, {})), bodies.Model)
    assert refused.value.reason == "malformed"


def test_a_number_that_is_none_is_refused() -> None:
    offer = m.Offer("task", b"d" * 32, 1, 1, 1)
    with pytest.raises(WireError, match="seconds"):
        wire.pack(m.Assignment(TICKET, offer, offer, math.nan, None), "fed")


# ------------------------------------------------------------------------ fuzz

GOOD = [
    wire.pack(
        m.Assignment(TICKET, m.Offer("task", b"d" * 32, 9, 1, 9), m.Offer("model", b"e" * 32, 9, 1, 9), 1.5, TICKET),
        "f",
    ),
    wire.pack(m.Verdict(b"d" * 32, False, (m.Receipt(TICKET, True), m.Receipt(TICKET, False, "late")), 4), "f"),
    wire.pack_body(
        bodies.Subtotal(
            (TICKET,), ("",), {"x": np.arange(3)}, np.array([3]), {"loss": np.arange(2)}, {"loss": np.ones(1)}
        )
    ),
    wire.pack(m.Status({"devices": [{"name": "a", "loss": 0.1}], "n": None}), "f"),
    wire.pack_body(bodies.Report(TICKET, {"x": np.arange(9, dtype="f4")}, np.array([3]), {"loss": np.array([1, 2])})),
]


def never_anything_else(data: bytes) -> None:
    for read in (wire.unpack, *(lambda d, k=kind: wire.unpack_body(d, k) for kind in BODIES)):
        try:
            read(data)
        except WireError as error:
            assert error.reason in ("malformed", "unknown version", "unknown message", "too large")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_raise_only_wire_errors(data: bytes) -> None:
    never_anything_else(data)


@settings(max_examples=300, deadline=None)
@given(plain)
def test_random_cbor_raises_only_wire_errors(value: Any) -> None:
    never_anything_else(cbor2.dumps(value))


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(GOOD),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4),
    st.data(),
)
def test_damaged_messages_raise_only_wire_errors(good: bytes, flips: list[tuple[int, int]], data: Any) -> None:
    damaged = bytearray(good)
    for at, value in flips:
        damaged[at % len(damaged)] = value
    never_anything_else(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
    never_anything_else(bytes(damaged))


# ------------------------------------------------------------------------ docs


def test_the_page_names_every_message() -> None:
    page = (DOCS / "wire.md").read_text()
    for kind in (*ENVELOPES, *BODIES):
        assert f"| `{kind.__name__.lower()}` |" in page, kind


@pytest.mark.parametrize("dim", [0, 1, 5, 6, 63, 64, 16_383, 16_384, 70_000])
def test_size_is_that_of_the_packed_body(dim: int) -> None:
    for dtype in ("f4", "f8", "i1"):
        body = bodies.Model(3, 70_000, {"x": np.zeros(dim, dtype), "longer": np.ones(3, "i8")})
        assert wire.size(body) == len(wire.pack_body(body))


def test_a_body_in_a_file_is_the_same_and_is_not_read(tmp_path: Path) -> None:
    rows = {"x": np.arange(1000, dtype="f4"), "c": np.zeros(0, "f4"), "n": np.arange(3, dtype="i8")}
    for body in (
        bodies.Model(1, 2, rows),
        bodies.Report(Ticket(0, 1, "d", 0), rows, np.ones(1, np.int64), {"loss": rows["n"]}),
    ):
        path = tmp_path / "body"
        path.write_bytes(wire.pack_body(body))
        found = wire.unpack_file(path, type(body))
        assert wire.pack_body(found) == path.read_bytes()
        assert not found.arrays["x"].flags.writeable and not found.arrays["x"].flags.owndata
    for damaged in (b"", b"\xff", wire.pack_body(body)[:-1], wire.pack_body(bodies.Work(0, {}))):
        path = tmp_path / "damaged"
        path.write_bytes(damaged)
        with pytest.raises(WireError):
            wire.unpack_file(path, bodies.Model)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="tells by Linux's list of what is mapped")
def test_a_file_is_let_go_of_with_its_rows_and_not_by_the_collector(tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(wire.pack_body(bodies.Model(1, 2, {"x": np.arange(5000, dtype="f4")})))
    gc.disable()
    try:
        found = wire.unpack_file(path, bodies.Model)
        assert str(path) in Path("/proc/self/maps").read_text()
        del found
        assert str(path) not in Path("/proc/self/maps").read_text()
    finally:
        gc.enable()
