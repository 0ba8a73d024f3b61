"""A PyTorch module seen as a row: what of it travels, as views of one tensor; and PyTorch kept to one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedthings.errors import SpecError
from fedthings.learn.element import Shape
from fedthings.vector import Array, Layout

if TYPE_CHECKING:
    from fedthings.learn.task import Recipe

Tensor = Any


class Buffer(NamedTuple):
    """A buffer's place in a module, and its tensor: a view of the row, or what it is before each training."""

    owner: Any
    name: str
    tensor: Tensor


class Net(NamedTuple):
    """A module whose parameters and float buffers are views of `row` `(dim,)`, its gradients views of `slope`.

    The first `learned` numbers are parameters, the others buffers. `stays` are the buffers that do not travel, such as
    a count of batches. `still` are the parts that are frozen. `lone`: whether a batch of one sample can be trained on;
    a BatchNorm finds no variance in it.
    """

    module: Any
    layout: Layout
    row: Tensor
    slope: Tensor
    learned: int
    travels: tuple[Buffer, ...]
    stays: tuple[Buffer, ...]
    still: tuple[Any, ...]
    lone: bool
    optimizer: Callable[[Any, Recipe], Any] | None

    def load(self, row: Array) -> None:
        """Become the model `row` `(dim,)`."""
        import torch

        with torch.no_grad():
            self.row.copy_(torch.tensor(row))
        for owner, name, view in self.travels:  # code that assigns a buffer anew has put another tensor there
            owner._buffers[name] = view
        for owner, name, first in self.stays:
            owner._buffers[name] = first.clone()

    def train(self) -> None:
        """Be in training mode, but for what is frozen: its statistics are not to move either."""
        self.module.train()
        for part in self.still:
            part.eval()

    def saved(self) -> Array:
        """Return the row `(dim,)` that the module is now; it may share memory with it."""
        for owner, name, view in self.travels:
            if owner._buffers[name] is not view:
                view.copy_(owner._buffers[name].detach())
        return np.asarray(self.row.cpu().numpy())


def state(module: Any) -> list[tuple[str, Any]]:
    """Return what travels: the trained parameters, then the buffers of real numbers, each once; nothing frozen."""
    saved, still = module.state_dict(), {id(b) for part in frozen(module) for b in part.buffers(recurse=False)}
    buffers = [(name, b) for name, b in module.named_buffers() if name in saved and b.is_floating_point()]
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    return trained + [(name, b) for name, b in buffers if id(b) not in still]


def frozen(module: Any) -> list[Any]:
    """Return the parts whose own parameters are all frozen, such as a BatchNorm of a base that stays."""
    own = ((part, list(part.parameters(recurse=False))) for part in module.modules())
    return [part for part, some in own if some and not any(p.requires_grad for p in some)]


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
    """Return `module` on `place` with its parameters, buffers and gradients as views of two rows. Raises SpecError."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    if place == "cuda" and not torch.cuda.is_available():
        raise SpecError('with_torch: device is "cuda", and there is none: install its driver, or use "auto"')
    module.to(place)
    row, slope = torch.zeros(layout.dim, device=place), torch.zeros(layout.dim, device=place)
    parameters = dict(module.named_parameters())
    views = {part.name: row[part.start : part.stop].view(part.shape) for part in layout.parts}
    for part in layout.parts:
        if part.name in parameters:
            parameters[part.name].data = views[part.name]
            parameters[part.name].grad = slope[part.start : part.stop].view(part.shape)
    travels, stays = [], []
    for path, tensor in module.named_buffers():
        owner, _, name = path.rpartition(".")
        where = module.get_submodule(owner)
        if path in views:
            travels.append(Buffer(where, name, views[path]))
        else:
            stays.append(Buffer(where, name, tensor.clone()))
    still = tuple(frozen(module))
    normalised = any(isinstance(part, _BatchNorm) and part not in still for part in module.modules())
    return Net(module, layout, row, slope, learned, tuple(travels), tuple(stays), still, not normalised, optimizer)


def given(module: Any, takes: Shape) -> Shape:
    """Return the shape of what `module` gives for one sample of shape `takes`. Raises SpecError."""
    import torch

    with torch.no_grad():
        out = module.eval()(torch.zeros(1, *takes))
    if not isinstance(out, torch.Tensor):
        raise SpecError(f"with_torch: the module gives {type(out).__name__}: let `forward` return one tensor")
    if out.ndim < 2 or len(out) != 1:
        raise SpecError(
            f"with_torch: the module gives the shape {tuple(out.shape)} for 1 sample: let `forward` return "
            "(samples, outputs), also for one output"
        )
    return tuple(out.shape[1:])


@contextmanager
def alone(seed: int, place: str = "cpu") -> Iterator[None]:
    """Compute on one thread, with PyTorch's generators at `seed`; all are as before afterwards."""
    import torch

    threads, gpu = torch.get_num_threads(), place != "cpu"
    torch.set_num_threads(1)
    try:
        forked = torch.random.fork_rng(devices=[torch.device(place)] if gpu else [])
        with forked, _unrounded() if gpu else nullcontext():
            torch.default_generator.manual_seed(seed & (2**63 - 1))  # torch.manual_seed would seed every GPU's too
            if gpu:
                torch.cuda.manual_seed(seed & (2**63 - 1))
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _unrounded() -> Iterator[None]:
    """Convolve in float32 on a GPU: PyTorch would round what goes in to the 10 bits of TF32, and updates be 1 % off."""
    import torch

    cudnn = torch.backends.cudnn
    try:
        before = cudnn.allow_tf32
    except RuntimeError:  # said for convolutions and recurrent layers apart: then it is the user's choice
        before = None
    if before:
        cudnn.allow_tf32 = False
    try:
        yield
    finally:
        if before:
            cudnn.allow_tf32 = True
