"""A PyTorch module seen as a row: what of it travels, as views of one tensor; and PyTorch kept to one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from fedthings.errors import SpecError
from fedthings.vector import Layout

if TYPE_CHECKING:
    from fedthings.learn.task import Recipe

Tensor = Any


class Net(NamedTuple):
    """A module whose parameters and buffers are views of `row` `(dim,)`, its gradients views of `slope`.

    The first `learned` numbers are parameters, the others buffers.
    """

    module: Any
    layout: Layout
    row: Tensor
    slope: Tensor
    learned: int
    optimizer: Callable[[Any, Recipe], Any] | None
    stays: Mapping[str, Tensor]
    """What does not travel and may change in training, such as a count of batches: as it is before."""
    lone: bool
    """Whether a batch of one sample can be trained on; a BatchNorm finds no variance in it."""
    alike: bool
    """Whether many can train at once: it has no buffers, no recurrent layers, and no dropout, drawn by each alone."""


def state(module: Any) -> list[tuple[str, Any]]:
    """Return what travels: the trained parameters, then the buffers of real numbers, each once."""
    saved = module.state_dict()
    buffers = [(name, b) for name, b in module.named_buffers() if name in saved and b.is_floating_point()]
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad] + buffers


def travelling(module: Any) -> tuple[Layout, int]:
    """Return where each array lies in a row, and how many numbers are parameters. Raises SpecError."""
    import torch

    found = state(module)
    for name, tensor in found:
        if tensor.dtype != torch.float32:
            raise SpecError(f"with_torch: {name} is {tensor.dtype}: make the module float32, with .float()")
    layout = Layout((name, tuple(tensor.shape)) for name, tensor in found)
    learned = sum(tensor.numel() for _, tensor in found if isinstance(tensor, torch.nn.Parameter))
    if not learned:
        raise SpecError("with_torch: the module has nothing to train: leave requires_grad of some parameters True")
    return layout, learned


def attached(module: Any, place: str, layout: Layout, learned: int, optimizer: Any) -> Net:
    """Return `module` on `place` with its parameters, buffers and gradients as views of two rows."""
    import torch
    from torch.nn.modules import batchnorm, dropout

    module.to(place)
    row, slope = torch.zeros(layout.dim, device=place), torch.zeros(layout.dim, device=place)
    travels = dict(state(module))
    for part in layout.parts:
        view, tensor = row[part.start : part.stop].view(part.shape), travels[part.name]
        if isinstance(tensor, torch.nn.Parameter):
            tensor.data, tensor.grad = view, slope[part.start : part.stop].view(part.shape)
        else:
            owner, _, name = part.name.rpartition(".")
            module.get_submodule(owner)._buffers[name] = view
    stays = {name: buffer.clone() for name, buffer in module.named_buffers() if name not in travels}
    normalised = any(isinstance(part, batchnorm._BatchNorm) for part in module.modules())
    unlike = any(isinstance(part, dropout._DropoutNd | torch.nn.RNNBase) for part in module.modules())
    alike = learned == layout.dim and not stays and not unlike and optimizer is None
    return Net(module, layout, row, slope, learned, optimizer, stays, not normalised, alike)


@contextmanager
def alone(seed: int, place: str = "cpu") -> Iterator[None]:
    """Compute on one thread, with PyTorch's generator at `seed`; both are as before afterwards."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[torch.device(place)] if place != "cpu" else []):
            torch.manual_seed(seed & (2**63 - 1))
            yield
    finally:
        torch.set_num_threads(threads)
