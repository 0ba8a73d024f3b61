"""Plain data into specs, and what is wrong with it in words: the field, the value, and what would be right."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import Struct

from fedthings.errors import SpecError, nearest

T = TypeVar("T")
_WORDS = {
    "float": "a number",
    "int": "a whole number",
    "str": "text in quotes",
    "bool": "true or false",
    "object": "a table of fields",
    "array": "a list in [ ]",
}


def decode(data: Any, kind: type[T]) -> T:
    """Return the spec of type `kind` in `data`; a misspelt field is answered with the nearest valid one.

    Raises SpecError.
    """
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise SpecError(explain(str(error), data, kind)) from None


def read(file: str | Path, kind: type[T], what: str) -> T:
    """Return the spec of type `kind` in a TOML `file`; `what` says what that is. Raises SpecError."""
    try:
        return decode(tomllib.loads(Path(file).read_text()), kind)
    except OSError as error:
        raise SpecError(f"{what} {file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, SpecError) as error:
        raise SpecError(f"{what} {file}: {error}") from None


def encode(spec: Struct) -> dict[str, Any]:
    """Return `spec` as plain data for TOML or CBOR."""
    data = msgspec.to_builtins(spec, builtin_types=(bytes,))
    assert isinstance(data, dict)
    return data


def sound(name: str, spec: Struct) -> None:
    """Raise SpecError where a field of `spec`, made in Python, holds another type than it says."""
    try:
        data = msgspec.to_builtins(spec, builtin_types=(bytes,))
        msgspec.convert(data, type(spec))
    except TypeError as error:
        raise SpecError(f"{name} is not plain data ({error}): use Python's own numbers, texts and tuples") from None
    except msgspec.ValidationError as error:
        raise SpecError(explain(str(error), data, type(spec), name)) from None


def explain(message: str, data: Any, kind: Any, name: str = "") -> str:
    """Put msgspec's words about `data` into ours; `name` is where `data` itself stands."""
    text, _, place = message.partition(" - at `$")
    path = place.rstrip("`")
    value, kind = _at(data, kind, re.findall(r"[^.\[\]]+", path))
    path = f"{name}{path}".lstrip(".")
    field = match[1] if (match := re.search(r"field `([^`]*)`", text)) else ""
    where = f"{path}.{field}".lstrip(".")
    if "unknown field" in text:
        fields = _fields(_chosen(kind, value))
        return f"unknown field `{where}`" + (f": {nearest(field, fields)}" if fields else "")
    if "missing" in text:
        return f"`{where}` is missing: add it"
    shown = f"{path or 'it'} is {value!r:.60}"
    if match := re.match(r"Expected `(\w+)", text):
        return f"{shown}: give {_WORDS.get(match[1], match[1])}"
    if get_origin(kind) is Literal and isinstance(value, str):
        return f"{shown}: {nearest(value, get_args(kind))}"
    return f"{shown}: {text}"


def _at(data: Any, kind: Any, steps: list[str]) -> tuple[Any, Any]:
    """Return the value, and the type it should have, below `data` at the names and indexes `steps`."""
    for step in steps:
        if isinstance(data, Mapping):
            data, kind = data.get(step), _below(kind, data, step)
        else:
            data, kind = data[int(step)], get_args(kind)[0] if get_args(kind) else None
    return data, kind


def _below(kind: Any, data: Mapping[str, Any], field: str) -> Any:
    """Return the type of `field`; of the field that tells the members of a union apart, their names."""
    names = tuple(
        struct.__struct_config__.tag for struct in _structs(kind) if struct.__struct_config__.tag_field == field
    )
    if names:
        return Literal[names]
    struct = _chosen(kind, data)
    return {f.name: f.type for f in msgspec.structs.fields(struct)}.get(field) if struct else None


def _structs(kind: Any) -> list[Any]:
    """Return the struct types that `kind`, perhaps a union, allows."""
    return [k for k in (get_args(kind) or (kind,)) if isinstance(k, type) and issubclass(k, Struct)]


def _chosen(kind: Any, data: Any) -> Any:
    """Return the struct type that `data` is meant for: of a union the one it names; None where that is open."""
    structs = _structs(kind)
    if len(structs) == 1:
        return structs[0]
    for struct in structs:
        config = struct.__struct_config__
        if isinstance(data, Mapping) and data.get(config.tag_field) == config.tag:
            return struct
    return None


def _fields(struct: Any) -> list[str]:
    if struct is None:
        return []
    own = struct.__struct_config__.tag_field
    return [f.name for f in msgspec.structs.fields(struct)] + ([own] if own else [])
