"""JAX: one's own functions `init` and `apply` as a model; jax is imported only where it is used."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from fedthings.errors import SpecError
from fedthings.learn.element import Shape
from fedthings.learn.lift import ON_JAX, Lifted, framework, guarded, shape
from fedthings.learn.slopes import Loss, Slope, Tensor, costing, stepping
from fedthings.vector import Array, Key, Layout, Vector

if TYPE_CHECKING:
    from fedthings.learn.task import Task


def with_jax(
    init: Callable[[Any], Any],
    apply: Callable[..., Any],
    *,
    input: int | Shape,
    loss: Loss | None = None,
    flops: int = 0,
) -> Lifted:
    """Return the model whose parameters `init(key)` makes and whose outputs `apply(params, X)` gives.

    `params` is any tree of float32 arrays, and all of it travels; what is frozen is a constant in `apply`. `apply` may
    take `key` by name: a key of jax.random in training, None otherwise. `loss(outputs, y)` gives each sample's cost
    `(n,)`; without it the loss is the task's. `flops` as in `lift`. Raises SpecError.
    """
    jax = framework("jax", "with_jax")
    from jax.flatten_util import ravel_pytree

    takes = shape(input)
    with guarded("with_jax: `init`"):
        first = init(jax.random.key(0))
    leaves = jax.tree_util.tree_flatten_with_path(first)[0]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") or "params" for path, _ in leaves]
    for name, (_, leaf) in zip(names, leaves, strict=True):
        if getattr(leaf, "dtype", type(leaf)) != np.float32:
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise SpecError(f"with_jax: `init` gives {name} as {kind}: what travels is averaged, so give it as float32")
    if not leaves:
        raise SpecError(f"with_jax: `init` gives {first!r:.60}: return a tree of arrays, such as a dictionary")
    layout = Layout((name, leaf.shape) for name, (_, leaf) in zip(names, leaves, strict=True))
    _, tree = ravel_pytree(first)
    drawn = "key" in signature(apply).parameters

    def outputs(row: Tensor, X: Tensor, key: Tensor = None) -> Tensor:
        return apply(tree(row), X, key=key) if drawn else apply(tree(row), X)

    with guarded("with_jax: `apply`"):
        given = jax.eval_shape(outputs, np.zeros(layout.dim, np.float32), np.zeros((1, *takes), np.float32))
    if len(getattr(given, "shape", ())) < 2 or given.shape[0] != 1:
        what = getattr(given, "shape", type(given).__name__)
        raise SpecError(f"with_jax: `apply` gives {what} for 1 sample: return one array (samples, outputs)")
    forward = jax.jit(outputs)

    def begin(seed: int) -> Vector:
        return np.asarray(ravel_pytree(init(jax.random.key(seed % 2**32)))[0])

    def slope(task: Task) -> Slope:
        judged = costing(jax.numpy, task.loss, loss, "with_jax")

        def mean(row: Tensor, X: Tensor, y: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
            costs = judged(outputs(row, X, key), y)
            return costs.mean(), costs

        both = jax.jit(jax.value_and_grad(mean, has_aux=True))

        def give(row: Array, X: Array, y: Array, key: Key, step: int) -> tuple[Array, Array]:
            draw = None
            if drawn:
                word = key.word("jax")
                draw = jax.random.fold_in(jax.random.fold_in(jax.random.key(word % 2**32), word >> 32), step)
            (_, costs), g = both(row, X, y, draw)
            return np.array(g), np.asarray(costs)

        return give

    def predict(row: Array, X: Array) -> Array:
        return np.asarray(forward(np.asarray(row, np.float32), np.asarray(X, np.float32)))

    return Lifted(
        input=takes,
        outputs=tuple(given.shape[1:]),
        layout=layout,
        begin=begin,
        steps=stepping(slope, layout.dim),
        predict=predict,
        flops=flops,
        engine=lambda: f"jax {jax.__version__} {jax.devices()[0].device_kind}",
        fitted=tree,
        unforked=lambda: ON_JAX,
    )
