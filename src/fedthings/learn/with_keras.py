"""Keras 3, on PyTorch or JAX: a user's own model, seen as a row; keras is imported only where it is used."""

from __future__ import annotations

import os
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

import numpy as np

from fedthings.errors import SpecError
from fedthings.learn.element import Shape
from fedthings.learn.lift import ON_GPU, ON_JAX, Lifted, framework, guarded, shape
from fedthings.learn.losses import LOSSES
from fedthings.learn.slopes import Loss, Slope, Tensor, costing, stepping
from fedthings.vector import Array, Key, Layout, Vector

if TYPE_CHECKING:
    from fedthings.learn.task import Task

BACKENDS = ("torch", "jax")
SEED = "seed_generator_state"
"""What Keras calls the state of a layer that draws at random."""


def with_keras(build: Callable[[], Any], *, input: int | Shape, loss: Loss | None = None, flops: int = 0) -> Lifted:
    """Return the model that `build()` makes, for samples of shape `input`, with outputs as the loss reads them.

    Its trained variables travel, and the statistics of a normalisation; what is frozen (`trainable=False`) stays as
    `build` makes it at the seed 0. `loss(outputs, y)` gives each sample's cost `(n,)`; without it the loss is the
    task's; what layers add to it (regularisers) counts. `flops` as in `lift`. Raises SpecError.
    """
    keras = chosen("with_keras")
    takes, side = shape(input), _SIDES[keras.backend.backend()](keras)
    last: ref[Any] | None = None  # the model made last, while there is one

    def made(seed: int) -> Any:
        nonlocal last
        with _seeded(seed), side.alone(seed), guarded("with_keras: `build`"):
            found = build()
            if not isinstance(found, keras.Model):
                raise SpecError(f"with_keras: `build` returned {type(found).__name__}: return a keras.Model")
            if last is not None and found is last():
                raise SpecError("with_keras: `build` returned the same model again: make a new one in each call")
            last = ref(found)
            if not found.built:
                found(np.zeros((1, *takes), np.float32))
        return found

    def arrays(variables: Sequence[Any]) -> list[Array]:
        return [side.array(variable.value) for variable in variables]

    model = made(0)
    layout, learned, places = travelling(model)
    trained = [part for part in layout.parts if part.stop <= learned]
    stays = arrays(model.non_trainable_variables)
    draws = [i for i, variable in enumerate(model.non_trainable_variables) if variable.name == SEED]

    def rest(row: Array, key: Key | None = None, step: int = 0) -> list[Array]:
        """Return what is not trained: the statistics in `row`, seeds of `key`, all else as it was made."""
        found = list(stays)
        for place, view in zip(places, list(layout.views(row).values())[len(trained) :], strict=True):
            found[place] = view
        if key is not None:
            word = key.word("keras") % 2**31
            for i, place in enumerate(draws):
                found[place] = np.array([word, (i << 20) + step], stays[place].dtype)
        return found

    def run(theta: Tensor, others: list[Tensor], X: Tensor, training: bool) -> tuple[Tensor, list[Tensor], Tensor]:
        """Return the outputs, the statistics afterwards, and what the layers add to the loss."""
        parts = [keras.ops.reshape(theta[part.start : part.stop], part.shape) for part in trained]
        out, after, more = model.stateless_call(parts, others, X, training=training, return_losses=True)
        return out, [after[place] for place in places], sum(more)

    forward = side.evaluated(lambda theta, others, X: run(theta, others, X, False)[0])

    def predict(row: Array, X: Array) -> Array:
        with side.alone(0):
            return forward(row[:learned], rest(row), np.asarray(X, np.float32))

    def slope(task: Task) -> Slope:
        contained = LOSSES[task.loss].contains
        if loss is None and contained and _ending(model) == contained:
            raise SpecError(f"with_keras: the model ends in {contained}, which {task.loss} contains: leave it out")
        judged = costing(keras.ops, task.loss, loss, "with_keras")

        def mean(theta: Tensor, others: list[Tensor], X: Tensor, y: Tensor) -> tuple[Tensor, Any]:
            out, after, more = run(theta, others, X, True)
            costs = judged(out, y)
            return keras.ops.mean(costs) + more, (costs, after)

        both = side.differentiated(mean)

        def give(row: Array, X: Array, y: Array, key: Key, step: int) -> tuple[Array, Array]:
            with side.alone(0):
                g, costs, after = both(row[:learned], rest(row, key, step), X, y)
            if after:
                row[learned:] = np.concatenate([array.reshape(-1) for array in after])
            return g, costs

        return give

    def carried(found: Any) -> list[Any]:
        """Return the variables of a model that travel."""
        return [*found.trainable_variables, *(found.non_trainable_variables[place] for place in places)]

    def begin(seed: int) -> Vector:
        return np.concatenate([array.reshape(-1) for array in arrays(carried(made(seed)))])

    def fitted(row: Array) -> Any:
        found = made(0)
        for variable, view in zip(carried(found), layout.views(row).values(), strict=True):
            variable.assign(view)
        return found

    with guarded("with_keras: the model"):
        gives = predict(begin(0), np.zeros((1, *takes), np.float32)).shape
    if len(gives) < 2 or gives[0] != 1:
        raise SpecError(f"with_keras: the model gives the shape {gives} for 1 sample: let it give (samples, outputs)")
    steps, engine = stepping(slope, learned), f"keras {keras.__version__} on {side.name}"
    return Lifted(
        input=takes,
        outputs=gives[1:],
        layout=layout,
        begin=begin,
        steps=steps,
        predict=predict,
        flops=flops,
        engine=lambda: engine,
        fitted=fitted,
        unforked=lambda: side.unforked,
    )


def travelling(model: Any) -> tuple[Layout, int, list[int]]:
    """Return where each array lies in a row, how many numbers are trained, and which of the others travel.

    Of these the places among the variables that are not trained. The arrays are called after their place in
    `model.weights`, for what Keras calls them counts the models of a process. Raises SpecError.
    """
    layers = [layer for layer in model._flatten_layers() if layer.trainable]
    moving = {id(v) for layer in layers for v in layer._non_trainable_variables if "float" in v.dtype}
    places = [i for i, v in enumerate(model.non_trainable_variables) if id(v) in moving]
    found = [*model.trainable_variables, *(model.non_trainable_variables[place] for place in places)]
    for variable in found:
        if variable.dtype != "float32":
            raise SpecError(f"with_keras: {variable.path} is {variable.dtype}: make the model float32")
    learned = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    if not learned:
        raise SpecError("with_keras: the model has nothing to train: leave some layers trainable")
    order = {id(variable): i for i, variable in enumerate(model.weights)}
    plain = ((f"{order[id(v)]}.{re.sub(r'_[0-9]+$', '', v.name)}", tuple(v.shape)) for v in found)
    return Layout(plain), learned, places


def chosen(door: str) -> Any:
    """Import Keras for `door`, on the backend that is installed where none is chosen. Raises SpecError."""
    installed = [name for name in BACKENDS if find_spec(name)]
    if "keras" not in sys.modules and find_spec("keras"):
        if not installed:
            raise SpecError(f'{door} needs PyTorch or JAX below Keras: pip install "fedthings[keras,torch]"')
        os.environ.setdefault("KERAS_BACKEND", installed[0])
    keras = framework("keras", door)
    if keras.backend.backend() not in BACKENDS:
        raise SpecError(f"{door}: Keras runs on {keras.backend.backend()}: set KERAS_BACKEND to torch or jax")
    return keras


def _ending(model: Any) -> str:
    """Return the activation that a model ends in, "" where that cannot be seen."""
    last = model.layers[-1] if getattr(model, "outputs", None) and model.layers else None
    activation = getattr(last, "activation", None)
    return str(getattr(activation, "__name__", type(last).__name__)).lower()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Have Python's generator, from which Keras draws the seeds of its layers, and NumPy's at `seed`, for a while."""
    before, numpy_before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)


class _Side(NamedTuple):
    """What each backend does in its own way.

    `array(x)` is a tensor as NumPy's. `evaluated(f)` gives f's outputs so; `differentiated(f)`, of f that gives (cost,
    (costs, arrays)), the gradient by its first argument, the costs and the arrays. `alone(seed)`: one thread, a seed.
    `unforked` as in `Lifted`.
    """

    name: str
    array: Callable[[Tensor], Array]
    evaluated: Callable[..., Callable[..., Array]]
    differentiated: Callable[..., Callable[..., tuple[Array, Array, list[Array]]]]
    alone: Callable[[int], Any]
    unforked: str


def _by_torch(keras: Any) -> _Side:
    import torch

    from fedthings.learn.torch_net import alone

    tensor = keras.ops.convert_to_tensor

    def array(x: Tensor) -> Array:
        return np.asarray(x.detach().cpu().numpy())

    def evaluated(function: Callable[..., Tensor]) -> Callable[..., Array]:
        def give(theta: Array, others: list[Array], X: Array) -> Array:
            with torch.no_grad():
                return array(function(tensor(theta), [tensor(other) for other in others], tensor(X)))

        return give

    def differentiated(function: Callable[..., Tensor]) -> Callable[..., tuple[Array, Array, list[Array]]]:
        def give(theta: Array, others: list[Array], X: Array, y: Array) -> tuple[Array, Array, list[Array]]:
            leaf = tensor(theta.copy()).requires_grad_()
            cost, (costs, after) = function(leaf, [tensor(other) for other in others], tensor(X), tensor(y))
            (slope,) = torch.autograd.grad(cost, leaf)
            return array(slope), array(costs), [array(some) for some in after]

        return give

    place = tensor(0.0).device.type
    unforked = "" if place == "cpu" else ON_GPU
    name = f"torch {torch.__version__}"
    return _Side(name, array, evaluated, differentiated, lambda seed: alone(seed, place), unforked)


def _by_jax(keras: Any) -> _Side:
    import jax

    def evaluated(function: Callable[..., Tensor]) -> Callable[..., Array]:
        forward = jax.jit(function)
        return lambda *arguments: np.asarray(forward(*arguments))

    def differentiated(function: Callable[..., Tensor]) -> Callable[..., tuple[Array, Array, list[Array]]]:
        both = jax.jit(jax.value_and_grad(function, has_aux=True))

        def give(*arguments: Any) -> tuple[Array, Array, list[Array]]:
            (_, (costs, after)), slope = both(*arguments)
            return np.array(slope), np.asarray(costs), [np.asarray(some) for some in after]

        return give

    return _Side(f"jax {jax.__version__}", np.asarray, evaluated, differentiated, lambda seed: nullcontext(), ON_JAX)


_SIDES = {"torch": _by_torch, "jax": _by_jax}
