"""Local steps in PyTorch on flat rows: a device at a time, or many at once by `torch.func`.

The parameters of the module are views of one row, so that a step is a few operations whatever the layers are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedthings.errors import SpecError
from fedthings.learn.data import Shard, sizes
from fedthings.learn.descent import group, runs, schedule
from fedthings.learn.metrics import add, fixed
from fedthings.learn.shuffle import orders
from fedthings.learn.task import MOMENTS, Recipe, Task
from fedthings.learn.torch_net import Net, Tensor, alone
from fedthings.vector import Array, Key

Loss = Callable[[Tensor, Tensor], Tensor]
"""`(outputs (n, ...), targets) -> costs (n,)`."""
TOGETHER = 64
"""Devices that train at once on a CPU, at the most."""
MANY = 1024
"""The same on a GPU, where a step of small models takes as long for one as for hundreds."""
ROOM = 1 << 27
"""Bytes that devices touch in a step on a GPU, samples and parameters; what lies between layers is a few times that."""


class Asked(NamedTuple):
    """What a task asks: the recipe, the pull, which targets the loss reads, the loss."""

    recipe: Recipe
    mu: float
    kind: str
    loss: Loss

    def costs(self, out: Tensor, y: Tensor) -> Tensor:
        """Return the cost of each sample `(n,)`. Raises SpecError where the loss gives something else."""
        costs = self.loss(out, y)
        if tuple(costs.shape) != (len(out),):
            raise SpecError(
                f"with_torch: `loss` returned the shape {tuple(costs.shape)} for {len(out)} samples: return one cost "
                'for each, as reduction="none" gives it'
            )
        return costs


def losses() -> dict[str, Loss]:
    """Return the losses of `learn.losses` in PyTorch, targets as `target` gives them."""
    from torch.nn import functional as F  # noqa: N812

    def per_sample(cost: Callable[..., Tensor]) -> Loss:
        return lambda out, y: cost(out.reshape(len(out), -1), y.reshape(len(out), -1), reduction="none").mean(-1)

    return {
        "cross_entropy": lambda out, y: F.cross_entropy(out, y, reduction="none"),
        "binary_cross_entropy": per_sample(F.binary_cross_entropy_with_logits),
        "mse": per_sample(F.mse_loss),
        "mae": per_sample(F.l1_loss),
        "huber": per_sample(F.huber_loss),
        "reconstruction": per_sample(F.mse_loss),
    }


def tensors(X: Array, y: Array, loss: str, place: str) -> tuple[Tensor, Tensor]:
    """Return samples and targets as `loss` takes them."""
    import torch

    samples = torch.tensor(np.asarray(X, np.float32), device=place)
    if loss == "reconstruction":
        return samples, samples
    if loss == "cross_entropy":
        return samples, torch.tensor(np.asarray(y, np.int64).reshape(-1), device=place)
    return samples, torch.tensor(np.asarray(y, np.float32), device=place)


def one(net: Net, ask: Asked, start: Array, received: Array, shard: Shard, key: Key, effort: float) -> Array:
    """Train one device from `start` `(dim,)`, which is left at the last step; return what was seen `(2,)`.

    Raises SpecError, or what the module raises.
    """
    import torch

    recipe, mu, place = ask.recipe, ask.mu, str(net.row.device)
    seen = np.zeros(2, np.int64)
    (batch,), (steps,), (done,) = (some.tolist() for some in schedule(recipe, sizes([shard]), [effort]))
    with alone(key.word("torch"), place):
        X, y = tensors(shard.X, shard.y, ask.kind, place)
        net.load(start)
        net.train()
        theta, slope = net.row[: net.learned], net.slope[: net.learned]
        near = torch.tensor(received, device=place)[: net.learned] if mu else None
        theirs = net.optimizer(net.module.parameters(), recipe) if net.optimizer else None
        step, moments = stepper(recipe, theta)
        word = np.array([key.word("shuffle")], np.uint64)
        for epoch in range(recipe.epochs):
            costs = []
            mixed = torch.from_numpy(orders(word, epoch, len(X))[0]).to(place) if steps > 1 else None
            for at in range(min(steps, done - epoch * steps)):
                part = slice(at * batch, (at + 1) * batch) if mixed is None else mixed[at * batch : (at + 1) * batch]
                x = X[part]
                if len(x) == 1 and not net.lone:
                    continue
                slope.zero_()
                cost = ask.costs(net.module(x), y[part])
                cost.mean().backward()
                costs.append(cost.detach())
                with torch.no_grad():
                    if near is not None:
                        slope += mu * (theta - near)
                    if theirs is not None:
                        theirs.step()
                    else:
                        step(theta, slope, moments, epoch * steps + at + 1)
            if costs:
                add(seen, fixed(torch.cat(costs).cpu().numpy()[None])[0])
        start[...] = net.saved()
    return seen


def together(
    net: Net,
    ask: Asked,
    start: Array,
    received: Array,
    shards: Sequence[Shard],
    keys: Sequence[Key],
    efforts: Sequence[float],
) -> Array:
    """Train n devices at once from `start` `(n, dim)` by `torch.func.vmap`; return what was seen `(n, 2)`.

    For modules that are not `apart`; the same as `one` to float tolerance.
    """
    import torch

    recipe, mu, place = ask.recipe, ask.mu, str(net.row.device)
    counts = sizes(shards)
    order = np.lexsort((-np.asarray(efforts), -counts))
    counts = counts[order]
    some = [shards[i] for i in order.tolist()]
    batch, steps, done = schedule(recipe, counts, np.asarray(efforts)[order].tolist())
    offsets = np.cumsum(counts) - counts
    words = np.array([keys[i].word("shuffle") for i in order.tolist()], np.uint64)
    seen = np.zeros((len(shards), 2), np.int64)
    slopes = _slopes(net, ask)
    with alone(0, place):
        net.train()
        mine, answers = (np.concatenate([shard[part] for shard in some]) for part in (0, 1))
        X, y = tensors(mine, answers, ask.kind, place)
        theirs = torch.from_numpy(start)
        # Put in order there: on a GPU large models train in less time than this CPU takes to copy them.
        theta = theirs.to(place)[torch.from_numpy(order).to(place)]
        near = torch.tensor(received if received.ndim == 1 else received[order], device=place)
        step, moments = stepper(recipe, theta)
        count = np.zeros((len(some), 1), np.int64)
        for epoch in range(recipe.epochs):
            mixed = np.zeros((len(some), int(counts.max())), np.int64)  # where each device's samples lie in X
            for lo, hi, n in runs(np.where(epoch * steps < done, counts, 0)):
                mixed[lo:hi, :n] = offsets[lo:hi, None] + orders(words[lo:hi], epoch, n)
            index = torch.from_numpy(mixed).to(place)
            costs = torch.zeros(index.shape, device=place)
            for at in range(int(steps.max())):
                size = np.clip(counts - at * batch, 0, batch)
                size[epoch * steps + at >= done] = 0
                for lo, hi, b in runs(size):
                    rows, part = slice(lo, hi), slice(at * int(batch[lo]), at * int(batch[lo]) + b)
                    chosen = index[rows, part]
                    g, (_, costs[rows, part]) = slopes(theta[rows], X[chosen], y[chosen])
                    if mu:
                        g += mu * (theta[rows] - (near if near.ndim == 1 else near[rows]))
                    count[rows] += 1
                    step(theta[rows], g, tuple(moment[rows] for moment in moments), count[rows])
                    seen[rows, 0] += b
            add(seen[:, 1], fixed(costs.cpu().numpy())[:, 1])
        back = np.argsort(order)
        theirs.copy_(theta[torch.from_numpy(back).to(place)])
    return seen[back]


def most(net: Net, task: Task) -> int:
    """Return how many devices train at once: on a CPU no more than its cache holds, beyond which it does not pay."""
    return min(MANY, group(task, ROOM)) if net.row.is_cuda else min(TOGETHER, group(task))


def apart(net: Net, ask: Asked, shard: Shard) -> str:
    """Return why devices cannot train `net` at once, "" where they can: found out on the first sample of `shard`."""
    import torch

    if net.optimizer is not None:
        return "it has an `optimizer` of its own"
    if net.travels or net.stays:
        return f"it has the buffer {(*net.travels, *net.stays)[0].name}"
    if any(isinstance(part, torch.nn.RNNBase) for part in net.module.modules()):
        return "it has recurrent layers"
    place = str(net.row.device)
    with alone(0, place):
        net.train()
        X, y = tensors(shard.X[:1], shard.y[:1], ask.kind, place)
        try:
            _slopes(net, ask)(net.row[None], X[None], y[None])
        except SpecError:
            raise
        except Exception as error:  # of many kinds: what is drawn at random, what depends on values
            return f"torch.func.vmap cannot take it ({str(error).strip().splitlines()[0]:.120})"
    return ""


def _slopes(net: Net, ask: Asked) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, tuple[Tensor, Tensor]]]:
    """Return `(theta (K, dim), X (K, B, ...), y (K, B, ...)) -> gradients (K, dim), (means (K,), costs (K, B))`."""
    from torch.func import functional_call, grad_and_value, vmap

    parts = net.layout.parts

    def cost(row: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        named: Mapping[str, Tensor] = {part.name: row[part.start : part.stop].view(part.shape) for part in parts}
        costs = ask.costs(functional_call(net.module, named, (x,)), y)
        return costs.mean(), costs.detach()

    slopes: Any = vmap(grad_and_value(cost, has_aux=True))
    return slopes  # type: ignore[no-any-return]


Stepper = Callable[[Tensor, Tensor, Sequence[Tensor], Any], None]


def stepper(recipe: Recipe, like: Tensor) -> tuple[Stepper, tuple[Tensor, ...]]:
    """Return the optimiser of `recipe` as `learn.optimisers` has it, on tensors `(..., dim)`, and its moments.

    The step's number, from 1, is one or `(..., 1)`. The gradient is used up.
    """
    import torch

    def number(value: Any) -> Any:
        return value if isinstance(value, float) else torch.tensor(value, dtype=like.dtype, device=like.device)

    def step(theta: Tensor, g: Tensor, moments: Sequence[Tensor], count: Any) -> None:
        if recipe.weight_decay:
            g += recipe.weight_decay * theta
        if recipe.optimizer == "sgd":
            theta.sub_(g, alpha=recipe.lr)
        elif recipe.optimizer == "momentum":
            moments[0].mul_(recipe.momentum).add_(g)
            theta.sub_(moments[0], alpha=recipe.lr)
        else:
            m, v = moments
            m.lerp_(g, 1 - recipe.beta1)
            v.mul_(recipe.beta2).addcmul_(g, g, value=1 - recipe.beta2)
            rate, root = recipe.lr / (1 - recipe.beta1**count), (1 - recipe.beta2**count) ** 0.5
            theta.sub_((m / (v.sqrt().div_(number(root)).add_(recipe.eps))).mul_(number(rate)))

    return step, tuple(torch.zeros_like(like) for _ in range(MOMENTS[recipe.optimizer]))
