"""Local steps in PyTorch on flat rows: a device at a time, or on a GPU many at once.

The parameters of the module are views of one row, so that a step is a few operations whatever the layers are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedthings.learn.data import Shard, sizes
from fedthings.learn.descent import runs, schedule
from fedthings.learn.metrics import add, fixed
from fedthings.learn.shuffle import orders
from fedthings.learn.task import MOMENTS, Recipe
from fedthings.learn.torch_net import Net, Tensor, alone
from fedthings.vector import Array, Key

Loss = Callable[[Tensor, Tensor], Tensor]
"""`(outputs (n, ...), targets) -> costs (n,)`."""
TOGETHER = 64
"""Devices that train at once on a GPU."""


class Asked(NamedTuple):
    """What a task asks: the recipe, the pull, which targets the loss reads, the loss."""

    recipe: Recipe
    mu: float
    kind: str
    loss: Loss


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


def tensors(shard: Shard, loss: str, place: str) -> tuple[Tensor, Tensor]:
    """Return samples and targets of `shard` as `loss` takes them."""
    import torch

    X = torch.tensor(np.asarray(shard.X, np.float32), device=place)
    if loss == "reconstruction":
        return X, X
    kind = np.int64 if loss == "cross_entropy" else np.float32
    y = torch.tensor(np.asarray(shard.y, kind), device=place)
    return X, y.reshape(-1) if loss == "cross_entropy" else y


def one(net: Net, ask: Asked, start: Array, received: Array, shard: Shard, key: Key, effort: float) -> Array:
    """Train one device from `start` `(dim,)`, which is left at the last step; return what was seen `(2,)`."""
    import torch

    recipe, mu, place = ask.recipe, ask.mu, str(net.row.device)
    seen = np.zeros(2, np.int64)
    (batch,), (steps,), (done,) = (some.tolist() for some in schedule(recipe, sizes([shard]), [effort]))
    with alone(key.word("torch"), place):
        X, y = tensors(shard, ask.kind, place)
        with torch.no_grad():
            net.row.copy_(torch.from_numpy(start))
            for name, buffer in net.module.named_buffers():
                if name in net.stays:
                    buffer.copy_(net.stays[name])
        net.module.train()
        theta, slope = net.row[: net.learned], net.slope[: net.learned]
        near = torch.tensor(received, device=place)[: net.learned] if mu else None
        theirs = net.optimizer(net.module.parameters(), recipe) if net.optimizer else None
        step, moments = stepper(recipe, theta[None])
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
                cost = ask.loss(net.module(x), y[part])
                cost.mean().backward()
                costs.append(cost.detach())
                with torch.no_grad():
                    if near is not None:
                        slope += mu * (theta - near)
                    if theirs is not None:
                        theirs.step()
                    else:
                        step(theta[None], slope[None], moments, epoch * steps + at + 1)
            if costs:
                add(seen, fixed(torch.cat(costs).cpu().numpy()[None])[0])
        start[...] = net.row.cpu().numpy()
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

    For modules that are `alike`; the same as `one` to float tolerance.
    """
    import torch
    from torch.func import functional_call, grad_and_value, vmap

    recipe, mu, place = ask.recipe, ask.mu, str(net.row.device)
    counts = sizes(shards)
    order = np.lexsort((-np.asarray(efforts), -counts))
    counts = counts[order]
    batch, steps, done = schedule(recipe, counts, np.asarray(efforts)[order].tolist())
    seen = np.zeros((len(shards), 2), np.int64)
    parts = net.layout.parts

    def cost(row: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        named: Mapping[str, Tensor] = {part.name: row[part.start : part.stop].view(part.shape) for part in parts}
        costs = ask.loss(functional_call(net.module, named, (x,)), y)
        return costs.mean(), costs

    slopes = vmap(grad_and_value(cost, has_aux=True))
    with alone(0, place):
        net.module.train()
        data = [tensors(shards[i], ask.kind, place) for i in order.tolist()]
        theta = torch.tensor(start[order], device=place)
        near = torch.tensor(received if received.ndim == 1 else received[order], device=place) if mu else None
        step, moments = stepper(recipe, theta)
        words = np.array([keys[i].word("shuffle") for i in order.tolist()], np.uint64)
        for epoch in range(recipe.epochs):
            mixed: list[Any] = [None] * len(data)
            for lo, hi, n in runs(np.where(epoch * steps < done, counts, 0)):
                mixed[lo:hi] = torch.from_numpy(orders(words[lo:hi], epoch, n)).to(place)
            for at in range(int(steps.max())):
                size = np.clip(counts - at * batch, 0, batch)
                size[epoch * steps + at >= done] = 0
                for lo, hi, b in runs(size):
                    first = at * int(batch[lo])
                    some = [mixed[i][first : first + b] for i in range(lo, hi)]
                    X, y = (torch.stack([data[i][k][some[i - lo]] for i in range(lo, hi)]) for k in (0, 1))
                    g, (_, costs) = slopes(theta[lo:hi], X, y)
                    if near is not None:
                        g += mu * (theta[lo:hi] - (near if near.ndim == 1 else near[lo:hi]))
                    count = epoch * int(steps[lo]) + at + 1
                    step(theta[lo:hi], g, tuple(moment[lo:hi] for moment in moments), count)
                    seen[order[lo:hi]] += fixed(costs.detach().cpu().numpy())
        start[order] = theta.cpu().numpy()
    return seen


Stepper = Callable[[Tensor, Tensor, Sequence[Tensor], int], None]


def stepper(recipe: Recipe, like: Tensor) -> tuple[Stepper, tuple[Tensor, ...]]:
    """Return the optimiser of `recipe` as `learn.optimisers` has it, on tensors `(K, dim)`, and its moments."""
    import torch

    def step(theta: Tensor, g: Tensor, moments: Sequence[Tensor], count: int) -> None:
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
            root = (v.sqrt() / (1 - recipe.beta2**count) ** 0.5).add_(recipe.eps)
            theta.addcdiv_(m, root, value=-recipe.lr / (1 - recipe.beta1**count))

    return step, tuple(torch.zeros_like(like) for _ in range(MOMENTS[recipe.optimizer]))
