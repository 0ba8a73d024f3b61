"""PyTorch: a user's own module as a model. The portable model as a module is in `to_torch.py`.

torch is imported only where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal
from weakref import ref

import numpy as np

from fedthings.errors import SpecError, nearest
from fedthings.learn.element import Shape
from fedthings.learn.lift import ON_GPU, Lifted, Steps, framework, guarded, shape
from fedthings.vector import Array, Key, Vector

if TYPE_CHECKING:
    from fedthings.learn.data import Shard
    from fedthings.learn.task import Recipe, Task
    from fedthings.learn.torch_descent import Loss
    from fedthings.learn.torch_net import Net


def with_torch(
    build: Callable[[], Any],
    *,
    input: int | Shape,
    loss: Loss | None = None,
    optimizer: Callable[[Any, Recipe], Any] | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    at_once: bool | None = None,
) -> Lifted:
    """Return the model whose module `build()` makes, for samples of shape `input`, with outputs as the loss reads them.

    Its trained parameters and float buffers travel; what is frozen, statistics included, and counters stay as `build`
    makes them with the generator at 0. `loss(outputs, y)` gives each sample's cost `(n,)`, `optimizer(parameters,
    recipe)` a torch.optim optimiser; without them they are the task's. `device` "auto" is the GPU where there is one.
    `at_once` trains many devices by torch.func.vmap (None: on a GPU, where the module can). Raises SpecError.
    """
    torch = framework("torch", "with_torch")
    from torch.utils.flop_counter import FlopCounterMode

    from fedthings.learn import torch_descent, torch_net

    takes = shape(input)
    if device not in ("auto", "cpu", "cuda"):
        raise SpecError(f"with_torch: device is {device!r}: {nearest(device, ('auto', 'cpu', 'cuda'))}")
    if isinstance(build, torch.nn.Module):
        raise SpecError("with_torch: `build` is a module: give a function that makes one, such as lambda: Net()")
    last: ref[Any] | None = None  # the module made last, while there is one

    def made(seed: int) -> Any:
        nonlocal last
        with torch_net.alone(seed):
            found = build()
        if not isinstance(found, torch.nn.Module):
            raise SpecError(f"with_torch: `build` returned {type(found).__name__}: return a torch.nn.Module")
        if last is not None and found is last():
            raise SpecError("with_torch: `build` returned the same module again: make a new one in each call")
        last = ref(found)
        return found.cpu()

    first = made(0)
    layout, learned = torch_net.travelling(first)
    with torch_net.alone(0), FlopCounterMode(display=False) as counter:
        gives = torch_net.given(first, takes)

    @cache
    def net() -> Net:
        place = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        return torch_net.attached(made(0), place, layout, learned, optimizer)

    def wanted() -> bool:
        return net().row.is_cuda if at_once is None else at_once

    def begin(seed: int) -> Vector:
        found = dict(torch_net.state(made(seed)))
        return np.concatenate([found[part.name].detach().numpy().reshape(-1) for part in layout.parts])

    def steps(task: Task, mu: float) -> Steps:
        ask = torch_descent.Asked(task.recipe, mu, task.loss, loss or torch_descent.losses()[task.loss])
        reasons: list[str] = []  # why devices do not train at once: one, once it is known

        def group(shard: Shard) -> int:
            """Return how many devices train together."""
            if not wanted():
                return 1
            if not reasons:
                reasons.append(torch_descent.apart(net(), ask, shard))
            if reasons[0] and at_once:
                raise SpecError(f"with_torch: at_once is True, and the module cannot: {reasons[0]}; leave at_once out")
            return 1 if reasons[0] else torch_descent.most(net(), task)

        def run(
            received: Array,
            start: Array,
            shards: Sequence[Shard],
            keys: Sequence[Key],
            efforts: Sequence[float],
            change: Array,
        ) -> tuple[Array, Array]:
            n = len(shards)
            seen = np.zeros((n, 2), np.int64)
            with guarded(f"training on {keys[0].device}, version {keys[0].version},"):
                together = group(shards[0])
            for i in range(0, n, together):
                some = slice(i, i + together)
                near = received if received.ndim == 1 else received[some]
                with guarded(f"training on {keys[i].device}, version {keys[i].version},"):
                    if together > 1:
                        seen[some] = torch_descent.together(
                            net(), ask, start[some], near, shards[some], keys[some], efforts[some]
                        )
                    else:
                        near = near if near.ndim == 1 else near[0]
                        seen[i] = torch_descent.one(net(), ask, start[i], near, shards[i], keys[i], efforts[i])
            np.subtract(start, received, out=change)
            return np.full(n, -1), seen

        return run

    def predict(row: Array, X: Array) -> Array:
        ours = net()
        with torch_net.alone(0, str(ours.row.device)), torch.no_grad():
            ours.load(row)
            found = ours.module.eval()(torch.tensor(np.asarray(X, np.float32), device=ours.row.device))
            return np.asarray(found.cpu().numpy())

    def engine() -> str:
        where = torch.cuda.get_device_name() if net().row.is_cuda else torch.backends.cpu.get_cpu_capability()
        return f"torch {torch.__version__} {where}"

    def fitted(row: Array) -> Any:
        module, arrays = made(0).eval(), layout.views(row)
        with torch.no_grad():
            for name, tensor in torch_net.state(module):
                tensor.copy_(torch.tensor(arrays[name]))
        return module

    flops = int(counter.get_total_flops())
    return Lifted(
        input=takes,
        outputs=gives,
        layout=layout,
        begin=begin,
        steps=steps,
        predict=predict,
        flops=flops,
        engine=engine,
        fitted=fitted,
        unforked=lambda: ON_GPU if net().row.is_cuda else "",
        together=lambda task: torch_descent.most(net(), task) if net().row.is_cuda and wanted() else 1,
    )
