"""The statistics that make a model: which there are, and which federations they go with.

Adding one is a file with a spec, its `check` and its `build`, and a line in `WAYS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from fedthings.errors import SpecError
from fedthings.learn.filled import Centroids, Forest, Gaussians
from fedthings.learn.model import Sequential
from fedthings.learn.task import Task
from fedthings.methods.method import Average
from fedthings.statistics import kmeans, naive_bayes, nearest_mean, newton, pca, ridge, trees
from fedthings.statistics.statistic import Known, Statistic

if TYPE_CHECKING:
    from fedthings.federation import Federation

StatisticSpec: TypeAlias = (
    ridge.Ridge
    | newton.Logistic
    | pca.Pca
    | naive_bayes.NaiveBayes
    | nearest_mean.NearestMean
    | kmeans.KMeans
    | trees.Boosting
)


class Way(NamedTuple):
    """How a statistic is made: `check(spec, task)` raises SpecError, `build(spec, task, seed)` makes its statistic.

    `before(spec, task)` makes the one whose answer it needs first, which `informed(spec, known)` puts into it.
    """

    check: Callable[[Any, Task], None]
    build: Callable[[Any, Task, int], Statistic]
    before: Callable[[Any, Task], Statistic] | None = None
    informed: Callable[[Any, Known], Any] | None = None


WAYS: dict[type, Way] = {
    ridge.Ridge: Way(ridge.check, ridge.build),
    newton.Logistic: Way(newton.check, newton.build),
    pca.Pca: Way(pca.check, pca.build),
    naive_bayes.NaiveBayes: Way(naive_bayes.check, naive_bayes.build),
    nearest_mean.NearestMean: Way(nearest_mean.check, nearest_mean.build),
    kmeans.KMeans: Way(kmeans.check, kmeans.build),
    trees.Boosting: Way(trees.check, trees.build, trees.before, trees.informed),
}


FILLED: dict[type, str] = {
    Centroids: "ft.k_means() or ft.nearest_mean()",
    Gaussians: "ft.naive_bayes()",
    Forest: "ft.boosting()",
}
"""The layers that have no gradient, and what fills them."""


def build(spec: StatisticSpec, task: Task, seed: int) -> Statistic:
    """Return the statistic of `spec`."""
    return WAYS[type(spec)].build(spec, task, seed)


def asks(spec: StatisticSpec) -> bool:
    """Return whether something must be asked before it begins."""
    return WAYS[type(spec)].before is not None


def before(spec: StatisticSpec | None, task: Task) -> Statistic:
    """Return the statistic of what is asked before `spec` begins."""
    way = WAYS.get(type(spec))
    if way is None or way.before is None:
        raise SpecError("a phase asks nothing: it has no query")
    return way.before(spec, task)


def informed(spec: StatisticSpec, known: Known) -> StatisticSpec:
    """Return `spec` with what was asked."""
    way = WAYS[type(spec)]
    assert way.informed is not None
    made: StatisticSpec = way.informed(spec, known)
    return made


def check(federation: Federation) -> None:
    """Raise SpecError, with the reason, where the statistic or the query of `federation` does not go with the rest."""
    spec = federation.strategy.statistic
    if spec is None and not federation.query:
        _trainable(federation.task.model)
        return
    name = "query" if federation.query else "strategy.statistic"
    if federation.query and spec is not None:
        raise SpecError("query is set beside strategy.statistic: a query trains nothing; leave one of them out")
    reasons = {
        "stages": (bool(federation.stages), "stages are for updates of a model, and sums travel as they are"),
        "privacy": (
            federation.privacy is not None,
            "the sums would leave without noise" + (" (see ft.local_dp)" if federation.query else ""),
        ),
        "edge": (federation.edge is not None, "sums need no edge rounds: a gateway sums them (docs/gateways.md)"),
        "down": (federation.down is not None and bool(federation.query), "a query sends no model"),
        "strategy.method": (federation.strategy.method != Average(), "it is of updates, and there are none"),
        "task.local": (bool(federation.task.local), "a statistic makes all of the model"),
        "pace.staleness": (federation.pace.staleness > 0, "each round is of the row before"),
    }
    for field, (set_, reason) in reasons.items():
        if set_:
            raise SpecError(f"{field} is set beside {name}: {reason}; leave one of them out")
    if spec is None:
        return
    if not isinstance(federation.task.model, Sequential):
        raise SpecError("strategy.statistic fills layers, and the model is Python code: use a list of layers")
    WAYS[type(spec)].check(spec, federation.task)


def _trainable(model: Any) -> None:
    """Raise SpecError where `model` has a layer that only a statistic fills."""
    for index, layer in enumerate(getattr(model, "layers", ())):
        for kind, name in FILLED.items():
            if isinstance(layer, kind):
                raise SpecError(f"layer {index} of the model has no gradient: set strategy to {name}")
