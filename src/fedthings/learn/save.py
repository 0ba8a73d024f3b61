"""Model files: named arrays in safetensors, with the layers and the user's words in the header.

Equal models give equal bytes. One header entry holds all, since safetensors does not order several.
Of a model that is Python code the header holds its name, and nothing is imported to read it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open

from fedthings.errors import DataError, SpecError
from fedthings.learn.model import Sequential
from fedthings.learn.own import Own, plain
from fedthings.vector import Array, Vector

ENTRY = "fedthings"
CONSTANTS = {"standardise": ("mean", "deviation", "fill"), "rescale": ("mean", "deviation")}
"""What of a layer lies among the arrays."""
_BLOCK = 1 << 18  # numbers that are written at once


def save(path: str | Path, model: Sequential | Own, row: Vector, metadata: Mapping[str, Any]) -> None:
    """Write `model` with parameters `row` `(dim,)`; `metadata` is plain data for JSON.

    The arrays are named by the layout ("0.dense.weight"); constants as "0.standardise.mean".
    """
    spec = msgspec.to_builtins(model, builtin_types=(bytes,))
    arrays: dict[str, Array] = dict(model.layout.views(np.asarray(row)))
    header: dict[str, Any] = {"model": spec, "metadata": dict(metadata)}
    if isinstance(model, Own):
        header["arrays"] = list(arrays)  # in their order, which only the code knows
    else:
        for index, layer in enumerate(spec["layers"]):
            for field in [name for name, value in layer.items() if isinstance(value, bytes)]:
                constant = np.frombuffer(layer.pop(field), "<f4")
                arrays[f"{index}.{layer['type']}.{field}"] = constant.reshape(model.shapes[index])
    entry = json.dumps(header, sort_keys=True)
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        for part in packed(arrays, {ENTRY: entry}):
            file.write(part)
    partial.replace(path)  # a reader sees the old file or the new one, never a half


def packed(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file of float32 `arrays`: the bytes of its own `save`, which holds them in memory twice."""
    head: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name in sorted(arrays):
        end = at + arrays[name].nbytes
        head[name] = {"dtype": "F32", "shape": list(arrays[name].shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in sorted(arrays):
        flat = arrays[name].reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            yield np.ascontiguousarray(flat[start : start + _BLOCK], "<f4").data


def warm(path: str | Path, model: Sequential | Own) -> Vector:
    """Return the row `(dim,)` of a model file to begin `model` with.

    Raises DataError where it is no model file, SpecError where its layers, scaling aside, are others.
    """
    found, row, _ = load(path)
    if isinstance(found, Own) or isinstance(model, Own):
        same = found == model and row.size == model.layout.dim
    else:
        same = found.layers[found.stem :] == model.layers[model.stem :] and found.layout.dim == model.layout.dim
    if not same:
        raise SpecError(f"the model in {path} has other layers than the task: begin with one of the same task")
    return row


def load(path: str | Path) -> tuple[Any, Vector, dict[str, Any]]:
    """Read what `save` wrote: the model, its row and the metadata. Raises DataError."""
    try:
        with safe_open(path, "numpy") as file:
            header = json.loads((file.metadata() or {})[ENTRY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        spec = header["model"]
        if isinstance(spec, list):
            own = msgspec.convert(spec, Own)
            plain(str(path), own)
            return own, np.concatenate([arrays[name].reshape(-1) for name in header["arrays"]]), header["metadata"]
        for index, layer in enumerate(spec["layers"]):
            prefix = f"{index}.{layer['type']}."
            for field in CONSTANTS.get(layer["type"], ()):
                layer[field] = arrays[prefix + field].tobytes()
        model = msgspec.convert(spec, Sequential)
        row = np.concatenate([arrays[part.name].reshape(-1) for part in model.layout.parts])
        return model, row, header["metadata"]
    except FileNotFoundError:
        raise DataError(f"there is no model file {path}: name a .safetensors file of fedthings") from None
    except (SafetensorError, SpecError, OSError, LookupError, ValueError, TypeError):
        raise DataError(f"{path} is no model file of fedthings, or is cut short: export it again") from None
