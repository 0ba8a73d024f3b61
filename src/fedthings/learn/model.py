"""The portable model: an input shape and a list of layers, as data; and the mathematics of them in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from math import prod
from typing import Any, TypeAlias

import msgspec
import numpy as np
from msgspec import Struct

from fedthings.errors import SpecError
from fedthings.learn import filled, filling, norms, passes, preparing, recurrent, transforms, windows
from fedthings.learn import layers as kinds
from fedthings.learn.element import Shape, snake
from fedthings.learn.filled import centroids, forest, gaussians
from fedthings.learn.layers import (
    RUNNING,
    Layer,
    avg_pool,
    batch_norm,
    conv1d,
    conv2d,
    dense,
    dropout,
    embedding,
    flatten,
    group_norm,
    gru,
    layer_norm,
    max_pool,
    prototypes,
    relu,
    sigmoid,
    softmax,
    tanh,
)
from fedthings.learn.passes import Draw, Kept, Pass, Weights
from fedthings.learn.transforms import TRANSFORMS, cyclic, decompose, impute, log1p, one_hot, rescale, standardise
from fedthings.vector import Array, Layout, Vector, keyed

__all__ = [
    "Sequential",
    "avg_pool",
    "backward",
    "batch_norm",
    "centroids",
    "conv1d",
    "conv2d",
    "cyclic",
    "decompose",
    "dense",
    "dropout",
    "embedding",
    "flatten",
    "forest",
    "forward",
    "gaussians",
    "group_norm",
    "gru",
    "impute",
    "layer_norm",
    "log1p",
    "max_pool",
    "mlp",
    "one_hot",
    "outputs",
    "prototypes",
    "relu",
    "rescale",
    "sequential",
    "sigmoid",
    "softmax",
    "standardise",
    "tanh",
    "without",
]

MEMORY = 4 << 20
"""Bytes of one layer's numbers that are in work at once where nothing is trained."""


LARGEST = 1 << 28
"""Parameters: a model of 1 GiB."""


class Sequential(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Layers one after the other for samples of shape `input`; images `(H, W, C)`, signals `(T, C)`."""

    input: tuple[int, ...]
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        """Raise SpecError, with the layer, its input and the remedy, where shapes do not fit."""
        if not self.input or min(self.input) < 1:
            raise SpecError(f"model.input is {self.input}: give the shape of one sample, such as (28, 28, 1)")
        for i, layer in enumerate(self.layers):
            name = f"layer {i} ({snake(type(layer).__name__)})"
            if isinstance(layer, TRANSFORMS) and i >= self.stem:
                raise SpecError(f"{name} stands behind layer {self.stem}: put it in front, where the data comes in")
            if isinstance(layer, kinds.Prototypes) and (i != self.stem or i + 1 < len(self.layers)):
                raise SpecError(
                    f"{name} is not alone: leave only what prepares the input before it, and nothing behind"
                )
            if isinstance(layer, transforms.Rescale) and i + 1 < len(self.layers):
                raise SpecError(f"{name} is not the last: put it behind all others, it gives the targets' units")
        if not self.layout.dim:
            raise SpecError("model.layers has nothing to train: add a dense layer")
        if self.layout.dim > LARGEST:
            raise SpecError(f"model.layers has {self.layout.dim} parameters: use fewer units, {LARGEST} are the most")

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The shape of a sample before each layer, and after the last."""
        shapes = [tuple(self.input)]
        for i, layer in enumerate(self.layers):
            try:
                shapes.append(layer.shape(shapes[-1]))
            except SpecError as error:
                name = snake(type(layer).__name__)
                raise SpecError(f"layer {i} ({name}), with input {shapes[-1]}: {error}") from None
        return tuple(shapes)

    @property
    def outputs(self) -> Shape:
        """The shape of what the model gives for one sample."""
        return self.shapes[-1]

    @cached_property
    def layout(self) -> Layout:
        """Where each layer's arrays lie in a row: "0.dense.weight", "0.dense.bias", ..."""
        return Layout(
            (f"{i}.{snake(type(layer).__name__)}.{name}", shape)
            for i, (layer, given) in enumerate(zip(self.layers, self.shapes, strict=False))
            for name, shape in layer.parameters(given).items()
        )

    @cached_property
    def work(self) -> int:
        """The numbers that one sample needs in the widest layer."""
        return max(layer.work(given) for layer, given in zip(self.layers, self.shapes, strict=False))

    @cached_property
    def flops(self) -> int:
        """The operations of the forward pass of one sample."""
        return sum(layer.flops(given) for layer, given in zip(self.layers, self.shapes, strict=False))

    @cached_property
    def training_flops(self) -> int:
        """The operations of one sample's forward and backward pass.

        Back from the last layer to the first with parameters, the gradient of a layer's weights costs what its
        forward pass does, and so does that of its input where a layer before it learns too.
        """
        learns = [bool(layer.parameters(given)) for layer, given in zip(self.layers, self.shapes, strict=False)]
        back = (
            layer.flops(given) * (learns[i] + (i > self.first))
            for i, (layer, given) in enumerate(zip(self.layers, self.shapes, strict=False))
            if i >= self.first
        )
        return self.flops + sum(back)

    @cached_property
    def held(self) -> int:
        """The numbers that one sample takes in training: its input and what every layer gives."""
        return sum(prod(shape) for shape in self.shapes)

    @cached_property
    def passes(self) -> tuple[Pass, ...]:
        """The mathematics of each layer."""
        return tuple(
            build(layer, given, i) for i, (layer, given) in enumerate(zip(self.layers, self.shapes, strict=False))
        )

    @cached_property
    def stem(self) -> int:
        """How many layers at the front only prepare the input: they run once for all epochs."""
        return next((i for i, layer in enumerate(self.layers) if not layer.fixed), len(self.layers))

    @cached_property
    def front(self) -> int:
        """How many layers at the front end with one that makes other features; scaling of the fleet is behind them."""
        stem = enumerate(self.layers[: self.stem])
        return max((i + 1 for i, layer in stem if isinstance(layer, TRANSFORMS)), default=0)

    @property
    def prototypes(self) -> kinds.Prototypes | None:
        """What devices exchange instead of a model, where that is the last layer."""
        last = self.layers[-1] if self.layers else None
        return last if isinstance(last, kinds.Prototypes) else None

    @property
    def rescale(self) -> transforms.Rescale | None:
        """What turns the outputs into the units of the targets, where that is the last layer."""
        last = self.layers[-1] if self.layers else None
        return last if isinstance(last, transforms.Rescale) else None

    @cached_property
    def running(self) -> tuple[slice, ...]:
        """Where in a row the running statistics lie, which no optimiser touches."""
        return tuple(
            slice(part.start, part.stop)
            for part in self.layout.parts
            if part.name.split(".")[1] == "batch_norm" and part.name.split(".")[2] in RUNNING
        )

    @cached_property
    def first(self) -> int:
        """The first layer with parameters: gradients go back no further."""
        return int(self.layout.parts[0].name.split(".")[0])

    def split(self, rows: Array) -> list[dict[str, Array]]:
        """Return for each layer its arrays `(K, *shape)`, as views of `rows` `(K, dim)`."""
        own: list[dict[str, Array]] = [{} for _ in self.layers]
        for name, view in self.layout.views(rows).items():
            index, _, field = name.split(".")
            own[int(index)][field] = view
        return own

    def init(self, seed: int) -> Vector:
        """Return a row `(dim,)`: each array as its layer begins, most biases 0 and weights uniform."""
        row = np.zeros(self.layout.dim, np.float32)
        for part in self.layout.parts:
            index, _, field = part.name.split(".")
            layer = self.layers[int(index)]
            limit = layer.limit(field, part.shape, self._relu_follows(int(index)))
            row[part.start : part.stop] = layer.level(field)
            if limit:
                draw = keyed(seed, "init", part.name).random(part.stop - part.start)
                row[part.start : part.stop] = (2 * draw - 1) * limit
        return row

    def _relu_follows(self, index: int) -> bool:
        after = self.layers[index + 1] if index + 1 < len(self.layers) else None
        return getattr(self.layers[index], "activation", "") == "relu" or isinstance(after, kinds.Relu)


def sequential(input: int | Sequence[int], *layers: Layer) -> Sequential:
    """Return the model of `layers` for samples of shape `input`."""
    return Sequential((input,) if isinstance(input, int) else tuple(input), layers)


def mlp(*sizes: int) -> Sequential:
    """Return dense layers from `sizes[0]` inputs to `sizes[-1]` outputs, relu between, the last linear."""
    if len(sizes) < 2:
        raise SpecError(f"mlp{sizes}: give the number of inputs and of outputs, such as mlp(43, 64, 6)")
    hidden = [dense(units, "relu") for units in sizes[1:-1]]
    return sequential(sizes[0], *hidden, dense(sizes[-1]))


def without(model: Sequential, activation: str) -> Sequential:
    """Return `model` less a final `activation`, which its loss contains; the layout stays."""
    last = model.layers[-1]
    if snake(type(last).__name__) == activation:
        return Sequential(model.input, model.layers[:-1])
    if getattr(last, "activation", "") == activation:
        linear = msgspec.structs.replace(last, activation="linear")
        return Sequential(model.input, (*model.layers[:-1], linear))
    return model


def _on_devices(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
    raise SpecError("a model of prototypes predicts on its devices alone: each has a network of its own, which stays")


def build(layer: Layer, given: Shape, index: int) -> Pass:
    """Return the mathematics of `layer` for samples of shape `given`."""
    match layer:
        case kinds.Dense():
            return passes.dense(layer)
        case kinds.Conv1d() | kinds.Conv2d():
            return windows.convolution(layer, given)
        case kinds.MaxPool():
            return windows.max_pool(layer, given)
        case kinds.AvgPool():
            return windows.avg_pool(layer, given)
        case kinds.Flatten():
            return passes.flatten(given)
        case kinds.GroupNorm():
            return norms.group_norm(layer, given)
        case kinds.BatchNorm():
            return norms.batch_norm(layer)
        case kinds.LayerNorm():
            return norms.layer_norm(layer)
        case kinds.Prototypes():
            return Pass(_on_devices, lambda *_: None)
        case kinds.Embedding():
            return recurrent.embedding(layer)
        case kinds.Gru():
            return recurrent.gru(layer, given)
        case kinds.Dropout():
            return passes.dropout(layer, index)
        case filled.Centroids():
            return filling.centroids(layer)
        case filled.Gaussians():
            return filling.gaussians(layer)
        case filled.Forest():
            return filling.forest(layer)
        case transforms.Standardise():
            return preparing.standardise(layer, given)
        case transforms.Impute():
            return preparing.impute(layer)
        case transforms.Log1p():
            return preparing.log1p(layer)
        case transforms.Cyclic():
            return preparing.cyclic(layer)
        case transforms.OneHot():
            return preparing.one_hot(layer)
        case transforms.Decompose():
            return preparing.decompose(layer, given)
        case transforms.Rescale():
            return preparing.rescale(layer)
        case _:
            return passes.activation(snake(type(layer).__name__))


def forward(
    model: Sequential, weights: Sequence[Weights], X: Array, draw: Draw = None, start: int = 0
) -> tuple[Array, list[Kept]]:
    """Return outputs `(K, B, *outputs)` for `X` `(K, B, *shape)` before layer `start` and all backward needs.

    `weights` are `model.split(rows)`, of K rows or of one that all share.
    """
    tape: list[Kept] = [None] * len(model.layers)
    for i in range(start, len(model.layers)):
        X, tape[i] = model.passes[i].forward(weights[i], X, draw)
    return X, tape


Outputs: TypeAlias = Callable[[Array, Array], Array]
"""`(rows, X) -> out`: of rows `(dim,)` or `(K, dim)` and samples `(K, B, *input)`, `out` is `(K, B, *outputs)`."""


def forwarding(model: Sequential) -> Outputs:
    """Return the function that gives the outputs of rows of `model`."""

    def give(rows: Array, X: Array) -> Array:
        weights = model.split(rows[None] if rows.ndim == 1 else rows)
        return forward(model, weights, X.astype(rows.dtype, copy=False))[0]

    return give


def backward(
    model: Sequential,
    weights: Sequence[Weights],
    tape: Sequence[Kept],
    dY: Array,
    gradients: Sequence[Weights],
) -> None:
    """Write to `gradients`, like weights of K rows, what `dY`, the loss's slope by the outputs, gives."""
    flow: Any = dY
    for i in range(len(model.layers) - 1, model.first - 1, -1):
        flow = model.passes[i].backward(weights[i], tape[i], flow, gradients[i], i > model.first)


def prepare(model: Sequential, X: Array) -> Array:
    """Return `X` `(K, B, *input)` as the first layer after scaling and imputation sees it."""
    for step in model.passes[: model.stem]:
        X, _ = step.forward({}, X, None)
    return X


def transformed(model: Sequential, X: Array) -> Array:
    """Return `X` `(K, B, *input)` as the first layer behind the transforms sees it."""
    for step in model.passes[: model.front]:
        X, _ = step.forward({}, X, None)
    return X


def chunk(model: Sequential) -> int:
    """Return how many samples of a device are evaluated at once; only the model decides it (law 3)."""
    return max(1, min(1024, MEMORY // (4 * model.work)))


def outputs(model: Sequential, row: Array, X: Array) -> Array:
    """Return the predictions `(n, *outputs)` of the model `row` `(dim,)` for samples `X` `(n, *input)`."""
    X = np.asarray(X)
    if X.shape[1:] != model.input:
        raise SpecError(f"samples have shape {X.shape[1:]}, the model takes {model.input}")
    weights, size = model.split(row[None]), chunk(model)
    with np.errstate(all="ignore"):
        parts = [
            forward(model, weights, X[None, i : i + size].astype(row.dtype, copy=False))[0][0]
            for i in range(0, len(X), size)
        ]
    return np.concatenate(parts) if parts else np.empty((0, *model.outputs), row.dtype)
