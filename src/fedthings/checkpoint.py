"""The state of a run as bytes and back: plain data and arrays, for this machine's own files only."""

from __future__ import annotations

from typing import Any

import cbor2
import numpy as np

from fedthings.errors import StoreError

_ARRAY = 26221  # of our own, since these bytes never leave the machine: [shape, dtype, bytes]


def pack(state: Any) -> bytes:
    """Return `state`, plain data with arrays of numbers, as CBOR."""
    return cbor2.dumps(state, default=_encode)


def unpack(data: bytes) -> Any:
    """Return what `pack` was given. Raises StoreError where the bytes are not whole."""
    try:
        return cbor2.loads(data, tag_hook=_decode)
    except (cbor2.CBORDecodeError, ValueError, TypeError) as error:
        raise StoreError(f"the checkpoint cannot be read: {error}; start again in a new directory") from None


def _encode(encoder: cbor2.CBOREncoder, value: Any) -> None:
    if isinstance(value, np.generic):
        encoder.encode(value.item())
    elif isinstance(value, np.ndarray):
        encoder.encode(cbor2.CBORTag(_ARRAY, [list(value.shape), value.dtype.str, value.tobytes()]))
    else:
        raise cbor2.CBOREncodeValueError(f"{type(value).__name__} is not plain data")


def _decode(tag: cbor2.CBORTag, immutable: bool) -> Any:
    if tag.tag != _ARRAY:
        return tag
    shape, dtype, data = tag.value
    return np.frombuffer(data, dtype).reshape(shape).copy()
