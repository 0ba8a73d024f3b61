"""The portable model as a Keras 3 model: an entry in `LAYERS` for each layer, all of Keras' own parts.

So the file opens where only Keras is installed. keras is imported only where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import pi
from typing import Any

import numpy as np

from fedthings.errors import SpecError
from fedthings.learn import layers as kinds
from fedthings.learn import transforms
from fedthings.learn.element import Shape, snake
from fedthings.learn.model import Sequential
from fedthings.learn.with_keras import chosen
from fedthings.vector import Array

Tensor = Any
Arrays = Mapping[str, Array]
Entry = Callable[[Any, Any, Shape, Arrays, Tensor], Tensor]
"""`(keras, layer, given, arrays, x) -> y`: the layer, for samples of shape `given`, on symbolic tensors."""


def whole(model: Sequential, row: Array) -> Any:
    """Return the `keras.Model` of `model` with `row` `(dim,)`. Raises SpecError."""
    keras = chosen("export")
    x = first = keras.Input(model.input)
    for i, (layer, given) in enumerate(zip(model.layers, model.shapes, strict=False)):
        if type(layer) not in LAYERS:
            name = snake(type(layer).__name__)
            raise SpecError(f"layer {i} ({name}) has no form in Keras yet: export to safetensors, or to torch")
        arrays = {name: array[0] for name, array in model.split(row[None])[i].items()}
        x = LAYERS[type(layer)](keras, layer, given, arrays, x)
    return keras.Model(first, x)


def _with(part: Any, x: Tensor, *arrays: Array) -> Tensor:
    """Return x behind a layer of Keras, which then has `arrays`."""
    y = part(x)
    part.set_weights(list(arrays))
    return y


def _dense(keras: Any, layer: kinds.Dense, given: Shape, w: Arrays, x: Tensor) -> Tensor:
    return _with(keras.layers.Dense(layer.units, layer.activation), x, w["weight"], w["bias"])


def _conv(keras: Any, layer: kinds.Conv1d | kinds.Conv2d, given: Shape, w: Arrays, x: Tensor) -> Tensor:
    if layer.stride > 1 and layer.apart > 1:
        raise SpecError("Keras has no convolution with both a stride and a dilation: export to onnx, or to torch")
    kind = keras.layers.Conv1D if layer.rank == 1 else keras.layers.Conv2D
    part = kind(
        layer.filters,
        layer.kernel,
        layer.stride,
        layer.padding,
        data_format="channels_last",
        dilation_rate=layer.apart,
        activation=layer.activation,
    )
    return _with(part, x, w["weight"], w["bias"])


def _pool(name: str) -> Entry:
    def entry(keras: Any, layer: kinds.MaxPool | kinds.AvgPool, given: Shape, w: Arrays, x: Tensor) -> Tensor:
        kind = getattr(keras.layers, f"{name}Pooling{len(given) - 1}D")
        return kind(layer.size, layer.step, data_format="channels_last")(x)

    return entry


def _activation(keras: Any, layer: Any, given: Shape, w: Arrays, x: Tensor) -> Tensor:
    return keras.layers.Activation(snake(type(layer).__name__))(x)


def _layer_norm(keras: Any, layer: kinds.LayerNorm, given: Shape, w: Arrays, x: Tensor) -> Tensor:
    return _with(keras.layers.LayerNormalization(epsilon=layer.eps), x, w["weight"], w["bias"])


def _group_norm(keras: Any, layer: kinds.GroupNorm, given: Shape, w: Arrays, x: Tensor) -> Tensor:
    return _with(keras.layers.GroupNormalization(layer.groups, -1, layer.eps), x, w["weight"], w["bias"])


def _batch_norm(keras: Any, layer: kinds.BatchNorm, given: Shape, w: Arrays, x: Tensor) -> Tensor:
    part = keras.layers.BatchNormalization(-1, 1 - layer.rate, layer.eps)
    return _with(part, x, w["weight"], w["bias"], w["mean"], w["variance"])


def _embedding(keras: Any, layer: kinds.Embedding, given: Shape, w: Arrays, x: Tensor) -> Tensor:
    numbers = _filled(keras, x if layer.column is None else _column(keras, x, layer.column), 0.0)
    which = keras.ops.cast(keras.ops.clip(numbers, 0, layer.rows - 1), "int32")
    y = _with(keras.layers.Embedding(layer.rows, layer.width), which, w["vectors"])
    return y if layer.column is None else _behind(keras, x, given[-1], layer.column, y)


def _gru(keras: Any, layer: kinds.Gru, given: Shape, w: Arrays, x: Tensor) -> Tensor:
    order = np.r_[layer.units : 2 * layer.units, : layer.units, 2 * layer.units : 3 * layer.units]  # update, reset
    part = keras.layers.GRU(layer.units, return_sequences=layer.sequence, reset_after=True)
    biases = np.stack([w["bias"][order], w["recurrent_bias"][order]])
    return _with(part, x, w["weight"][:, order], w["recurrent"][:, order], biases)


def _standardise(keras: Any, layer: transforms.Standardise, given: Shape, w: Arrays, x: Tensor) -> Tensor:
    mean, deviation, fill = (array.copy() for array in layer.arrays(given))
    return (_filled(keras, x, fill) - mean) / deviation


def _log1p(keras: Any, layer: transforms.Log1p, given: Shape, w: Arrays, x: Tensor) -> Tensor:
    ops = keras.ops
    y = ops.sign(x) * ops.log1p(ops.absolute(x))
    if not layer.columns:
        return y
    return ops.where(np.isin(np.arange(given[-1]), layer.columns), y, x)


def _cyclic(keras: Any, layer: transforms.Cyclic, given: Shape, w: Arrays, x: Tensor) -> Tensor:
    angle = _column(keras, x, layer.column) * (2 * pi / layer.period)
    clock = keras.ops.stack([keras.ops.sin(angle), keras.ops.cos(angle)], axis=-1)
    return _behind(keras, x, given[-1], layer.column, clock)


def _one_hot(keras: Any, layer: transforms.OneHot, given: Shape, w: Arrays, x: Tensor) -> Tensor:
    number = keras.ops.expand_dims(_column(keras, x, layer.column), -1)
    known = keras.ops.cast(keras.ops.equal(number, np.arange(layer.classes, dtype=np.float32)), "float32")
    return _behind(keras, x, given[-1], layer.column, known)


def _decompose(keras: Any, layer: transforms.Decompose, given: Shape, w: Arrays, x: Tensor) -> Tensor:
    ops = keras.ops

    def averaged(x: Tensor) -> Tensor:
        return ops.average_pool(ops.take(x, layer.around(given[0]), axis=1), layer.kernel, 1, "valid", "channels_last")

    known = ops.cast(ops.logical_not(ops.isnan(x)), "float32")
    trend = averaged(_filled(keras, x, 0.0)) / averaged(known)
    return ops.concatenate([x - trend, trend], axis=-1)


def _rescale(keras: Any, layer: transforms.Rescale, given: Shape, w: Arrays, x: Tensor) -> Tensor:
    mean, deviation = (array.reshape(given).copy() for array in layer.arrays())
    return x * deviation + mean


def _filled(keras: Any, x: Tensor, value: Any) -> Tensor:
    return keras.ops.where(keras.ops.isnan(x), value, x)


def _column(keras: Any, x: Tensor, column: int) -> Tensor:
    return keras.ops.take(x, column, axis=-1)


def _behind(keras: Any, x: Tensor, width: int, column: int, more: Tensor) -> Tensor:
    """Return x less a column of `width`, and `more` behind the others."""
    others = [i for i in range(width) if i != column]
    return keras.ops.concatenate([keras.ops.take(x, others, axis=-1), more], axis=-1) if others else more


LAYERS: dict[type, Entry] = {
    kinds.Dense: _dense,
    kinds.Conv1d: _conv,
    kinds.Conv2d: _conv,
    kinds.MaxPool: _pool("Max"),
    kinds.AvgPool: _pool("Average"),
    kinds.Flatten: lambda keras, layer, given, w, x: keras.layers.Flatten()(x),
    kinds.Relu: _activation,
    kinds.Tanh: _activation,
    kinds.Sigmoid: _activation,
    kinds.Softmax: _activation,
    kinds.LayerNorm: _layer_norm,
    kinds.GroupNorm: _group_norm,
    kinds.BatchNorm: _batch_norm,
    kinds.Dropout: lambda keras, layer, given, w, x: keras.layers.Dropout(layer.rate)(x),
    kinds.Embedding: _embedding,
    kinds.Gru: _gru,
    transforms.Standardise: _standardise,
    transforms.Impute: lambda keras, layer, given, w, x: _filled(keras, x, layer.value),
    transforms.Log1p: _log1p,
    transforms.Cyclic: _cyclic,
    transforms.OneHot: _one_hot,
    transforms.Decompose: _decompose,
    transforms.Rescale: _rescale,
}
"""The form of each layer; another layer is another entry."""
