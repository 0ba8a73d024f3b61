"""What a device is asked to learn, as data: the model, the loss and the recipe of local training."""

from __future__ import annotations

from math import ceil, inf
from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import Struct

from fedthings.errors import SpecError, nearest
from fedthings.learn.losses import LOSSES, fit
from fedthings.learn.metrics import METRICS, suits
from fedthings.learn.model import Sequential
from fedthings.learn.own import Own, plain
from fedthings.learn.series import Window

if TYPE_CHECKING:
    # Where the mathematics needs the layers there is no Own, and all that others ask of a model it has too.
    Model: TypeAlias = Sequential
else:
    Model = Sequential | Own | str  # a text is refused, with the right way to write it

OPTIMIZERS = ("sgd", "momentum", "adam")
UPDATE = {"sgd": 2, "momentum": 4, "adam": 14}
"""Operations of a step on each parameter."""
MOMENTS = {"sgd": 0, "momentum": 1, "adam": 2}
"""Numbers that an optimiser keeps for each parameter."""


def positive(field: str, value: float) -> None:
    """Raise SpecError unless `value` is above 0, and finite."""
    if not 0 < value < inf:
        raise SpecError(f"{field} is {value}: it must be above 0" + (", and finite" if value == inf else ""))


def within(field: str, value: float, low: float, high: float) -> None:
    """Raise SpecError unless `low <= value <= high`."""
    if not low <= value <= high:
        raise SpecError(f"{field} is {value}: it must be from {low} to {high}")


class Recipe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a device trains: `epochs` passes in batches of `batch` (0: all at once) at rate `lr`.

    `momentum` for "momentum"; `beta1`, `beta2`, `eps` for "adam" (Kingma & Ba 2015, Alg. 1).
    `keep` is the share of its own last model that a device starts from (0: the received model alone).
    """

    optimizer: str = "sgd"
    lr: float = 0.1
    batch: int = 32
    epochs: int = 1
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    keep: float = 0.0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise SpecError(f"recipe.optimizer is {self.optimizer!r}: {nearest(self.optimizer, OPTIMIZERS)}")
        positive("recipe.lr", self.lr)
        positive("recipe.epochs", self.epochs)
        within("recipe.batch", self.batch, 0, 1 << 20)
        for name in ("momentum", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise SpecError(f"recipe.{name} is {getattr(self, name)}: it must be from 0 up to, not including, 1")
        positive("recipe.eps", self.eps)
        within("recipe.weight_decay", self.weight_decay, 0, 1)
        within("recipe.keep", self.keep, 0, 1)


class Task(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model to train: `normalise="fleet"` learns scaling and imputation from all devices first.

    `window` says which of a device's rows, in the order of time, make a sample. `metrics` are measured on each device's
    own test samples; empty means those usual for the loss. Layers that `local` names stay on each device: "head",
    "body", a kind such as "layer_norm", or one of a kind, "dense.1". With `local_epochs` these are trained alone first,
    so many epochs, then the others alone (Collins et al. 2021, Alg. 1).
    """

    model: Model
    loss: str
    recipe: Recipe = Recipe()
    normalise: Literal["none", "fleet"] = "none"
    window: Window = Window()
    metrics: tuple[str, ...] = ()
    local: tuple[str, ...] = ()
    local_epochs: int = 0

    def __post_init__(self) -> None:
        if self.local_epochs:
            within("task.local_epochs", self.local_epochs, 1, 1 << 16)
            recipe = self.recipe
            for said, wrong in (("no local layers", not self.local), ("recipe.weight_decay", recipe.weight_decay > 0)):
                if wrong:
                    raise SpecError(f"task.local_epochs is {self.local_epochs} beside {said}: set it to 0")
        if self.loss not in LOSSES:
            raise SpecError(f"task.loss is {self.loss!r}: {nearest(self.loss, LOSSES)}")
        if isinstance(self.model, Own):  # what it is shows where it is imported: own.verify
            plain("task.model", self.model)
            if self.normalise == "fleet":
                raise SpecError(
                    f'task.normalise is "fleet", which cannot be put before the code {self.model.factory}: '
                    "scale the data, or let the model begin with a normalisation"
                )
            if self.local:
                raise SpecError(
                    f"task.local is {list(self.local)} beside {self.model.factory}: it names layers of a list"
                )
            return
        if not isinstance(self.model, Sequential):
            raise SpecError(
                f"task.model is {self.model!r:.60}: give ft.mlp(...) or ft.sequential(...); Python code is named, "
                'ft.own("package.module:factory"), in TOML ["package.module:factory"]'
            )
        self.window.fits(self.model.input)
        if self.model.prototypes is not None and (self.loss != "cross_entropy" or self.recipe.keep):
            raise SpecError(
                "task.model is of prototypes: its loss is cross_entropy, and each device keeps its whole network, so "
                "leave recipe.keep at 0"
            )
        fit(self.model, self.loss)
        if self.model.rescale is not None and not self.model.rescale.mean and self.normalise != "fleet":
            raise SpecError(
                'task.model ends with rescale() without numbers: give mean and deviation, or set normalise="fleet"'
            )
        for name in self.metrics:
            if name not in METRICS:
                raise SpecError(f"task.metrics has {name!r}: {nearest(name, METRICS)}")
            if not suits(METRICS[name], self.loss, self.model.outputs[-1]):
                raise SpecError(
                    f"task.metrics has {name!r}, not for {self.loss} with {self.model.outputs[-1]} outputs: "
                    "leave metrics out to get those usual for the loss"
                )

    def flops(self, samples: int, tested: int, effort: float = 1.0) -> int:
        """Return the operations of local training on `samples` rows, the received model measured on `tested` others.

        Of the steps the share `effort` is done, rounded up as `descent.schedule` does.
        """
        recipe, model = self.recipe, self.model
        samples, tested = self.window.count(samples), self.window.count(tested)
        batch = recipe.batch or max(samples, 1)
        epoch, epochs = -(-samples // batch), recipe.epochs + self.local_epochs
        steps, seen = epochs * epoch, epochs * samples
        if effort < 1 and epoch:
            steps = max(1, ceil(effort * epoch * epochs - 1e-9))
            seen = steps // epoch * samples + min(steps % epoch * batch, samples)
        passes = seen * model.training_flops + tested * model.flops
        return passes + steps * UPDATE[recipe.optimizer] * model.layout.dim

    def memory(self, samples: int) -> int:
        """Return the bytes that training on `samples` rows holds at least, in float32.

        These are parameters, gradients and moments, and a batch in every layer; samples may come from flash.
        """
        samples = self.window.count(samples)
        batch = min(self.recipe.batch or samples, samples)
        rows = 2 + MOMENTS[self.recipe.optimizer]
        return 4 * (rows * self.model.layout.dim + batch * self.model.held)
