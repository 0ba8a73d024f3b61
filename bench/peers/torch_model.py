"""The model of a workload in PyTorch, channels first as PyTorch has it, and one local epoch."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from workloads import Array, Parameters, Workload


def threads() -> None:
    """Use one thread a process: with more, PyTorch waits for itself on a machine that does anything else."""
    torch.set_num_threads(1)


class Net(nn.Module):
    """The layers of `workload`, with the parameters that every system begins with."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        axes, size = len(workload.input) - 1, workload.input
        window, pool = (nn.Conv1d, nn.MaxPool1d) if axes == 1 else (nn.Conv2d, nn.MaxPool2d)
        parts: list[nn.Module] = []
        for filters in workload.filters:
            parts += [window(size[-1], filters, 5, padding=2), nn.ReLU(), pool(2)]
            size = (*(n // 2 for n in size[:-1]), filters)
        parts.append(nn.Flatten())
        inputs = prod(size)
        for units in workload.units:
            parts += [nn.Linear(inputs, units), nn.ReLU()]
            inputs = units
        self.layers = nn.Sequential(*parts[:-1])
        self.flat = size if axes else ()
        self.first = 2 * len(workload.filters)
        with torch.no_grad():
            for i, (own, array) in enumerate(zip(self.parameters(), workload.parameters(), strict=True)):
                own.copy_(torch.from_numpy(self._turned(array, i)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs `(n, units)`."""
        return self.layers(x)

    def arrays(self) -> Parameters:
        """Return the parameters as every system gives them."""
        return [self._back(own.detach().numpy(), i) for i, own in enumerate(self.parameters())]

    def _turned(self, array: Array, i: int) -> Array:
        """Turn a weight `(*window, inputs, units)` to `(units, inputs, *window)`; a bias stays."""
        if i == self.first and self.flat:
            array = np.moveaxis(array.reshape(*self.flat, -1), -2, 0).reshape(array.shape)
        return array.copy() if array.ndim == 1 else np.ascontiguousarray(np.moveaxis(array, (-1, -2), (0, 1)))

    def _back(self, array: Array, i: int) -> Array:
        array = array if array.ndim == 1 else np.moveaxis(array, (0, 1), (-1, -2))
        if i == self.first and self.flat:
            *places, filters = self.flat
            array = np.moveaxis(array.reshape(filters, *places, -1), 0, -2).reshape(array.shape)
        return array.copy()


def tensors(X: Array, y: Array, axes: int) -> tuple[Tensor, Tensor]:
    """Return samples `(..., *places, channels)`, `axes` places, with the channels first, and the labels."""
    first = np.moveaxis(X, -1, -1 - axes) if axes else X
    return torch.from_numpy(np.array(first, order="C")), torch.from_numpy(np.array(y))


def criterion(workload: Workload) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the mean loss of outputs and labels."""
    if workload.units[-1] > 1:
        return nn.functional.cross_entropy
    binary: Any = nn.functional.binary_cross_entropy_with_logits
    return lambda outputs, y: binary(outputs.squeeze(-1), y.to(outputs.dtype))


def epoch(net: Net, workload: Workload, X: Tensor, y: Tensor) -> None:
    """Train one epoch of SGD in shuffled batches."""
    loss, optimiser = criterion(workload), torch.optim.SGD(net.parameters(), lr=workload.lr)
    for rows in torch.randperm(len(y)).split(workload.batch):
        optimiser.zero_grad()
        loss(net(X[rows]), y[rows]).backward()
        optimiser.step()
