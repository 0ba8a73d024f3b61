"""A model as a file of another framework, which is read again and must predict the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fedthings.errors import SpecError
from fedthings.learn import filled, transforms
from fedthings.learn.element import snake
from fedthings.learn.lift import framework, guarded
from fedthings.learn.model import Sequential, outputs
from fedthings.learn.own import Own
from fedthings.vector import Array, keyed

SAMPLES = 16
"""Samples, drawn at random, by which a file is checked."""
ALIKE = 1e-5
"""How far outputs may be apart, of the largest of them where that is above 1."""

Model: TypeAlias = Sequential | Own


class Format(NamedTuple):
    """`write(model, row, path)`, and `read(path)`, which gives a function from samples to outputs."""

    suffix: str
    write: Callable[[Model, Array, Path], None]
    read: Callable[[Path], Callable[[Array], Array]]


def write(kind: str, model: Model, row: Array, path: Path) -> float:
    """Write `model` with `row` `(dim,)` as a file of `kind`; return how far its predictions are from ours, at most.

    Raises SpecError where it cannot be written, or where it predicts something else.
    """
    form = FORMATS[kind]
    if path.suffix != form.suffix:
        raise SpecError(f"--out is {path}: a file for {kind} ends in {form.suffix}")
    for i, layer in enumerate(() if isinstance(model, Own) else model.layers):
        if isinstance(layer, filled.Filled):
            name = snake(type(layer).__name__)
            raise SpecError(f"layer {i} ({name}) has no form in {kind} yet: export to safetensors, or to npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    X = _samples(model)
    with guarded(f"export to {kind}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those are the framework's, about itself
        form.write(model, row, path)
        found = form.read(path)(X)
    due = model.predict(row, X) if isinstance(model, Own) else outputs(model, row, X)
    gap = float(np.abs(found.reshape(due.shape) - due).max())
    if not gap <= ALIKE * max(1.0, float(np.abs(due).max())):
        path.unlink()
        raise SpecError(f"export to {kind}: the file would predict up to {gap:.2g} beside the model: use safetensors")
    return gap


def _samples(model: Model) -> Array:
    """Return samples to compare by, with gaps where the model fills them."""
    X = keyed(0, "export").normal(0, 2, (SAMPLES, *model.input)).astype(np.float32)
    fill = transforms.Standardise | transforms.Impute
    if isinstance(model, Sequential) and any(isinstance(layer, fill) for layer in model.layers[: model.stem]):
        X.reshape(SAMPLES, -1)[::2, 0] = np.nan
    return X


def _theirs(model: Own, row: Array, kind: str, wanted: type, door: str) -> Any:
    """Return the framework's own object. Raises SpecError where it is none of `wanted`."""
    found = model.fitted(row)
    if not isinstance(found, wanted):
        raise SpecError(f"{model.factory} is no model of {door}: export it to safetensors, not to {kind}")
    return found


def _write_torch(model: Model, row: Array, path: Path) -> None:
    torch = framework("torch", "export")
    if isinstance(model, Own):
        module = _theirs(model, row, "torch", torch.nn.Module, "with_torch")
    else:
        from fedthings.learn import to_torch

        module = to_torch.module(model, row).eval()
    example = torch.zeros(2, *model.input)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("samples")},))
    torch.export.save(program, path)


def _read_torch(path: Path) -> Callable[[Array], Array]:
    torch = framework("torch", "export")
    module = torch.export.load(path).module()
    return lambda X: np.asarray(module(torch.from_numpy(X)).detach().numpy())


def _write_keras(model: Model, row: Array, path: Path) -> None:
    from fedthings.learn import to_keras
    from fedthings.learn.with_keras import chosen

    keras = chosen("export")
    if isinstance(model, Own):
        _theirs(model, row, "keras", keras.Model, "with_keras").save(path)
    else:
        to_keras.whole(model, row).save(path)


def _read_keras(path: Path) -> Callable[[Array], Array]:
    from fedthings.learn.with_keras import chosen

    keras = chosen("export")
    model = keras.saving.load_model(path, compile=False)

    def predict(X: Array) -> Array:
        found = model(X, training=False)
        return np.asarray(found.detach().cpu().numpy() if hasattr(found, "detach") else found)

    return predict


def _write_onnx(model: Model, row: Array, path: Path) -> None:
    from fedthings.learn import to_onnx

    if isinstance(model, Own):
        raise SpecError(
            f"{model.factory} is Python code, which is not exported to ONNX: export a PyTorch module to torch, and use "
            "torch.onnx"
        )
    path.write_bytes(to_onnx.proto(model, row).SerializeToString())


def _read_onnx(path: Path) -> Callable[[Array], Array]:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))
    return lambda X: np.asarray(evaluator.run(None, {"input": X})[0])


FORMATS = {
    "onnx": Format(".onnx", _write_onnx, _read_onnx),
    "torch": Format(".pt2", _write_torch, _read_torch),
    "keras": Format(".keras", _write_keras, _read_keras),
}
