"""The portable model as a PyTorch module and back; torch is imported only where it is used."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedthings.learn import layers as kinds
from fedthings.learn.layers import Layer, Shape
from fedthings.learn.model import Sequential
from fedthings.vector import Array, Vector


def module(model: Sequential, row: Vector | None = None) -> Any:
    """Return a `torch.nn.Sequential`, channels last, as ours; with `row` `(dim,)` where it is given."""
    import torch

    parts = [_build(layer, given) for layer, given in zip(model.layers, model.shapes, strict=False)]
    found = torch.nn.Sequential(*(torch.nn.Sequential(*some) for some in parts))
    found.fedthings = model
    if row is not None:
        with torch.no_grad():
            for name, array in model.layout.views(row).items():
                parameter = _parameter(found, name)
                parameter.copy_(torch.from_numpy(_turned(np.asarray(array)).copy()))
    return found


def row(module: Any) -> Vector:
    """Return the row `(dim,)` of a module that `module` made, after training it in PyTorch."""
    found = [
        _back(_parameter(module, part.name).detach().cpu().numpy()).reshape(-1)
        for part in module.fedthings.layout.parts
    ]
    return np.concatenate(found)


def _turned(array: Array) -> Array:
    """Turn a weight (*window, in, out) to PyTorch's (out, in, *window); a bias stays."""
    return array if array.ndim == 1 else np.moveaxis(array, (-1, -2), (0, 1))


def _back(array: Array) -> Array:
    return array if array.ndim == 1 else np.moveaxis(array, (0, 1), (-1, -2))


def _parameter(module: Any, name: str) -> Any:
    """Return the parameter "3.conv2d.weight": that of the only trained part of layer 3."""
    index, _, field = name.split(".")
    return next(value for key, value in module[int(index)].named_parameters() if key.endswith(field))


def _build(layer: Layer, given: Shape) -> list[Any]:
    """Return the modules of one layer."""
    import torch
    from torch import nn

    class Axis(nn.Module):  # type: ignore[misc]
        """Move the channels, which PyTorch has first."""

        def __init__(self, source: int, target: int) -> None:
            super().__init__()
            self.source, self.target = source, target

        def forward(self, x: Any) -> Any:
            return x.movedim(self.source, self.target)

    class Scale(nn.Module):  # type: ignore[misc]
        """Fill gaps, then scale."""

        def __init__(self, mean: Any, deviation: Any, fill: Any) -> None:
            super().__init__()
            for name, value in (("mean", mean), ("deviation", deviation), ("fill", fill)):
                self.register_buffer(name, torch.as_tensor(value))

        def forward(self, x: Any) -> Any:
            fill = self.fill.to(x.dtype).expand_as(x)
            return (torch.where(torch.isnan(x), fill, x) - self.mean) / self.deviation

    activations: dict[str, Any] = {
        "linear": list,
        "relu": lambda: [nn.ReLU()],
        "tanh": lambda: [nn.Tanh()],
        "sigmoid": lambda: [nn.Sigmoid()],
        "softmax": lambda: [nn.Softmax(-1)],
    }
    first, last = Axis(-1, 1), Axis(1, -1)
    flat = len(given) == 2
    match layer:
        case kinds.Dense():
            return [nn.Linear(given[0], layer.units), *activations[layer.activation]()]
        case kinds.Conv1d() | kinds.Conv2d():
            pads = [zeros for pair in reversed(layer.margins(given)) for zeros in pair]  # the last axis first
            kind = nn.Conv1d if flat else nn.Conv2d
            around = nn.ConstantPad1d(pads, 0.0) if flat else nn.ConstantPad2d(pads, 0.0)
            conv = kind(given[-1], layer.filters, layer.kernel, layer.stride)
            return [first, around, conv, last, *activations[layer.activation]()]
        case kinds.MaxPool():
            return [first, (nn.MaxPool1d if flat else nn.MaxPool2d)(layer.size, layer.step), last]
        case kinds.AvgPool():
            return [first, (nn.AvgPool1d if flat else nn.AvgPool2d)(layer.size, layer.step), last]
        case kinds.Flatten():
            return [nn.Flatten()]
        case kinds.LayerNorm():
            return [nn.LayerNorm(given[-1], layer.eps)]
        case kinds.Dropout():
            return [nn.Dropout(layer.rate)]
        case kinds.Standardise():
            return [Scale(*(array.copy() for array in layer.arrays(given)))]
        case kinds.Impute():
            fill = np.full(given, layer.value, np.float32)
            return [Scale(np.float32(0), np.float32(1), fill)]
        case _:
            built: list[Any] = activations[kinds.snake(type(layer).__name__)]()
            return built
