"""The portable model as a PyTorch module, and back; torch is imported only where it is used."""

from __future__ import annotations

from math import pi
from typing import Any

import numpy as np

from fedthings.errors import SpecError
from fedthings.learn import layers as kinds
from fedthings.learn import transforms
from fedthings.learn.element import Shape, snake
from fedthings.learn.layers import Layer
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
                tensor_of(found, name).copy_(torch.from_numpy(turned(name, np.asarray(array)).copy()))
    return found


def row(module: Any) -> Vector:
    """Return the row `(dim,)` of a module that `module` made, after training it in PyTorch."""
    parts = module.fedthings.layout.parts
    found = [back(part.name, tensor_of(module, part.name).detach().cpu().numpy()).reshape(-1) for part in parts]
    return np.concatenate(found)


def turned(name: str, array: Array) -> Array:
    """Turn a weight (*window, in, out) to PyTorch's (out, in, *window); a bias stays, and so do looked-up vectors."""
    return array if array.ndim == 1 or name.endswith(".vectors") else np.moveaxis(array, (-1, -2), (0, 1))


def back(name: str, array: Array) -> Array:
    """Undo `turned`."""
    return array if array.ndim == 1 or name.endswith(".vectors") else np.moveaxis(array, (0, 1), (-1, -2))


NAMES = {
    "embedding.vectors": "weight",
    "gru.weight": "weight_ih_l0",
    "gru.recurrent": "weight_hh_l0",
    "gru.bias": "bias_ih_l0",
    "gru.recurrent_bias": "bias_hh_l0",
    "batch_norm.mean": "running_mean",
    "batch_norm.variance": "running_var",
}
"""Where PyTorch calls an array of a layer something else."""


def tensor_of(module: Any, name: str) -> Any:
    """Return the tensor "3.conv2d.weight": that of the only trained part of layer 3."""
    index, _, field = name.partition(".")
    wanted = NAMES.get(field, field.split(".")[1])
    held = [*module[int(index)].named_parameters(), *module[int(index)].named_buffers()]
    return next(value for key, value in held if key.split(".")[-1] == wanted)


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

    class Norm(nn.Module):  # type: ignore[misc]
        """Normalise a batch, channels in the middle; of one number a channel there is no variance, so as in use."""

        def __init__(self, channels: int, eps: float, rate: float) -> None:
            super().__init__()
            self.norm = (nn.BatchNorm1d if len(given) < 3 else nn.BatchNorm2d)(channels, eps, rate)

        def forward(self, x: Any) -> Any:
            several = x.numel() > x.shape[1]
            if several or not self.training:
                return self.norm(x)
            return nn.functional.batch_norm(
                x, self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias, eps=self.norm.eps
            )

    class Column(nn.Module):  # type: ignore[misc]
        """Put what `made` makes of a column behind the others; without a column, of all."""

        def __init__(self, column: int | None, made: Any) -> None:
            super().__init__()
            self.column, self.made = column, made

        def forward(self, x: Any) -> Any:
            if self.column is None:
                return self.made(x)
            rest = torch.cat([x[..., : self.column], x[..., self.column + 1 :]], -1)
            return torch.cat([rest, self.made(x[..., self.column]).to(x.dtype)], -1)

    class Looked(nn.Module):  # type: ignore[misc]
        """Look up the vectors of numbers; a gap has that of 0, what is beyond the rows the nearest."""

        def __init__(self, rows: int, width: int) -> None:
            super().__init__()
            self.table = nn.Embedding(rows, width)

        def forward(self, x: Any) -> Any:
            return self.table(x.nan_to_num().clamp(0, self.table.num_embeddings - 1).long())

    class Recurrent(nn.Module):  # type: ignore[misc]
        """Run over the steps; give the states after each, or the last."""

        def __init__(self, channels: int, units: int, sequence: bool) -> None:
            super().__init__()
            self.cells, self.sequence = nn.GRU(channels, units, batch_first=True), sequence

        def forward(self, x: Any) -> Any:
            states, _ = self.cells(x)
            return states if self.sequence else states[:, -1]

    class Made(nn.Module):  # type: ignore[misc]
        """A function without parameters."""

        def __init__(self, function: Any) -> None:
            super().__init__()
            self.function = function

        def forward(self, x: Any) -> Any:
            return self.function(x)

    def log1p(x: Any, columns: Any) -> Any:
        x = x.clone()
        x[..., columns] = x[..., columns].abs().log1p().copysign(x[..., columns])
        return x

    def decomposed(x: Any, around: Any, kernel: int) -> Any:
        def averaged(x: Any) -> Any:
            return nn.functional.avg_pool1d(x[:, around].movedim(-1, 1), kernel, 1).movedim(1, -1)

        gaps = x.isnan()
        trend = averaged(x.masked_fill(gaps, 0)) / averaged((~gaps).to(x.dtype))
        return torch.cat([x - trend, trend], -1)

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
            conv = kind(given[-1], layer.filters, layer.kernel, layer.stride, dilation=layer.apart)
            return [first, around, conv, last, *activations[layer.activation]()]
        case kinds.MaxPool():
            return [first, (nn.MaxPool1d if flat else nn.MaxPool2d)(layer.size, layer.step), last]
        case kinds.AvgPool():
            return [first, (nn.AvgPool1d if flat else nn.AvgPool2d)(layer.size, layer.step), last]
        case kinds.Flatten():
            return [nn.Flatten()]
        case kinds.GroupNorm():
            plain = Made(lambda x: x.contiguous())  # PyTorch 2.13 dies of a segmentation fault on channels last
            return [first, plain, nn.GroupNorm(layer.groups, given[-1], layer.eps), last]
        case kinds.BatchNorm():
            return [first, Norm(given[-1], layer.eps, layer.rate), last]
        case kinds.Embedding():
            return [Column(layer.column, Looked(layer.rows, layer.width))]
        case kinds.Gru():
            return [Recurrent(given[-1], layer.units, layer.sequence)]
        case transforms.Log1p():
            columns = list(layer.columns) or slice(None)
            return [Made(lambda x: log1p(x, columns))]
        case transforms.Cyclic():
            turn = 2 * pi / layer.period
            clock = Made(lambda x: torch.stack([(x * turn).sin(), (x * turn).cos()], -1))
            return [Column(layer.column, clock)]
        case transforms.OneHot():
            count = layer.classes
            return [Column(layer.column, Made(lambda x: x[..., None] == torch.arange(count, device=x.device)))]
        case transforms.Decompose():
            around, kernel = layer.around(given[0]), layer.kernel
            return [Made(lambda x: decomposed(x, around, kernel))]
        case transforms.Rescale():
            mean, deviation = (torch.from_numpy(row.copy()).reshape(given) for row in layer.arrays())
            return [Made(lambda x: x * deviation.to(x) + mean.to(x))]
        case kinds.LayerNorm():
            return [nn.LayerNorm(given[-1], layer.eps)]
        case kinds.Dropout():
            return [nn.Dropout(layer.rate)]
        case transforms.Standardise():
            return [Scale(*(array.copy() for array in layer.arrays(given)))]
        case transforms.Impute():
            fill = np.full(given, layer.value, np.float32)
            return [Scale(np.float32(0), np.float32(1), fill)]
        case _:
            name = snake(type(layer).__name__)
            if name not in activations:
                raise SpecError(f"a layer of the model ({name}) has no form in PyTorch yet: export to safetensors")
            built: list[Any] = activations[name]()
            return built
