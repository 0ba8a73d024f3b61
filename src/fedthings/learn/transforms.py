"""What stands before a model or behind it, as data, and is not trained: preparation of the input, units of the output.

It runs on the device, travels with the model and is saved with it.
"""

from __future__ import annotations

from math import isfinite, prod
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from fedthings.errors import SpecError
from fedthings.learn.element import Element, Shape, positive, replaced
from fedthings.vector import Array


class Standardise(Element, frozen=True):
    """(x - mean) / deviation, with NaN taken as `fill`; not trained.

    Each field is little-endian float32, one number for each of the flattened input's features.
    """

    mean: bytes
    deviation: bytes
    fill: bytes

    fixed: ClassVar[bool] = True

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

    fixed: ClassVar[bool] = True

    def shape(self, given: Shape) -> Shape:
        if not isfinite(self.value):
            raise SpecError(f"value is {self.value}: it must be a finite number")
        return given


class _Transform(Element, frozen=True):
    """What other features are made by; it must stand in front of all that is not `fixed`. A gap stays a gap."""

    fixed: ClassVar[bool] = True


class Log1p(_Transform, frozen=True, omit_defaults=True):
    """sign(x) log(1 + |x|), of all features or of those in `columns`: for counts and bytes, which span magnitudes."""

    columns: tuple[int, ...] = ()

    def shape(self, given: Shape) -> Shape:
        for column in self.columns:
            replaced(given, column, 1)
        return given


class Cyclic(_Transform, frozen=True):
    """The number in `column`, of a clock that begins anew after `period`, as sine and cosine at the end of the others.

    So 23 h and 1 h are as near as 11 h and 13 h.
    """

    column: int
    period: float

    def shape(self, given: Shape) -> Shape:
        positive("period", self.period)
        return replaced(given, self.column, 2)

    def flops(self, given: Shape) -> int:
        return 2 * prod(self.shape(given))


class OneHot(_Transform, frozen=True):
    """The whole number in `column`, below `classes`, as so many 0 and 1 at the end of the others; of another, all 0."""

    column: int
    classes: int

    def shape(self, given: Shape) -> Shape:
        positive("classes", self.classes)
        return replaced(given, self.column, self.classes)


class Decompose(_Transform, frozen=True):
    """A signal `(T, C)` as remainder and trend beside each other, `(T, 2 C)` (Zeng et al. 2023, section 4).

    The trend is the mean of the `kernel` steps around each, the first and the last step repeated beyond the ends; of
    steps with gaps, that of the others.
    """

    kernel: int = 25

    def shape(self, given: Shape) -> Shape:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise SpecError(f"kernel is {self.kernel}: it must be odd, so that as many steps lie before as after")
        if len(given) != 2:
            raise SpecError("it takes samples (steps, channels): give the model such an input, or a window")
        return given[0], 2 * given[1]

    def flops(self, given: Shape) -> int:
        return prod(given) * (self.kernel + 2)  # the sum, the quotient, what is left

    def around(self, steps: int) -> Array:
        """Return which of `steps` steps are averaged, in order: window i is the `kernel` of them from i on."""
        half = self.kernel // 2
        return np.clip(np.arange(-half, steps + half), 0, steps - 1)


class Rescale(Element, frozen=True, omit_defaults=True):
    """x deviation + mean, last in a model: it learns scaled targets and predicts in their own units.

    Each field is little-endian float32, one number for each output. Without numbers, `normalise="fleet"` learns them.
    """

    mean: bytes = b""
    deviation: bytes = b""

    def arrays(self) -> tuple[Array, Array]:
        """Return mean and deviation, each `(outputs,)`. Raises SpecError where nothing has given them."""
        if not self.mean:
            raise SpecError('rescale() has no numbers: give it some, or set normalise="fleet", which learns them')
        return np.frombuffer(self.mean, "<f4"), np.frombuffer(self.deviation, "<f4")

    def shape(self, given: Shape) -> Shape:
        if not self.mean and not self.deviation:
            return given
        for name in ("mean", "deviation"):
            size = len(getattr(self, name))
            if size != 4 * prod(given):
                raise SpecError(f"{name} has {size / 4:g} numbers: give {prod(given)}, one for each output")
        mean, deviation = self.arrays()
        if not (np.isfinite(mean).all() and np.isfinite(deviation).all() and (deviation > 0).all()):
            raise SpecError("mean and deviation must be finite, and each deviation above 0")
        return given


def standardise(mean: ArrayLike, deviation: ArrayLike, fill: ArrayLike | None = None) -> Standardise:
    """Return the layer for arrays of the input's shape; `fill` for NaN is the mean where it is not given."""
    rows = (mean, deviation, mean if fill is None else fill)
    return Standardise(*(np.asarray(row, "<f4").tobytes() for row in rows))


def rescale(mean: ArrayLike | None = None, deviation: ArrayLike | None = None) -> Rescale:
    """Return the layer for targets of this `mean` and `deviation`, one for each output; None: the fleet's are learned.

    Raises SpecError.
    """
    if mean is None and deviation is None:
        return Rescale()
    if mean is None or deviation is None:
        raise SpecError("rescale has only one of mean and deviation: give both, or neither")
    return Rescale(*(np.asarray(row, "<f4").tobytes() for row in (mean, deviation)))


TRANSFORMS = (Log1p, Cyclic, OneHot, Decompose)
impute, log1p, cyclic, one_hot, decompose = Impute, Log1p, Cyclic, OneHot, Decompose
