"""The portable model as an ONNX graph: an entry in `LAYERS` for each layer, channels last as ours.

onnx is imported only where it is used.
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
from fedthings.learn.lift import framework
from fedthings.learn.model import Sequential
from fedthings.vector import Array

OPSET = 18
ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "softmax": "Softmax"}


class Graph:
    """Nodes and constants as they come; `add` gives the name of what a node gives."""

    def __init__(self) -> None:
        self.onnx = framework("onnx", "export")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Any, kind: str = "f4") -> str:
        """Return the name of an array."""
        name = f"c{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.array(value, kind), name))
        return name

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Add a node; of several outputs the name is that of the last."""
        names = [f"n{len(self.nodes)}.{i}" for i in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, names, **attributes))
        return names[-1]

    def filled(self, x: str, value: Any) -> str:
        """Return x with `value` where there is a gap."""
        return self.add("Where", self.add("IsNaN", x), self.constant(value), x)

    def activated(self, x: str, name: str) -> str:
        """Return x behind an activation."""
        return x if name == "linear" else self.add(ACTIVATIONS[name], x, **({"axis": -1} if name == "softmax" else {}))

    def channels(self, x: str, rank: int, first: bool) -> str:
        """Return x with the channels first, or last again; `rank` axes and the batch."""
        there = [0, rank, *range(1, rank)] if first else [0, *range(2, rank + 1), 1]
        return self.add("Transpose", x, perm=there)

    def behind(self, x: str, width: int, column: int, more: str) -> str:
        """Return x less a column of `width`, and `more` behind the others."""
        others = [i for i in range(width) if i != column]
        return self.add("Concat", self.add("Gather", x, self.constant(others, "i8"), axis=-1), more, axis=-1)

    def column(self, x: str, column: int) -> str:
        """Return a column of x, without its axis."""
        return self.add("Gather", x, self.constant(column, "i8"), axis=-1)


Arrays = Mapping[str, Array]
Entry = Callable[[Graph, Any, Shape, Arrays, str], str]
"""`(graph, layer, given, arrays, x) -> y`: the layer, for samples of shape `given`, from the name x to the name y."""


def proto(model: Sequential, row: Array) -> Any:
    """Return the `onnx.ModelProto` of `model` with `row` `(dim,)`: "input" to "output". Raises SpecError."""
    graph, x = Graph(), "input"
    for i, (layer, given) in enumerate(zip(model.layers, model.shapes, strict=False)):
        if type(layer) not in LAYERS:
            name = snake(type(layer).__name__)
            raise SpecError(f"layer {i} ({name}) has no form in ONNX yet: export to safetensors, or to torch")
        x = LAYERS[type(layer)](graph, layer, given, model.split(row[None])[i], x)
    graph.nodes.append(graph.onnx.helper.make_node("Identity", [x], ["output"]))
    helper, real = graph.onnx.helper, graph.onnx.TensorProto.FLOAT
    ends = [
        helper.make_tensor_value_info(name, real, ["samples", *shape])
        for name, shape in (("input", model.input), ("output", model.outputs))
    ]
    whole = helper.make_graph(graph.nodes, "fedthings", ends[:1], ends[1:], graph.constants)
    found = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    graph.onnx.checker.check_model(found, full_check=True)
    return found


def _dense(g: Graph, layer: kinds.Dense, given: Shape, w: Arrays, x: str) -> str:
    y = g.add("Add", g.add("MatMul", x, g.constant(w["weight"][0])), g.constant(w["bias"][0]))
    return g.activated(y, layer.activation)


def _conv(g: Graph, layer: kinds.Conv1d | kinds.Conv2d, given: Shape, w: Arrays, x: str) -> str:
    rank, margins = layer.rank, layer.margins(given)
    weight = g.constant(np.moveaxis(w["weight"][0], (-1, -2), (0, 1)))
    y = g.add(
        "Conv",
        g.channels(x, rank + 1, True),
        weight,
        g.constant(w["bias"][0]),
        pads=[pair[end] for end in (0, 1) for pair in margins],
        strides=[layer.stride] * rank,
        dilations=[layer.apart] * rank,
    )
    return g.activated(g.channels(y, rank + 1, False), layer.activation)


def _pool(operator: str) -> Entry:
    def entry(g: Graph, layer: kinds.MaxPool | kinds.AvgPool, given: Shape, w: Arrays, x: str) -> str:
        rank = len(given) - 1
        size, step, first = [layer.size] * rank, [layer.step] * rank, g.channels(x, rank + 1, True)
        return g.channels(g.add(operator, first, kernel_shape=size, strides=step), rank + 1, False)

    return entry


def _activation(g: Graph, layer: Any, given: Shape, w: Arrays, x: str) -> str:
    return g.activated(x, snake(type(layer).__name__))


def _layer_norm(g: Graph, layer: kinds.LayerNorm, given: Shape, w: Arrays, x: str) -> str:
    weight, bias = (g.constant(w[name][0]) for name in ("weight", "bias"))
    return g.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=layer.eps)


def _group_norm(g: Graph, layer: kinds.GroupNorm, given: Shape, w: Arrays, x: str) -> str:
    split = [0, -1, layer.groups, given[-1] // layer.groups]
    rows, axes = g.add("Reshape", x, g.constant(split, "i8")), g.constant([1, 3], "i8")
    rows = g.add("Sub", rows, g.add("ReduceMean", rows, axes))
    variance = g.add("ReduceMean", g.add("Mul", rows, rows), axes)
    rows = g.add("Div", rows, g.add("Sqrt", g.add("Add", variance, g.constant(layer.eps))))
    y = g.add("Mul", g.add("Reshape", rows, g.constant([0, *given], "i8")), g.constant(w["weight"][0]))
    return g.add("Add", y, g.constant(w["bias"][0]))


def _batch_norm(g: Graph, layer: kinds.BatchNorm, given: Shape, w: Arrays, x: str) -> str:
    arrays = {name: array[0].astype(np.float64) for name, array in w.items()}
    scale = arrays["weight"] / np.sqrt(arrays["variance"] + layer.eps)
    return g.add("Add", g.add("Mul", x, g.constant(scale)), g.constant(arrays["bias"] - arrays["mean"] * scale))


def _embedding(g: Graph, layer: kinds.Embedding, given: Shape, w: Arrays, x: str) -> str:
    numbers = g.filled(x if layer.column is None else g.column(x, layer.column), 0.0)
    numbers = g.add("Clip", numbers, g.constant(0), g.constant(layer.rows - 1))
    which = g.add("Cast", numbers, to=g.onnx.TensorProto.INT64)
    y = g.add("Gather", g.constant(w["vectors"][0]), which, axis=0)
    return y if layer.column is None else g.behind(x, given[-1], layer.column, y)


def _gru(g: Graph, layer: kinds.Gru, given: Shape, w: Arrays, x: str) -> str:
    order = np.r_[layer.units : 2 * layer.units, : layer.units, 2 * layer.units : 3 * layer.units]  # update, reset
    weight, recurrent = (g.constant(w[name][0][:, order].T[None]) for name in ("weight", "recurrent"))
    bias = g.constant(np.concatenate([w["bias"][0][order], w["recurrent_bias"][0][order]])[None])
    steps = g.add("Transpose", x, perm=[1, 0, 2])
    last = g.add("GRU", steps, weight, recurrent, bias, outputs=2, hidden_size=layer.units, linear_before_reset=1)
    if not layer.sequence:
        return g.add("Squeeze", last, g.constant([0], "i8"))
    states = g.add("Squeeze", last[:-1] + "0", g.constant([1], "i8"))
    return g.add("Transpose", states, perm=[1, 0, 2])


def _standardise(g: Graph, layer: transforms.Standardise, given: Shape, w: Arrays, x: str) -> str:
    mean, deviation, fill = layer.arrays(given)
    return g.add("Div", g.add("Sub", g.filled(x, fill), g.constant(mean)), g.constant(deviation))


def _log1p(g: Graph, layer: transforms.Log1p, given: Shape, w: Arrays, x: str) -> str:
    y = g.add("Mul", g.add("Sign", x), g.add("Log", g.add("Add", g.add("Abs", x), g.constant(1))))
    chosen = np.isin(np.arange(given[-1]), layer.columns) | (not layer.columns)
    return g.add("Where", g.constant(chosen, "?"), y, x)


def _cyclic(g: Graph, layer: transforms.Cyclic, given: Shape, w: Arrays, x: str) -> str:
    angle = g.add("Mul", g.column(x, layer.column), g.constant(2 * pi / layer.period))
    both = [g.add("Unsqueeze", g.add(name, angle), g.constant([-1], "i8")) for name in ("Sin", "Cos")]
    return g.behind(x, given[-1], layer.column, g.add("Concat", *both, axis=-1))


def _one_hot(g: Graph, layer: transforms.OneHot, given: Shape, w: Arrays, x: str) -> str:
    number = g.add("Unsqueeze", g.column(x, layer.column), g.constant([-1], "i8"))
    known = g.add("Equal", number, g.constant(np.arange(layer.classes)))
    return g.behind(x, given[-1], layer.column, g.add("Cast", known, to=g.onnx.TensorProto.FLOAT))


def _decompose(g: Graph, layer: transforms.Decompose, given: Shape, w: Arrays, x: str) -> str:
    def averaged(x: str) -> str:
        wide = g.channels(g.add("Gather", x, g.constant(layer.around(given[0]), "i8"), axis=1), 2, True)
        return g.channels(g.add("AveragePool", wide, kernel_shape=[layer.kernel]), 2, False)

    known = g.add("Cast", g.add("Not", g.add("IsNaN", x)), to=g.onnx.TensorProto.FLOAT)
    trend = g.add("Div", averaged(g.filled(x, 0.0)), averaged(known))
    return g.add("Concat", g.add("Sub", x, trend), trend, axis=-1)


def _rescale(g: Graph, layer: transforms.Rescale, given: Shape, w: Arrays, x: str) -> str:
    mean, deviation = (g.constant(array.reshape(given)) for array in layer.arrays())
    return g.add("Add", g.add("Mul", x, deviation), mean)


LAYERS: dict[type, Entry] = {
    kinds.Dense: _dense,
    kinds.Conv1d: _conv,
    kinds.Conv2d: _conv,
    kinds.MaxPool: _pool("MaxPool"),
    kinds.AvgPool: _pool("AveragePool"),
    kinds.Flatten: lambda g, layer, given, w, x: g.add("Flatten", x, axis=1),
    kinds.Relu: _activation,
    kinds.Tanh: _activation,
    kinds.Sigmoid: _activation,
    kinds.Softmax: _activation,
    kinds.LayerNorm: _layer_norm,
    kinds.GroupNorm: _group_norm,
    kinds.BatchNorm: _batch_norm,
    kinds.Dropout: lambda g, layer, given, w, x: x,
    kinds.Embedding: _embedding,
    kinds.Gru: _gru,
    transforms.Standardise: _standardise,
    transforms.Impute: lambda g, layer, given, w, x: g.filled(x, layer.value),
    transforms.Log1p: _log1p,
    transforms.Cyclic: _cyclic,
    transforms.OneHot: _one_hot,
    transforms.Decompose: _decompose,
    transforms.Rescale: _rescale,
}
"""The form of each layer; another layer is another entry."""
