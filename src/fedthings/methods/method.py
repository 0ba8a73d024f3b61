"""A method, as a spec with its mathematics: what devices report and receive beside "x", and what their sums mean.

What is here is federated averaging; a method says in what it differs. It knows no wire, no clock and no federation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from fedthings.errors import SpecError
from fedthings.learn import engines
from fedthings.learn.data import Shard, sizes
from fedthings.learn.descent import Corrected, Descent, corrected, schedule
from fedthings.learn.local import Personal, Work, averaging, costs
from fedthings.learn.task import Recipe, Task
from fedthings.stage import Schema, State
from fedthings.vector import Array, Payload

Row: TypeAlias = NDArray[Any]
Way: TypeAlias = Literal[
    "asynchronous", "stale", "edge", "secure", "privacy", "partial", "mu", "samples", "keep", "own", "local"
]
"""How a federation may be beside a method: what a method cannot be with, it says in `lacks`."""


class Local(NamedTuple):
    """What a method may use on a device: the task, the proximal `mu`, and an engine on `threads` for its steps."""

    task: Task
    mu: float
    engine: str
    threads: int

    def descent(self, mu: float | None = None, recipe: Recipe | None = None) -> Descent:
        """Return the local steps with the pull `mu` toward the model received, by `recipe`; or those of the task."""
        task = self.task if recipe is None else msgspec.structs.replace(self.task, recipe=recipe)
        return engines.build(task, self.mu if mu is None else mu, self.engine, self.threads)

    def corrected(self, mu: float = 0.0) -> Corrected:
        """Return local steps of which each gradient has a row added."""
        return corrected(self.task, mu)

    def averaging(self) -> Work:
        """Return what a device does in federated averaging."""
        return averaging(self.task, self.mu, self.engine, self.threads)

    def steps(self, shards: Sequence[Shard], efforts: Sequence[float]) -> Array:
        """Return how many local steps each device does `(n,)`."""
        return schedule(self.task.recipe, sizes(shards), efforts)[2]

    def costs(self) -> Callable[[Array, Sequence[Shard]], Array]:
        """Return what gives the mean loss `(n,)` of rows `(dim,)` or `(n, dim)` on each device's training samples."""
        give = engines.outputs(self.task, self.engine, self.threads)
        return lambda rows, shards: costs(self.task, give, rows, shards)


class Method(Struct, frozen=True, tag_field="kind", tag=str.lower, forbid_unknown_fields=True):
    """Root of the methods, and itself federated averaging (McMahan et al. 2017, Alg. 1).

    `lacks` says what it cannot be beside, each with the reason; `corrects` whether gradients have a row added, which
    the kernels do not do; `chooses` whether what goes down beside the model is needed to evaluate it too; `plain`
    whether the server step can only be ft.sgd(1.0); `measures` in which phases a device has a model of its own.
    """

    lacks: ClassVar[dict[Way, str]] = {}
    corrects: ClassVar[bool] = False
    chooses: ClassVar[bool] = False
    plain: ClassVar[bool] = False
    measures: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """What it is called in a specification."""
        return str(self.__struct_config__.tag)

    def fits(self, recipe: Recipe, mu: float, goal: int) -> None:
        """Raise SpecError where the local `recipe`, the proximal `mu` or the reports of a version are not for it."""

    def fields(self, dim: int) -> Schema:
        """Return the arrays of a report beside "x", for a model of `dim` parameters."""
        return ()

    def sends(self, dim: int) -> dict[str, int]:
        """Return the rows of the server's state that go down with the model, and their dimensions."""
        return {}

    def state(self, row: Row, fresh: Callable[[int], Row]) -> dict[str, Row]:
        """Return the server's state before the first version, of a model like `row`; `fresh(i)` begins another."""
        return {}

    def work(self, local: Local) -> Work:
        """Return what a device does."""
        return local.averaging()

    def delta(self, total: Payload, weight: int, state: dict[str, Row]) -> Row:
        """Return the mean change, for the server step, of reports that weigh `weight`; `state` is changed in place.

        `total` has the mean of arrays that fold per "weight", and the sum of those per "one".
        """
        return total["x"]

    def flops(self, task: Task, samples: int, tested: int, effort: float) -> int:
        """Return the operations of a device's work, the received model measured on `tested` samples."""
        return task.flops(samples, tested, effort)

    def closing(self, task: Task, samples: int) -> int:
        """Return the operations, on its training samples, of what a device does for the closing evaluation."""
        return 0

    def personal(self, local: Local) -> Personal:
        """Return what gives each device's own model, in the phases that `measures` names; `work` has its states."""
        raise NotImplementedError(self.name)

    def kept(self, models: Payload, state: State) -> Row:
        """Return the row `(dim,)` that a device keeps for predictions, from what it received and its own state."""
        return models["x"]


class Average(Method, frozen=True):
    """Federated averaging: nothing beside (McMahan et al. 2017, Alg. 1)."""


def one_for_each(states: Sequence[State], name: str, like: Array) -> Array:
    """Return what each device keeps as `name` `(n, dim)`, zeros in the type of `like` where it keeps nothing yet."""
    out = np.zeros((len(states), like.shape[-1]), like.dtype)
    for row, state in zip(out, states, strict=True):
        if state is not None:
            row[...] = state[name]
    return out


def enough(name: str, devices: int, goal: int) -> None:
    """Raise SpecError unless the fleet of `devices` that the method `name` is told of can give `goal` reports."""
    if devices < max(goal, 1):
        raise SpecError(
            f"strategy.method.devices is {devices} in {name}, below pace.goal {goal}: give the size of the fleet"
        )
