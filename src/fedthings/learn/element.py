"""What every layer of a portable model is: data with a shape, parameters, a first value of these, and a cost."""

from __future__ import annotations

import re
from math import prod, sqrt
from typing import ClassVar, TypeAlias

from msgspec import Struct

from fedthings.errors import SpecError

Shape: TypeAlias = tuple[int, ...]


def snake(name: str) -> str:
    """Return the tag of a class name: MaxPool is "max_pool", Conv2d is "conv2d"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


class Element(Struct, frozen=True, forbid_unknown_fields=True, tag=snake):
    """What all layers share: by default the shape stays, and nothing is trained.

    `fixed`: it only prepares the input; where it stands in front it runs once for all epochs.
    """

    fixed: ClassVar[bool] = False

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

    def limit(self, field: str, shape: Shape, relu: bool) -> float:
        """Return the limit of the uniform numbers that an array begins with, 0 where they are all `level`.

        Before `relu` it is sqrt(6 / inputs) (He et al. 2015), otherwise sqrt(6 / (inputs + units)) (Glorot & Bengio
        2010).
        """
        if field != "weight":
            return 0.0
        inputs, units = prod(shape[:-1]), prod(shape[:-2]) * shape[-1]
        return sqrt(6 / (inputs if relu else inputs + units))

    def level(self, field: str) -> float:
        """Return the number that an array begins with where it is not drawn."""
        return 0.0


def places(sizes: Shape, window: int, stride: int, name: str) -> Shape:
    """Return on how many places a window fits along axes of `sizes`. Raises SpecError where on none."""
    if min(sizes) < window:
        raise SpecError(f"{name} is {window}, more than the input has: make it {min(sizes)} or less")
    return tuple((n - window) // stride + 1 for n in sizes)


def replaced(given: Shape, column: int, width: int) -> Shape:
    """Return the shape `given` less the `column` of its last axis, with `width` others. Raises SpecError."""
    if not 0 <= column < given[-1]:
        raise SpecError(f"column is {column}: the input has the columns 0 to {given[-1] - 1}")
    return (*given[:-1], given[-1] - 1 + width)


def positive(name: str, value: int | float) -> None:
    if not value > 0:
        raise SpecError(f"{name} is {value}: it must be above 0")
