"""A user's own functions as a model: named arrays of any framework, flattened to a row `(dim,)` and back."""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias

import msgspec
import numpy as np

from fedthings.errors import FedthingsError, SpecError, nearest
from fedthings.learn.data import Shard
from fedthings.learn.element import Shape
from fedthings.learn.metrics import METRICS, Metric, fixed, mean
from fedthings.vector import Array, Key, Layout, Vector

if TYPE_CHECKING:
    from fedthings.learn.task import Task

Params: TypeAlias = Mapping[str, Array]
Steps: TypeAlias = Callable[[Array, Array, Sequence[Shard], Sequence[Key], Sequence[float], Array], tuple[Array, Array]]
"""`(received, start, shards, keys, efforts, change) -> (weights (n,), seen (n, 2))`: train n devices.

From `start` `(n, dim)`, which are left at the last step; `change` `(n, dim)` becomes what came of it less what was
`received` `(dim,)` or `(n, dim)`. `seen`: samples seen, and the sum of their losses at 2**20. A weight of -1 means
the number of the device's samples.
"""
EXTRAS = {"torch": "torch", "keras": "keras", "sklearn": "sklearn", "jax": "jax", "onnx": "onnx"}
"""Of each framework's module the extra of fedthings that brings it."""
NOT_THEIRS = (str(Path(__file__).parent.parent) + os.sep, *(f"{os.sep}{name}{os.sep}" for name in EXTRAS))
"""What stands in the paths of files that are none of the user's: ours, and those of frameworks."""
ON_GPU = "is on a GPU, which no forked process reaches: use workers=1"
ON_JAX = 'runs on JAX, whose threads no forked process has: use workers="ray"'
"""Why a model cannot be trained in forked processes."""
ASKED = ("key", "loss", "mu", "effort")
"""What `train` is given beside params, data and recipe where it has a parameter of that name."""


@dataclass(frozen=True)
class Lifted:
    """What a factory returns: a model that is Python code, seen as rows. `lift` and `with_torch` make it.

    `begin(seed)` gives the first row; `steps(task, mu)` the training; `predict(row, X)` outputs `(n, *outputs)` as
    the loss reads them; `evaluate(row, X, y)` one number a sample for the loss and each of `metrics`, where given.
    `fitted(row)` is the framework's own object with the row in it. `unforked()` says why no forked process can train
    it, "" where one can; `together(task)` how many devices it wants at a time.
    """

    input: Shape
    outputs: Shape
    layout: Layout
    begin: Callable[[int], Vector]
    steps: Callable[[Task, float], Steps]
    predict: Callable[[Array, Array], Array] | None
    evaluate: Callable[[Array, Array, Array], Mapping[str, Array]] | None = None
    metrics: tuple[str, ...] = ()
    flops: int = 0
    engine: Callable[[], str] = lambda: "own"
    fitted: Callable[[Array], Any] | None = None
    unforked: Callable[[], str] = lambda: ""
    together: Callable[[Task], int] = lambda task: 1


def lift(
    init: Callable[[int], Params],
    train: Callable[..., tuple[Params, int | None, Mapping[str, Any]]],
    predict: Callable[[dict[str, Array], Array], Array] | None = None,
    evaluate: Callable[[dict[str, Array], Array, Array], Mapping[str, Array]] | None = None,
    *,
    input: int | Shape,
    outputs: int | Shape,
    metrics: Mapping[str, Literal["high", "low"]] | None = None,
    flops: int = 0,
    engine: str = "own",
    fitted: Callable[[dict[str, Array]], Any] | None = None,
) -> Lifted:
    """Return one's own model and training, in any framework.

    `init(seed)` gives the named arrays that travel; `train(params, data, recipe)` returns them trained, the weight
    (None: the samples) and {} or {"loss": a number for each sample, or one for all}. It may also take, by name, `key`
    (a Key), `loss`, `mu` and `effort`. `predict(params, X)` gives outputs `(n, *outputs)`, logits for a cross-entropy,
    by which the loss and the metrics of the task are measured. `evaluate(params, X, y)` instead gives one number a
    sample for "loss" and each name in `metrics`, which says whether high or low is better; the fleet's is their mean.
    `flops` are a sample's forward pass (0: two for each parameter); `engine` stands in summary.json; `fitted(params)`
    makes the framework's own object. Raises SpecError.
    """
    first = _arrays(init(0), "init")
    kinds = {name: array.dtype for name, array in first.items()}
    layout = Layout((name, array.shape) for name, array in first.items())
    asked = tuple(name for name in ASKED if name in _parameters(train))
    if bool(metrics) != (evaluate is not None):
        lacks = "metrics" if evaluate else "evaluate"
        raise SpecError(f"lift has no `{lacks}`: `metrics` names what `evaluate` measures, so give both, or neither")
    for name, better in (metrics or {}).items():
        _register(name, better)

    def params(row: Array) -> dict[str, Array]:
        return {name: view.astype(kinds[name]) for name, view in layout.views(row).items()}

    def begin(seed: int) -> Vector:
        return _flat(_arrays(init(seed), "init"), layout, "init")

    def steps(task: Task, mu: float) -> Steps:
        if mu and "mu" not in asked:
            raise SpecError(
                f"strategy.mu is {mu}, and the `train` of the model has no parameter `mu`: "
                "add it to the gradient there as mu * (params - received), or use fedavg()"
            )

        def run(
            received: Array,
            start: Array,
            shards: Sequence[Shard],
            keys: Sequence[Key],
            efforts: Sequence[float],
            change: Array,
        ) -> tuple[Array, Array]:
            weights, seen = np.empty(len(shards), np.int64), np.zeros((len(shards), 2), np.int64)
            for i, (shard, key, effort) in enumerate(zip(shards, keys, efforts, strict=True)):
                recipe, more = task.recipe, {"key": key, "loss": task.loss, "mu": mu, "effort": effort}
                if "effort" not in asked:
                    epochs = max(1, ceil(effort * recipe.epochs - 1e-9))
                    recipe = msgspec.structs.replace(recipe, epochs=epochs)
                where = f"`train` on {key.device}, version {key.version}"
                with guarded(where):
                    given = train(params(start[i]), _locked(shard), recipe, **{name: more[name] for name in asked})
                row, weights[i], seen[i] = _returned(given, layout, shard, where)
                start[i] = row
                change[i] = start[i] - (received if received.ndim == 1 else received[i])
            return weights, seen

        return run

    return Lifted(
        input=shape(input),
        outputs=shape(outputs),
        layout=layout,
        begin=begin,
        steps=steps,
        predict=None if predict is None else lambda row, X: np.asarray(predict(params(row), X)),
        evaluate=None if evaluate is None else lambda row, X, y: evaluate(params(row), X, y),
        metrics=tuple(metrics or ()),
        flops=flops,
        engine=lambda: engine,
        fitted=None if fitted is None else lambda row: fitted(params(row)),
        unforked=lambda: ON_JAX if "jax" in engine else "",
    )


def framework(name: str, door: str) -> Any:
    """Import the module `name` for `door`. Raises SpecError, with the extra to install, where it is not there."""
    try:
        return import_module(name)
    except ImportError as error:
        raise SpecError(f'{door} needs {name} ({error}): pip install "fedthings[{EXTRAS[name]}]"') from None


def shape(given: int | Shape) -> Shape:
    """Return the shape that a number or a tuple means. Raises SpecError."""
    found = (given,) if isinstance(given, int) else tuple(given)
    if not found or min(found) < 1:
        raise SpecError(f"the shape {given} is none of a sample: give it as a number, or like (28, 28, 1)")
    return found


class guarded:  # noqa: N801
    """Turn what the user's code raises into a SpecError that says where."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception | SystemExit) and not isinstance(error, FedthingsError):
            frames = [f for f in traceback.extract_tb(trace) if not any(part in f.filename for part in NOT_THEIRS)]
            theirs = [frame for frame in frames if frame.filename == frames[0].filename]  # not what it calls elsewhere
            place = f" (line {theirs[-1].lineno} of {Path(theirs[-1].filename).name})" if theirs else ""
            raise SpecError(f"{self.where} raised {type(error).__name__}: {error}{place}: repair the code") from error


# ---------------------------------------------------------------------- what the user's functions give


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names that `function` can be given."""
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # one made in C
        return ()


def _wrong(where: str, what: str, remedy: str) -> NoReturn:
    raise SpecError(f"{where} returned {what}: {remedy}")


def _arrays(given: Any, where: str) -> dict[str, Array]:
    """Return named arrays as NumPy's. Raises SpecError."""
    if not isinstance(given, Mapping) or not given:
        _wrong(where, f"{given!r:.60}", "return a dictionary of named arrays")
    found = {}
    for name, value in given.items():
        try:
            found[str(name)] = array = np.asarray(value)
        except Exception as error:  # a tensor on a GPU, or one with a gradient
            _wrong(where, f"{name!r}, which is no array ({error})", "convert it to NumPy's")
        if array.dtype.kind != "f":
            _wrong(where, f"{name!r} as {array.dtype}", "what travels is averaged, so give it as float32")
    return found


def _flat(arrays: Mapping[str, Array], layout: Layout, where: str) -> Vector:
    """Return the row of `arrays`. Raises SpecError where they are not those of `layout`."""
    due = [part.name for part in layout.parts]
    for name in [*arrays, *due]:
        if name not in arrays:
            _wrong(where, f"no {name!r}", f"return all that `init` gives: {', '.join(due)}")
        if name not in due:
            _wrong(where, f"{name!r}, which `init` does not give", nearest(name, due))
    for part in layout.parts:
        if arrays[part.name].shape != part.shape:
            _wrong(where, f"{part.name!r} of shape {arrays[part.name].shape}", f"`init` gives {part.shape}")
    with np.errstate(over="ignore"):  # what is too large for float32 is not finite, and left out as such
        return np.concatenate([arrays[name].astype(np.float32).reshape(-1) for name in due])


def _returned(given: Any, layout: Layout, shard: Shard, where: str) -> tuple[Vector, int, Array]:
    """Return the row, the weight, and samples and loss seen, of what `train` gave. Raises SpecError."""
    if not isinstance(given, tuple) or len(given) != 3:
        _wrong(where, f"{type(given).__name__}", "return (params, weight, metrics), such as (params, None, {})")
    arrays, weight, metrics = given
    if weight is not None and (isinstance(weight, bool) or not isinstance(weight, int | np.integer) or weight < 0):
        _wrong(where, f"the weight {weight!r:.40}", "a weight is a whole number, or None for the number of samples")
    seen = np.zeros(2, np.int64)
    if not isinstance(metrics, Mapping) or set(metrics) - {"loss"}:
        _wrong(where, f"the metrics {metrics!r:.60}", 'return {} or {"loss": ...}; others are for `evaluate`')
    if "loss" in metrics:
        costs = _numbers(metrics["loss"], "the loss", where)
        seen = fixed((costs.reshape(-1) if costs.ndim else np.full(len(shard.X), costs))[None])[0]
    return _flat(_arrays(arrays, where), layout, where), -1 if weight is None else int(weight), seen


def _numbers(value: Any, what: str, where: str) -> Array:
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError):
        _wrong(where, f"{what} {value!r:.40}", "give numbers")


def costs_of(given: Any, names: Sequence[str], n: int) -> dict[str, Array]:
    """Return the sums `(1, 2)` of each name in what `evaluate` gave for n samples. Raises SpecError."""
    if not isinstance(given, Mapping):
        _wrong("`evaluate`", type(given).__name__, 'return {"loss": one number for each sample, ...}')
    for name in names:
        if name not in given:
            _wrong("`evaluate`", f"no {name!r}", f"return {', '.join(names)}; task.metrics names what is measured")
    found = {name: _numbers(given[name], name, "`evaluate`") for name in names}
    for name, numbers in found.items():
        if numbers.shape != (n,):
            _wrong("`evaluate`", f"{name!r} of shape {numbers.shape}", f"give one number for each sample, {(n,)}")
    return {name: fixed(numbers[None]) for name, numbers in found.items()}


def _register(name: str, better: Literal["high", "low"]) -> None:
    """Make `name` a metric: the mean of what `evaluate` gives. Raises SpecError where it is another's."""
    if better not in ("high", "low"):
        raise SpecError(f'metrics says {name!r} is better {better!r}: "high" or "low"')
    known = METRICS.get(name)
    if known and known.measure is not by_evaluate:
        raise SpecError(f"metrics has {name!r}, which fedthings measures by `predict`: choose another name")
    if known and known.better != better:
        raise SpecError(f"metrics has {name!r}, which is better {known.better} in another model: choose another name")
    METRICS[name] = Metric(name, lambda width: 2, by_evaluate, mean, better)


def by_evaluate(outputs: Array, y: Array) -> Array:
    """Stand for what only the `evaluate` of a lifted model can measure. Raises SpecError."""
    raise SpecError("this metric is measured by the `evaluate` of a model of one's own: leave it out of task.metrics")


def _locked(shard: Shard) -> Shard:
    """Return `shard` in views that cannot be written to: another device, or the next version, reads it too."""
    X, y, test_X, test_y = views = [array.view() for array in shard[:4]]
    for view in views:
        view.flags.writeable = False
    return Shard(X, y, test_X, test_y, shard.columns)
