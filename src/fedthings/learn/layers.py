"""The layers of a portable model as data: what each is called, the shapes it takes and gives, its parameters.

The mathematics is in `passes.py` and `windows.py`; nothing here computes.
"""

from __future__ import annotations

import re
from math import ceil, isfinite, prod
from typing import Literal, TypeAlias

import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike

from fedthings.errors import SpecError
from fedthings.vector import Array

Shape: TypeAlias = tuple[int, ...]
Activation: TypeAlias = Literal["linear", "relu", "tanh", "sigmoid", "softmax"]
Padding: TypeAlias = Literal["valid", "same"]


def snake(name: str) -> str:
    """Return the tag of a class name: MaxPool is "max_pool", Conv2d is "conv2d"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


class Element(Struct, frozen=True, forbid_unknown_fields=True, tag=snake):
    """What all layers share: by default the shape stays, and nothing is trained."""

    def shape(self, given: Shape) -> Shape:
        """Return the shape of a sample after this layer. Raises SpecError where `given` does not fit."""
        return given

    def parameters(self, given: Shape) -> dict[str, Shape]:
        """Return the shape of each trained array."""
        return {}

    def work(self, given: Shape) -> int:
        """Return the numbers that one sample needs in this layer, to size cohorts by."""
        return max(prod(given), prod(self.shape(given)))

    def flops(self, given: Shape) -> int:
        """Return the operations of the forward pass of one sample; a multiply-add is two, an exponential one."""
        return prod(given)


class Dense(Element, frozen=True):
    """Y = X W + b, then `activation`; W `(inputs, units)`."""

    units: int
    activation: Activation = "linear"

    def shape(self, given: Shape) -> Shape:
        _positive("units", self.units)
        if len(given) != 1:
            raise SpecError("it takes flat samples: put flatten() before it")
        return (self.units,)

    def parameters(self, given: Shape) -> dict[str, Shape]:
        return {"weight": (given[0], self.units), "bias": (self.units,)}

    def flops(self, given: Shape) -> int:
        return self.units * (2 * given[0] + 1 + (self.activation != "linear"))


class _Conv(Element, frozen=True):
    """A window of `kernel` slides by `stride` on each spatial axis; "same" gives ceil(size / stride)."""

    filters: int
    kernel: int
    stride: int = 1
    padding: Padding = "valid"
    activation: Activation = "linear"

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        raise NotImplementedError

    def shape(self, given: Shape) -> Shape:
        for name in ("filters", "kernel", "stride"):
            _positive(name, getattr(self, name))
        if len(given) != self.rank + 1:
            wanted = "(steps, channels)" if self.rank == 1 else "(height, width, channels)"
            raise SpecError(f"it takes samples {wanted}: give the model such an input, or use dense")
        if self.padding == "same":
            return (*(ceil(n / self.stride) for n in given[:-1]), self.filters)
        return (*places(given[:-1], self.kernel, self.stride, "kernel"), self.filters)

    def margins(self, given: Shape) -> tuple[tuple[int, int], ...]:
        """Return the zeros put before and after each spatial axis; of an odd number one more after."""
        if self.padding == "valid":
            return ((0, 0),) * self.rank
        whole = zip(given[:-1], self.shape(given)[:-1], strict=True)
        totals = [max((out - 1) * self.stride + self.kernel - size, 0) for size, out in whole]
        return tuple((total // 2, total - total // 2) for total in totals)

    def parameters(self, given: Shape) -> dict[str, Shape]:
        return {
            "weight": (*(self.kernel,) * self.rank, given[-1], self.filters),
            "bias": (self.filters,),
        }

    def work(self, given: Shape) -> int:
        window = prod((self.kernel,) * self.rank) * given[-1]
        return max(prod(given), prod(self.shape(given)[:-1]) * max(window, self.filters))

    def flops(self, given: Shape) -> int:
        window = prod((self.kernel,) * self.rank) * given[-1]
        return prod(self.shape(given)) * (2 * window + 1 + (self.activation != "linear"))


class Conv1d(_Conv, frozen=True):
    """Convolution of signals `(T, C)`; weight `(kernel, C, filters)`."""

    @property
    def rank(self) -> int:
        return 1


class Conv2d(_Conv, frozen=True):
    """Convolution of images `(H, W, C)` by a square kernel; weight `(kernel, kernel, C, filters)`."""

    @property
    def rank(self) -> int:
        return 2


class _Pool(Element, frozen=True, omit_defaults=True):
    """One number for each window of `size` on each spatial axis; what does not fit is left out."""

    size: int
    stride: int | None = None

    @property
    def step(self) -> int:
        """The stride: by default the windows touch."""
        return self.size if self.stride is None else self.stride

    def shape(self, given: Shape) -> Shape:
        _positive("size", self.size)
        _positive("stride", self.step)
        if len(given) not in (2, 3):
            raise SpecError("it takes samples (steps, channels) or (height, width, channels): leave it out")
        return (*places(given[:-1], self.size, self.step, "size"), given[-1])

    def flops(self, given: Shape) -> int:
        return int(prod(self.shape(given)) * self.size ** (len(given) - 1))


class MaxPool(_Pool, frozen=True):
    """The largest number of each window."""


class AvgPool(_Pool, frozen=True):
    """The mean of each window."""


class Flatten(Element, frozen=True):
    """A sample of any shape as one row."""

    def shape(self, given: Shape) -> Shape:
        return (prod(given),)

    def flops(self, given: Shape) -> int:
        return 0


class Relu(Element, frozen=True):
    """max(x, 0)."""


class Tanh(Element, frozen=True):
    """tanh x."""


class Sigmoid(Element, frozen=True):
    """1 / (1 + e^-x)."""


class Softmax(Element, frozen=True):
    """e^x over its sum, on the last axis."""

    def flops(self, given: Shape) -> int:
        return 5 * prod(given)  # the largest, less it, e to it, the sum, the quotient


class LayerNorm(Element, frozen=True):
    """Mean 0 and variance 1 over the last axis, then a weight and a bias (Ba et al. 2016)."""

    eps: float = 1e-5

    def shape(self, given: Shape) -> Shape:
        _positive("eps", self.eps)
        return given

    def parameters(self, given: Shape) -> dict[str, Shape]:
        return {"weight": (given[-1],), "bias": (given[-1],)}

    def flops(self, given: Shape) -> int:
        return 7 * prod(given)  # the mean, less it, the squares and their sum, the quotient, weight and bias


class Dropout(Element, frozen=True):
    """In training, a share `rate` of the numbers becomes 0 and the rest grows to keep the mean."""

    rate: float

    def shape(self, given: Shape) -> Shape:
        if not 0 <= self.rate < 1:
            raise SpecError(f"rate is {self.rate}: it must be from 0 to below 1")
        return given


class Standardise(Element, frozen=True):
    """(x - mean) / deviation, with NaN taken as `fill`; not trained.

    Each field is little-endian float32, one number for each of the flattened input's features.
    """

    mean: bytes
    deviation: bytes
    fill: bytes

    def arrays(self, given: Shape) -> tuple[Array, Array, Array]:
        """Return mean, deviation and fill in the shape of a sample."""
        fields = (self.mean, self.deviation, self.fill)
        mean, deviation, fill = (np.frombuffer(field, "<f4").reshape(given) for field in fields)
        return mean, deviation, fill

    def shape(self, given: Shape) -> Shape:
        for name in ("mean", "deviation", "fill"):
            size = len(getattr(self, name))
            if size != 4 * prod(given):
                raise SpecError(f"{name} has {size / 4:g} numbers: give {prod(given)}, one for each feature")
        if not all(np.isfinite(array).all() for array in self.arrays(given)):
            raise SpecError("mean, deviation or fill is not finite somewhere: leave those features out")
        if not (self.arrays(given)[1] > 0).all():
            raise SpecError("a deviation is not above 0: use 1 for a feature that never changes")
        return given

    def flops(self, given: Shape) -> int:
        return 3 * prod(given)  # fill, difference, quotient


class Impute(Element, frozen=True):
    """NaN becomes `value`."""

    value: float = 0.0

    def shape(self, given: Shape) -> Shape:
        if not isfinite(self.value):
            raise SpecError(f"value is {self.value}: it must be a finite number")
        return given


class _Filled(Element, frozen=True):
    """A layer whose parameters a statistic makes of sums; see `filled.py`."""

    units: int

    def shape(self, given: Shape) -> Shape:
        _positive("units", self.units)
        if len(given) != 1:
            raise SpecError("it takes flat samples: put flatten() before it")
        return (self.units,)

    def work(self, given: Shape) -> int:
        return self.units * given[0]

    def flops(self, given: Shape) -> int:
        return 3 * self.units * given[0]


class Centroids(_Filled, frozen=True):
    """How near each of `units` centroids is: less the squared distance, the nearest is the largest."""

    def parameters(self, given: Shape) -> dict[str, Shape]:
        return {"centroid": (self.units, given[0]), "offset": (self.units,)}


class Gaussians(_Filled, frozen=True):
    """The logarithm of how likely each of `units` classes is, with a Gaussian for each feature."""

    def parameters(self, given: Shape) -> dict[str, Shape]:
        features = (self.units, given[0])
        return {"mean": features, "precision": features, "constant": (self.units,)}


class Forest(_Filled, frozen=True):
    """The sum of `trees` of `depth` for each of `units` outputs; `grown` is how many rounds have made them."""

    trees: int
    depth: int

    def shape(self, given: Shape) -> Shape:
        _positive("trees", self.trees)
        if not 1 <= self.depth <= 12:
            raise SpecError(f"depth is {self.depth}: it must be from 1 to 12")
        return _Filled.shape(self, given)

    def parameters(self, given: Shape) -> dict[str, Shape]:
        count, inner = self.trees * self.units, 2**self.depth - 1
        nodes = (count, inner)
        return {
            "feature": nodes,
            "threshold": nodes,
            "value": (count, inner + 1),
            "bias": (self.units,),
            "grown": (1,),
        }

    def work(self, given: Shape) -> int:
        return 4 * given[0] + self.units

    def flops(self, given: Shape) -> int:
        return self.trees * self.units * (3 * self.depth + 1)


Layer: TypeAlias = (
    Dense
    | Conv1d
    | Conv2d
    | MaxPool
    | AvgPool
    | Flatten
    | Relu
    | Tanh
    | Sigmoid
    | Softmax
    | LayerNorm
    | Dropout
    | Standardise
    | Impute
    | Centroids
    | Gaussians
    | Forest
)

dense, conv1d, conv2d, max_pool, avg_pool = Dense, Conv1d, Conv2d, MaxPool, AvgPool
flatten, relu, tanh, sigmoid, softmax = Flatten, Relu, Tanh, Sigmoid, Softmax
layer_norm, dropout, impute = LayerNorm, Dropout, Impute
centroids, gaussians = Centroids, Gaussians


def forest(units: int = 1, trees: int = 50, depth: int = 4) -> Forest:
    """Return the layer of `trees` for each of `units` outputs."""
    return Forest(units=units, trees=trees, depth=depth)


def standardise(mean: ArrayLike, deviation: ArrayLike, fill: ArrayLike | None = None) -> Standardise:
    """Return the layer for arrays of the input's shape; `fill` for NaN is the mean where it is not given."""
    rows = (mean, deviation, mean if fill is None else fill)
    return Standardise(*(np.asarray(row, "<f4").tobytes() for row in rows))


def places(sizes: Shape, window: int, stride: int, name: str) -> Shape:
    """Return on how many places a window fits along axes of `sizes`. Raises SpecError where on none."""
    if min(sizes) < window:
        raise SpecError(f"{name} is {window}, more than the input has: make it {min(sizes)} or less")
    return tuple((n - window) // stride + 1 for n in sizes)


def _positive(name: str, value: int | float) -> None:
    if not value > 0:
        raise SpecError(f"{name} is {value}: it must be above 0")
