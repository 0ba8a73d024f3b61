"""The layers of a portable model as data: what each is called, the shapes it takes and gives, its parameters.

The mathematics is in `passes.py` and the files beside it; nothing here computes. What only prepares the input, or
turns outputs into the units of the target, is in `transforms.py`.
"""

from __future__ import annotations

from itertools import pairwise
from math import ceil, prod, sqrt
from typing import Literal, TypeAlias

from fedthings.errors import SpecError
from fedthings.learn.element import Element, Shape, places, positive, replaced
from fedthings.learn.filled import Centroids, Forest, Gaussians
from fedthings.learn.transforms import Cyclic, Decompose, Impute, Log1p, OneHot, Rescale, Standardise

RUNNING = ("mean", "variance")
"""The arrays of a batch normalisation that no optimiser touches."""
Activation: TypeAlias = Literal["linear", "relu", "tanh", "sigmoid", "softmax"]
Padding: TypeAlias = Literal["valid", "same"]
Padding1d: TypeAlias = Literal["valid", "same", "causal"]


class Dense(Element, frozen=True):
    """Y = X W + b, then `activation`; W `(inputs, units)`."""

    units: int
    activation: Activation = "linear"

    def shape(self, given: Shape) -> Shape:
        positive("units", self.units)
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
            positive(name, getattr(self, name))
        if len(given) != self.rank + 1:
            wanted = "(steps, channels)" if self.rank == 1 else "(height, width, channels)"
            raise SpecError(f"it takes samples {wanted}: give the model such an input, or use dense")
        if self.padding != "valid":
            return (*(ceil(n / self.stride) for n in given[:-1]), self.filters)
        return (*places(given[:-1], self.reach, self.stride, "kernel"), self.filters)

    @property
    def apart(self) -> int:
        """How far the numbers that a window takes lie apart."""
        return 1

    @property
    def reach(self) -> int:
        """How long a window is from its first number to its last."""
        return (self.kernel - 1) * self.apart + 1

    def margins(self, given: Shape) -> tuple[tuple[int, int], ...]:
        """Return the zeros put before and after each spatial axis; of an odd number one more after."""
        if self.padding == "valid":
            return ((0, 0),) * self.rank
        whole = zip(given[:-1], self.shape(given)[:-1], strict=True)
        totals = [max((out - 1) * self.stride + self.reach - size, 0) for size, out in whole]
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


class Conv1d(_Conv, frozen=True, omit_defaults=True):
    """Convolution of signals `(T, C)`; weight `(kernel, C, filters)`.

    Of a window only every `dilation`-th step is taken. "causal" is "same" with all zeros before the signal: what is
    given for a step has seen nothing after it (van den Oord et al. 2016, section 2.1).
    """

    padding: Padding1d = "valid"  # type: ignore[assignment]
    dilation: int = 1

    def shape(self, given: Shape) -> Shape:
        positive("dilation", self.dilation)
        return super().shape(given)

    @property
    def rank(self) -> int:
        return 1

    @property
    def apart(self) -> int:
        return self.dilation

    def margins(self, given: Shape) -> tuple[tuple[int, int], ...]:
        return ((self.reach - 1, 0),) if self.padding == "causal" else super().margins(given)


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
        positive("size", self.size)
        positive("stride", self.step)
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
        positive("eps", self.eps)
        return given

    def parameters(self, given: Shape) -> dict[str, Shape]:
        return {"weight": (given[-1],), "bias": (given[-1],)}

    def flops(self, given: Shape) -> int:
        return 7 * prod(given)  # the mean, less it, the squares and their sum, the quotient, weight and bias

    def limit(self, field: str, shape: Shape, relu: bool) -> float:
        return 0.0

    def level(self, field: str) -> float:
        return float(field in ("weight", "variance"))


class GroupNorm(LayerNorm, frozen=True):
    """The same over all places and the channels of one of `groups` groups, for each sample (Wu & He 2018)."""

    groups: int = 1

    def shape(self, given: Shape) -> Shape:
        positive("groups", self.groups)
        if given[-1] % self.groups:
            raise SpecError(f"groups is {self.groups}: it must divide the {given[-1]} channels")
        return super().shape(given)


class BatchNorm(LayerNorm, frozen=True):
    """The same for each channel over a device's batch; in use, with the running statistics (Ioffe & Szegedy 2015).

    These begin at 0 and 1, move by `rate` of the way to each batch's, and travel with the parameters: no optimiser
    touches them, and the fleet's are the mean of the devices'. A batch with one number a channel has no variance:
    it is taken as in use.
    """

    rate: float = 0.1

    def shape(self, given: Shape) -> Shape:
        if not 0 < self.rate <= 1:
            raise SpecError(f"rate is {self.rate}: it must be above 0 and at most 1")
        return super().shape(given)

    def parameters(self, given: Shape) -> dict[str, Shape]:
        return dict.fromkeys(("weight", "bias", *RUNNING), (given[-1],))


class Dropout(Element, frozen=True):
    """In training, a share `rate` of the numbers becomes 0 and the rest grows to keep the mean."""

    rate: float

    def shape(self, given: Shape) -> Shape:
        if not 0 <= self.rate < 1:
            raise SpecError(f"rate is {self.rate}: it must be from 0 to below 1")
        return given


class Embedding(Element, frozen=True, omit_defaults=True):
    """A vector of `width` numbers, learned, for each of the whole numbers below `rows`; for a gap, that of 0.

    Of the last axis it takes the number in `column`, and its vector stands at the end of the others; without a column
    it takes every number: `(T,)` becomes `(T, width)`.
    """

    rows: int
    width: int
    column: int | None = None

    def shape(self, given: Shape) -> Shape:
        positive("rows", self.rows)
        positive("width", self.width)
        return (*given, self.width) if self.column is None else replaced(given, self.column, self.width)

    def parameters(self, given: Shape) -> dict[str, Shape]:
        return {"vectors": (self.rows, self.width)}

    def flops(self, given: Shape) -> int:
        return prod(self.shape(given))

    def limit(self, field: str, shape: Shape, relu: bool) -> float:
        return sqrt(3 / self.width)  # so that a vector is about 1 long


class Gru(Element, frozen=True, omit_defaults=True):
    """A gated recurrent unit over signals `(T, C)` (Cho et al. 2014), as PyTorch has it.

    It gives its last state `(units,)`, or with `sequence` that after each step `(T, units)`. Arrays hold the reset
    gate, the update gate and the candidate beside each other.
    """

    units: int
    sequence: bool = False

    def shape(self, given: Shape) -> Shape:
        positive("units", self.units)
        if len(given) != 2:
            raise SpecError("it takes samples (steps, channels): give the model such an input, or a window")
        return (given[0], self.units) if self.sequence else (self.units,)

    def parameters(self, given: Shape) -> dict[str, Shape]:
        gates = 3 * self.units
        return {
            "weight": (given[-1], gates),
            "recurrent": (self.units, gates),
            "bias": (gates,),
            "recurrent_bias": (gates,),
        }

    def work(self, given: Shape) -> int:
        return given[0] * max(given[1], 7 * self.units)

    def flops(self, given: Shape) -> int:
        steps, channels = given
        return steps * self.units * (6 * (channels + self.units) + 20)

    def limit(self, field: str, shape: Shape, relu: bool) -> float:
        return 0.0 if "bias" in field else 1 / sqrt(self.units)


class Prototypes(Element, frozen=True):
    """What devices exchange in FedProto (Tan et al. 2022): one vector of `width` numbers for each of `classes`.

    It stands last and alone behind what prepares the input. Each device has a network of its own, which never leaves
    it: dense layers of the sizes of one of `bodies`, then one of `width`, relu between, and one for the classes. Its
    name decides which. A report holds the sums of the device's vectors by class, and the share of its samples that
    each class has: their mean over devices is that over all samples. `pull` weighs the distance to the fleet's vector
    of a sample's class in the local loss (eq. 7).
    """

    width: int
    classes: int
    bodies: tuple[tuple[int, ...], ...] = ((64,),)
    pull: float = 1.0

    def shape(self, given: Shape) -> Shape:
        for name, values in (("width", [self.width]), ("classes", [self.classes]), ("bodies", sum(self.bodies, ()))):
            for value in values:
                positive(name, value)
        if not self.bodies:
            raise SpecError("bodies names none: give the sizes of at least one network, such as ((64,),)")
        if not 0 <= self.pull < 1e6:
            raise SpecError(f"pull is {self.pull}: it must be 0 or more")
        if len(given) != 1:
            raise SpecError("it takes flat samples: put flatten() before it")
        return (self.classes,)

    def parameters(self, given: Shape) -> dict[str, Shape]:
        return {"sums": (self.classes, self.width), "shares": (self.classes,)}

    def work(self, given: Shape) -> int:
        return max(*given, self.width, self.classes, *sum(self.bodies, ()))

    def flops(self, given: Shape) -> int:
        def dense(sizes: tuple[int, ...]) -> int:
            return sum(2 * inputs * units for inputs, units in pairwise(sizes))

        return max(dense((*given, *body, self.width, self.classes)) for body in self.bodies)


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
    | GroupNorm
    | BatchNorm
    | Dropout
    | Embedding
    | Gru
    | Standardise
    | Impute
    | Log1p
    | Cyclic
    | OneHot
    | Decompose
    | Rescale
    | Prototypes
    | Centroids
    | Gaussians
    | Forest
)

dense, conv1d, conv2d, max_pool, avg_pool = Dense, Conv1d, Conv2d, MaxPool, AvgPool
flatten, relu, tanh, sigmoid, softmax = Flatten, Relu, Tanh, Sigmoid, Softmax
layer_norm, batch_norm, dropout, embedding, gru = LayerNorm, BatchNorm, Dropout, Embedding, Gru
prototypes = Prototypes


def group_norm(groups: int, eps: float = 1e-5) -> GroupNorm:
    """Return group normalisation over `groups` groups of channels."""
    return GroupNorm(eps, groups)
