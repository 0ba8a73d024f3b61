"""Layers as data whose parameters a statistic makes, from sums over the fleet; what they give is in `filling.py`."""

from __future__ import annotations

from fedthings.errors import SpecError
from fedthings.learn.element import Element, Shape, positive


class Filled(Element, frozen=True):
    """A layer whose parameters a statistic makes of sums."""

    units: int

    def shape(self, given: Shape) -> Shape:
        positive("units", self.units)
        if len(given) != 1:
            raise SpecError("it takes flat samples: put flatten() before it")
        return (self.units,)

    def work(self, given: Shape) -> int:
        return self.units * given[0]

    def flops(self, given: Shape) -> int:
        return 3 * self.units * given[0]


class Centroids(Filled, frozen=True):
    """How near each of `units` centroids is: less the squared distance, the nearest is the largest."""

    def parameters(self, given: Shape) -> dict[str, Shape]:
        return {"centroid": (self.units, given[0]), "offset": (self.units,)}


class Gaussians(Filled, frozen=True):
    """The logarithm of how likely each of `units` classes is, with a Gaussian for each feature."""

    def parameters(self, given: Shape) -> dict[str, Shape]:
        features = (self.units, given[0])
        return {"centre": features, "precision": features, "constant": (self.units,)}


class Forest(Filled, frozen=True):
    """The sum of `trees` of `depth` for each of `units` outputs; `grown` is how many rounds have made them."""

    trees: int
    depth: int

    def shape(self, given: Shape) -> Shape:
        positive("trees", self.trees)
        if not 1 <= self.depth <= 12:
            raise SpecError(f"depth is {self.depth}: it must be from 1 to 12")
        return Filled.shape(self, given)

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


centroids, gaussians = Centroids, Gaussians


def forest(units: int = 1, trees: int = 50, depth: int = 4) -> Forest:
    """Return the layer of `trees` for each of `units` outputs."""
    return Forest(units=units, trees=trees, depth=depth)
