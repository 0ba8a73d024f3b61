"""A model that is Python code: named in the task, installed where it runs, and imported only when it is needed.

Only a name travels (law 9). Whether a device may import it is its owner's to say; see `device.rules`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from inspect import signature
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from fedthings.errors import SpecError, nearest
from fedthings.learn.element import Shape
from fedthings.learn.lift import EXTRAS, Lifted, by_evaluate, guarded
from fedthings.learn.losses import fit
from fedthings.learn.metrics import METRICS, suits
from fedthings.vector import Array, Layout, Vector

if TYPE_CHECKING:
    from fedthings.learn.task import Task

CHUNK = 1024
"""Samples of a device that are evaluated at once."""
MOST = 2**63 - 1
"""The largest number that every file can hold."""


class Own(NamedTuple):
    """The model that `factory`, "package.module:factory", returns when it is called with `settings`.

    It is a list where all other models are tables: `model = ["kitchen.models:net", { width = 64 }]` in TOML. What it
    has beside these two is imported when it is first asked for.
    """

    factory: str
    settings: dict[str, Any] = {}  # noqa: RUF012 (nobody writes to it; `spelled` says what may be in it)

    def __hash__(self) -> int:
        return hash((self.factory, tuple(sorted(self.settings.items()))))

    @property
    def made(self) -> Lifted:
        """What the factory returns. Raises SpecError with what is missing."""
        return _made(self.factory, tuple(sorted(self.settings.items())))

    @property
    def input(self) -> Shape:
        """The shape of a sample."""
        return self.made.input

    @property
    def outputs(self) -> Shape:
        """The shape of what the model gives for one sample."""
        return self.made.outputs

    @property
    def layout(self) -> Layout:
        """Where each array lies in a row."""
        return self.made.layout

    @property
    def flops(self) -> int:
        """The operations of a sample's forward pass: as the factory says, or two for each parameter."""
        return self.made.flops or 2 * self.layout.dim

    @property
    def training_flops(self) -> int:
        """The operations of a sample's forward and backward pass: backward costs twice what forward does."""
        return 3 * self.flops

    @property
    def work(self) -> int:
        """The numbers that one sample needs at least."""
        return max(prod(self.input), prod(self.outputs))

    @property
    def held(self) -> int:
        """The numbers that one sample takes in training at least."""
        return prod(self.input) + prod(self.outputs)

    @property
    def prototypes(self) -> None:
        """What devices exchange instead of a model: the code's own matter."""

    @property
    def rescale(self) -> None:
        """What turns outputs into the units of the targets: the code's own matter."""

    @property
    def stem(self) -> int:
        """How many layers prepare the input: none that fedthings knows of."""
        return 0

    @property
    def passes(self) -> tuple[()]:
        """The layers that fedthings computes."""
        return ()

    def init(self, seed: int) -> Vector:
        """Return a row `(dim,)` to begin with."""
        with guarded(f"`init` of {self.factory}"):
            return self.made.begin(seed)

    def predict(self, row: Array, X: Array) -> Array:
        """Return outputs `(n, *outputs)` of `row` `(dim,)` for samples `X` `(n, *input)`. Raises SpecError."""
        X = np.asarray(X)
        if X.shape[1:] != self.input:
            raise SpecError(f"samples have shape {X.shape[1:]}, the model takes {self.input}")
        if self.made.predict is None:
            raise SpecError(f"the model {self.factory} has no `predict`: give it to `lift`")
        parts = [predicted(self, row, X[i : i + CHUNK]) for i in range(0, len(X), CHUNK)]
        return np.concatenate(parts) if parts else np.empty((0, *self.outputs), np.float32)

    def fitted(self, row: Array) -> Any:
        """Return the framework's own object, such as a module, that `row` `(dim,)` is. Raises SpecError."""
        if self.made.fitted is None:
            raise SpecError(f"{self.factory} cannot be made from a row: give `fitted` to `lift`")
        with guarded(f"`fitted` of {self.factory}"):
            return self.made.fitted(row)


def own(factory: str, **settings: bool | int | float) -> Own:
    """Return the model that the installed `factory`, "package.module:factory", makes of `settings`.

    Nothing is imported yet. Raises SpecError.
    """
    plain("own", Own(factory, settings))
    return Own(factory, settings)


def spelled(field: str, factory: str) -> None:
    """Raise SpecError unless `factory`, which stands in `field`, has the form of a name; nothing is imported."""
    name = r"[A-Za-z_]\w*"
    if not isinstance(factory, str) or not re.fullmatch(rf"{name}(\.{name})*:{name}", factory, re.ASCII):
        raise SpecError(f'{field} names {factory!r:.80}: write it as "package.module:factory"')


def plain(field: str, model: Own) -> None:
    """Raise SpecError unless `model`, which stands in `field`, is a name and numbers; nothing is imported."""
    spelled(field, model.factory)
    for name, value in model.settings.items():
        if type(value) not in (bool, int, float) or not -MOST <= value <= MOST:
            raise SpecError(f"{field}: {name} is {value!r:.60}: a setting is a plain number, true or false")


def verify(task: Task) -> None:
    """Raise SpecError unless the model of `task` can be had here, and goes with its loss and metrics."""
    model: Any = task.model
    made, named = model.made, task.metrics
    if made.evaluate is None:
        fit(model, task.loss)
        for name in named:
            if name not in METRICS:
                raise SpecError(f"task.metrics has {name!r}: {nearest(name, METRICS)}")
            if METRICS[name].measure is by_evaluate:
                raise SpecError(f"task.metrics has {name!r}, which only the `evaluate` of another model measures")
            if not suits(METRICS[name], task.loss, made.outputs[-1]):
                raise SpecError(
                    f"task.metrics has {name!r}, not for {task.loss} with {made.outputs[-1]} outputs: "
                    "leave metrics out to get those usual for the loss"
                )
        return
    for name in named:
        if name not in made.metrics:
            hint = nearest(name, made.metrics)
            raise SpecError(f"task.metrics has {name!r}, which {model.factory} does not measure: {hint}")
    if not named:
        known = ", ".join(made.metrics)
        raise SpecError(f"task.metrics is empty: name what `evaluate` of {model.factory} measures, {known}")


def lacking(model: Own) -> str:
    """Return why `model` cannot be had here, "" where it can."""
    try:
        model.made  # noqa: B018 (asked for what it raises)
    except SpecError as error:
        return str(error)
    return ""


@cache
def _made(factory: str, settings: tuple[tuple[str, float], ...]) -> Lifted:
    """Import the module and call the factory, once in a process. Raises SpecError."""
    function = _found(factory)
    given = ", ".join(f"{key}={value}" for key, value in settings)
    try:
        signature(function).bind(**dict(settings))
    except TypeError as error:
        raise SpecError(
            f"the factory {factory} cannot be called with ({given}): {error}; it takes {signature(function)}"
        ) from None
    except ValueError:
        pass  # one made in C does not say what it takes
    with guarded(f"the factory {factory}, called with ({given}),"):
        made = function(**dict(settings))
    if not isinstance(made, Lifted):
        raise SpecError(
            f"the factory {factory} returned {type(made).__name__}: return what ft.lift or ft.with_torch gives, "
            "or one of ft.with_keras, ft.with_sklearn, ft.with_jax"
        )
    return made


def _found(factory: str) -> Callable[..., Any]:
    """Import the module and return its function. Raises SpecError."""
    place, _, name = factory.partition(":")
    try:
        module = import_module(place)
    except ModuleNotFoundError as error:
        raise SpecError(
            f"the model {factory} is not installed here: there is no module {error.name}; {_remedy(place, error.name)}"
        ) from None
    except (Exception, SystemExit) as error:
        raise SpecError(
            f"the model {factory} cannot be imported: {type(error).__name__}: {error}; repair {place}"
        ) from error
    function: Any = getattr(module, name, None)
    if not callable(function):
        there = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == place]
        hint = f"; {nearest(name, there)}" if there else ""
        raise SpecError(f"the model {factory} is not there: {place} has no function {name!r}{hint}")
    return cast("Callable[..., Any]", function)


def _remedy(place: str, lacking: str | None) -> str:
    """Return what to do where importing `place` finds no module `lacking`."""
    if f"{place}.".startswith(f"{lacking}."):
        return "install the package that holds it, or put its folder in PYTHONPATH"
    if lacking in EXTRAS:
        return f'the model needs it: pip install "fedthings[{EXTRAS[lacking]}]"'
    if lacking == "tensorflow":
        return "Keras takes it where none is named: import keras within `build`, or set KERAS_BACKEND to torch or jax"
    return "install it, which the model needs"


def predicted(model: Own, row: Array, X: Array) -> Array:
    """Return the outputs of `model` for some samples, as its `predict` gives them. Raises SpecError."""
    assert model.made.predict is not None
    with guarded(f"`predict` of {model.factory}"):
        found = np.asarray(model.made.predict(row, X), np.float32)
    if found.shape != (len(X), *model.outputs):
        raise SpecError(
            f"`predict` of {model.factory} returned the shape {found.shape} for {len(X)} samples: "
            f"{(len(X), *model.outputs)} are due"
        )
    return found
