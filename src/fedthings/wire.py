"""Messages to CBOR bytes and back (RFC 8949), arrays as typed byte strings (RFC 8746).

The schema is docs/wire.cddl. Whatever comes in is looked over head by head before it is decoded, so that
no header can lie about sizes and nothing but plain data is ever built. No I/O lives here.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import cbor2
import msgspec
import numpy as np
from msgspec import Struct

from fedthings.bodies import Batch, Body, Change, Model, Report, Sealed, Share, Subtotal, Work
from fedthings.errors import WireError
from fedthings.messages import Envelope, Message, Offer, Receipt, Status
from fedthings.protocol.events import Ticket
from fedthings.vector import Array

VERSION = 1
"""The version of the protocol; another is refused with "unknown version"."""
LIMIT = 1 << 20
"""Bytes: a longer message is refused before it is decoded. Bodies are bounded by their receiver (chunks)."""
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""A device's name, and a federation's id."""

_DEPTH = 64  # a model's spec nests about 10 deep
_ITEMS = 1 << 18  # heads in a message: 256 Ki small items take about 0.1 s to walk
_WORDS = {
    "what": ("task", "model", "report", "subtotal", "batch", "share"),
    "state": ("running", "paused", "finished"),
}
_LENGTHS = dict.fromkeys(("digest", "key", "seal", "mask", "identity"), (32,)) | {"base": (0, 32)}
_LENGTHS |= {"proof": (64,), "signature": (64,)}
# RFC 8746 section 2.1. The first of a type is what is written; big-endian ones are read only.
_TAGS = {"|u1": 64, "<u2": 69, "<u4": 70, "<u8": 71, "|i1": 72, "<i2": 77, "<i4": 78, "<i8": 79}
_TAGS |= {"<f2": 84, "<f4": 85, "<f8": 86}
_BIG = {65: ">u2", 66: ">u4", 67: ">u8", 73: ">i2", 74: ">i4", 75: ">i8", 80: ">f2", 81: ">f4", 82: ">f8"}
_DTYPES = {tag: np.dtype(name) for name, tag in _TAGS.items()} | {t: np.dtype(n) for t, n in _BIG.items()}

B = TypeVar("B", Work, Model, Change, Report, Subtotal, Sealed, Batch, Share)
_ENVELOPES = {kind.__name__.lower(): kind for kind in get_args(Envelope)}
_BODIES = {kind.__name__.lower(): kind for kind in get_args(Body)}


# ------------------------------------------------------------------------- packing


def pack(message: Envelope, federation: str) -> bytes:
    """Return `message` as bytes; equal messages give equal bytes. `federation` "" is: whichever is here.

    Raises WireError.
    """
    data = _pack(message, {"f": federation})
    if federation and not NAME.fullmatch(federation):
        raise WireError("malformed", f"federation is {federation!r}: use 1 to 64 of A-Z a-z 0-9 . _ -")
    if len(data) > LIMIT:
        raise WireError("too large", f"{_tag(message)} of {len(data)} bytes: a message has at most {LIMIT}")
    return data


def pack_body(body: Body) -> bytes:
    """Return a body (any message of `Body`) as bytes; equal bodies give equal bytes. Raises WireError."""
    return _pack(body, {})


def size(body: Model | Report) -> int:
    """Return the bytes of `body` when packed; its arrays, which may be large, are not copied for it."""
    hollow = msgspec.structs.replace(body, arrays={name: row[:0] for name, row in body.arrays.items()})
    sizes = [row.nbytes for row in body.arrays.values()]
    return len(pack_body(hollow)) + sum(n + number_size(n) - 1 for n in sizes)  # a head is as long as its number


def number_size(n: int) -> int:
    """Return the bytes of a whole number from 0, or of the head of n bytes or elements (RFC 8949, section 3)."""
    if n < 24:
        return 1
    return 2 if n < 1 << 8 else 3 if n < 1 << 16 else 5 if n < 1 << 32 else 9


def ticket_size(ticket: Ticket) -> int:
    """Return the bytes of `ticket` inside a message."""
    phase, version, device, attempt = ticket
    name = len(device) if device.isascii() else len(device.encode())
    return 1 + number_size(phase) + number_size(version) + number_size(name) + name + number_size(attempt)


def _pack(message: Message, extra: dict[str, Any]) -> bytes:
    _check(message)
    fields = {"v": VERSION, "t": _tag(message), **extra, **_plain(message)}
    try:
        data: bytes = cbor2.dumps(fields, canonical=True)
    except (cbor2.CBOREncodeError, ValueError, TypeError, RecursionError) as error:
        raise WireError("malformed", f"{_tag(message)} cannot be packed: {error}") from None
    if isinstance(message, Work | Status):  # free data: refuse here what the other end would refuse
        _Heads(data, arrays=False).walk()
    return data


def _tag(message: Message) -> str:
    return type(message).__name__.lower()


def _plain(message: Struct) -> dict[str, Any]:
    """Return the fields of `message` as CBOR can hold them, without those that have their default."""
    names = message.__struct_fields__
    needed = len(names) - len(message.__struct_defaults__)
    fields = {}
    for i, name in enumerate(names):
        value = getattr(message, name)
        if i < needed or value != message.__struct_defaults__[i - needed]:
            fields[name] = _value(value) if name not in ("spec", "facts") else value
    return fields


def _value(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_value(item) for item in value]
    if isinstance(value, np.ndarray):
        return _typed(value)
    if isinstance(value, Mapping):
        return {name: _typed(array) for name, array in value.items()}
    return _plain(value) if isinstance(value, Struct) else value


def _typed(row: Array) -> cbor2.CBORTag:
    """Return `row` `(dim,)` as a typed array of RFC 8746, in little-endian order."""
    if not isinstance(row, np.ndarray) or row.ndim != 1:
        raise WireError("malformed", f"arrays on the wire are rows (dim,), not {np.shape(row)}")
    row = row.astype(row.dtype.newbyteorder("<"), copy=False)
    if row.dtype.str not in _TAGS:
        raise WireError("malformed", f"no typed array of RFC 8746 holds {row.dtype}")
    return cbor2.CBORTag(_TAGS[row.dtype.str], row.tobytes())


# ----------------------------------------------------------------------- unpacking


def unpack(data: bytes) -> tuple[str, Envelope]:
    """Return the federation's id and the message in `data`.

    Raises WireError: "too large", "malformed", "unknown version", "unknown message".
    """
    if len(data) > LIMIT:
        raise WireError("too large", f"{len(data)} bytes: a message has at most {LIMIT}")
    fields = _fields(data, arrays=False)
    federation = fields.pop("f", None)
    if not isinstance(federation, str) or (federation and not NAME.fullmatch(federation)):
        raise WireError("malformed", "f is not the id of a federation")
    message: Envelope = _unpack(fields, _ENVELOPES)
    return federation, message


def unpack_body(data: bytes, kind: type[B]) -> B:
    """Return the body in `data`, which must be of `kind`; its arrays are read-only rows `(dim,)`.

    Raises WireError: "malformed", "unknown version", "unknown message".
    """
    return _of(_unpack(_fields(data, arrays=kind is not Work), _BODIES), kind)


def _of(body: Any, kind: type[B]) -> B:
    if not isinstance(body, kind):
        raise WireError("malformed", f"a {_tag(body)} where a {kind.__name__.lower()} was due")
    return body


def unpack_file(path: Path, kind: type[B]) -> B:
    """Return the body in the file at `path`, which must be of `kind`, without reading its arrays.

    They are views into the file, read-only and perhaps not aligned, and are read as they are used; the file may be
    removed meanwhile, but must not change. Raises WireError as `unpack_body`, and OSError.
    """
    with path.open("rb", buffering=0) as file:
        if not os.fstat(file.fileno()).st_size:
            raise WireError("malformed", "cut short")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    heads = _Heads(mapped, kind is not Work)
    heads.walk()
    hollow: list[bytes] = []  # the same, with the number of each array instead of its bytes
    at = 0
    for number, (head, _, end) in enumerate(heads.rows):
        hollow += [mapped[at:head], b"\x44" + number.to_bytes(4, "big")]
        at = end
    fields = _loads(b"".join([*hollow, mapped[at:]]))
    view = memoryview(mapped)
    rows = [view[start:end] for _, start, end in heads.rows]
    return _of(_unpack({name: _filled(value, rows) for name, value in fields.items()}, _BODIES), kind)


def _filled(value: Any, rows: list[memoryview]) -> Any:
    """Return `value` with the bytes of each typed array instead of their number."""
    if isinstance(value, dict):
        return {name: _filled(inner, rows) for name, inner in value.items()}
    if not isinstance(value, cbor2.CBORTag):
        return value
    return cbor2.CBORTag(value.tag, rows[int.from_bytes(value.value, "big")])


def _fields(data: bytes, arrays: bool) -> dict[str, Any]:
    data = bytes(data)
    _Heads(data, arrays).walk()
    return _loads(data)


def _loads(data: bytes) -> dict[str, Any]:
    try:
        fields = cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise WireError("malformed", str(error)) from None
    if not isinstance(fields, dict) or type(fields.get("v")) is not int:
        raise WireError("malformed", "not a map with a version v")
    version = fields.pop("v")
    if version != VERSION:
        raise WireError("unknown version", f"{version}: this end speaks version {VERSION}")
    return fields


def _unpack(fields: dict[str, Any], kinds: Mapping[str, Any]) -> Any:
    tag = fields.pop("t", None)
    if not isinstance(tag, str) or tag not in kinds:
        raise WireError("unknown message", repr(tag)[:80])
    for name in ("arrays", "metrics", "values"):
        if isinstance(fields.get(name), dict):
            fields[name] = {key: _row(value) for key, value in fields[name].items()}
    for name in ("weight", "difference"):
        if name in fields:
            fields[name] = _row(fields[name])
    try:
        message = msgspec.convert(fields, kinds[tag], builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise WireError("malformed", f"{tag}: {error}") from None
    _check(message)
    return message


def _row(value: Any) -> Array:
    """Return the typed array `value` as a read-only row `(dim,)` in the machine's own byte order."""
    dtype = _DTYPES.get(value.tag) if isinstance(value, cbor2.CBORTag) else None
    if dtype is None or len(value.value) % dtype.itemsize:
        raise WireError("malformed", "not a typed array (RFC 8746)")
    row: Array = np.frombuffer(value.value, dtype) if len(value.value) else np.empty(0, dtype)
    row = row.astype(dtype.newbyteorder("="), copy=False)
    row.flags.writeable = False
    return row


# ------------------------------------------------------------------------ checking


def _check(message: Struct) -> None:
    """Raise WireError where a field is out of the bounds that docs/wire.cddl gives."""
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if isinstance(value, Ticket):
            good = _sound(value)
        elif isinstance(value, Offer):
            _check(value)
            continue
        elif name in ("tickets", "out"):
            good = all(_sound(item) for item in value)
        elif isinstance(value, int):
            good = 0 <= value < 1 << 63
        elif isinstance(value, float):
            good = value == value
        elif name in _LENGTHS:
            good = len(value) in _LENGTHS[name]
        elif name == "keys":
            for item in value:
                _check(item)
            continue
        elif name == "difference":
            good = value.dtype == np.uint8
        elif name == "device":
            good = bool(NAME.fullmatch(value))
        elif name in ("starts", "alive", "gone"):
            good = all(0 <= n < 1 << 63 for n in value)
        else:
            good = name not in _WORDS or value in _WORDS[name]
        if not good:
            raise WireError("malformed", f"{type(message).__name__.lower()}.{name} is {value!r:.80}")


def _sound(item: Ticket | Receipt) -> bool:
    """Return whether a ticket, also that of a receipt, is within the bounds."""
    if isinstance(item, Receipt) and item.seconds is not None and item.seconds != item.seconds:
        return False
    ticket = item if isinstance(item, Ticket) else item.ticket
    numbers = (ticket.phase, ticket.version, ticket.attempt)
    return bool(NAME.fullmatch(ticket.device)) and all(0 <= n < 1 << 63 for n in numbers)


class _Heads:
    """A walk over the heads of CBOR items (RFC 8949 section 3): definite lengths that are really there,
    text keys that differ, no tags but typed arrays, bounded depth, and nothing behind the end."""

    def __init__(self, data: bytes | mmap.mmap, arrays: bool) -> None:
        self.data = data
        self.arrays = arrays
        self.items = 0
        self.rows: list[tuple[int, int, int]] = []  # of each typed array: where head, bytes and what follows begin

    def walk(self) -> None:
        """Raise WireError unless `data` is exactly one such item."""
        if self._item(0, 0) != len(self.data):
            raise WireError("malformed", "bytes behind the end")

    def _head(self, at: int) -> tuple[int, int, int]:
        """Return major type, argument and the place behind the head."""
        if at >= len(self.data):
            raise WireError("malformed", "cut short")
        major, info = divmod(self.data[at], 32)
        if info < 24:
            return major, info, at + 1
        if info > 27:
            raise WireError("malformed", "an indefinite length or a reserved head")
        end = at + 1 + (1 << (info - 24))
        if end > len(self.data):
            raise WireError("malformed", "cut short")
        if major == 7:  # a float, or a simple value in two bytes, which is refused
            return major, info, end
        return major, int.from_bytes(self.data[at + 1 : end], "big"), end

    def _item(self, at: int, depth: int) -> int:
        """Return the place behind the item that begins at `at`."""
        self.items += 1
        if depth > _DEPTH or self.items > _ITEMS:
            raise WireError("malformed", "nested too deep, or too many items")
        if at < len(self.data) and (n := self.data[at] & 31) < 24:
            major, at = self.data[at] >> 5, at + 1
        else:
            major, n, at = self._head(at)
        if major <= 1:
            return at
        if major == 7:
            if n not in (20, 21, 22, 25, 26, 27):
                raise WireError("malformed", f"simple value {n}")
            return at
        if major == 6:
            if not self.arrays or n not in _DTYPES or self._head(at)[0] != 2:
                raise WireError("malformed", f"tag {n} is not allowed here")
            end = self._item(at, depth + 1)
            self.rows.append((at, self._head(at)[2], end))
            return end
        if n > len(self.data) - at:
            raise WireError("malformed", f"{n} announced, {len(self.data) - at} bytes left")
        if major <= 3:
            return at + n
        if major == 4:
            for _ in range(n):
                at = self._item(at, depth + 1)
            return at
        return self._map(n, at, depth)

    def _map(self, n: int, at: int, depth: int) -> int:
        keys = set()
        for _ in range(n):
            major, length, start = self._head(at)
            if major != 3:
                raise WireError("malformed", "a key that is not text")
            at = start + length  # beyond the end, what follows is cut short
            self.items += 1
            keys.add(self.data[start:at])
            at = self._item(at, depth + 1)
        if len(keys) != n:
            raise WireError("malformed", "a key twice")
        return at
