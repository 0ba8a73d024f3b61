"""Server steps: how the mean of the reports moves the model, as specs and as their formulas.

A step works on rows `(dim,)` of any float type and keeps its own state, a mapping of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from fedthings.errors import SpecError
from fedthings.vector import Array

Row: TypeAlias = NDArray[Any]
State: TypeAlias = dict[str, Row]


class _Spec(Struct, frozen=True, tag_field="kind", tag=str.lower, forbid_unknown_fields=True):
    """Root of step and schedule specs: checks that rates and factors can be right."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not isinstance(value, int | float):
                continue
            if name in ("lr", "tau") and not value > 0:
                raise SpecError(f"strategy.step.{name} is {value}: it must be above 0")
            if name in ("momentum", "beta1", "beta2") and not 0 <= value < 1:
                raise SpecError(f"strategy.step.{name} is {value}: it must be from 0 up to, not including, 1")
            if name in ("alpha", "beta") and not 0 <= value <= 1:
                raise SpecError(f"strategy.step.{name} is {value}: a decay factor is from 0 to 1")
            if name in ("a", "b", "rate") and not value >= 0:
                raise SpecError(f"strategy.step.schedule.{name} is {value}: it must be at least 0")


# ------------------------------------------------------------------ schedules


class Constant(_Spec, frozen=True):
    """The participants' share is the same whatever the version and the staleness."""


class Polynomial(_Spec, frozen=True):
    """s(lag) = (1 + lag)^-a (Xie et al. 2019, section 5.2)."""

    a: float = 0.5


class Hinge(_Spec, frozen=True):
    """s(lag) = 1 up to `b`, then 1 / (a (lag - b) + 1) (Xie et al. 2019, section 5.2)."""

    a: float = 10.0
    b: float = 4.0


class Decay(_Spec, frozen=True):
    """s(version) = 1 / (1 + rate * version): later reports move the model less."""

    rate: float = 0.01


Schedule: TypeAlias = Constant | Polynomial | Hinge | Decay


def share(schedule: Schedule, version: int, lag: int) -> float:
    """Return the factor on the participants' share for a report that lags `lag` versions."""
    match schedule:
        case Polynomial(a=a):
            return float((1.0 + lag) ** -a)
        case Hinge(a=a, b=b):
            return 1.0 if lag <= b else 1.0 / (a * (lag - b) + 1.0)
        case Decay(rate=rate):
            return 1.0 / (1.0 + rate * version)
        case _:
            return 1.0


# ---------------------------------------------------------------------- steps


class Sgd(_Spec, frozen=True):
    """theta <- theta + lr * mean (McMahan et al. 2017, Alg. 1, at lr = 1)."""

    lr: float = 1.0


class Momentum(_Spec, frozen=True):
    """v <- momentum * v + mean; theta <- theta + lr * v (Hsu et al. 2019, section 4.2)."""

    lr: float = 1.0
    momentum: float = 0.9


class Adagrad(_Spec, frozen=True):
    """v <- v + mean^2 (Reddi et al. 2021, Alg. 2, FedAdagrad)."""

    lr: float = 0.1
    beta1: float = 0.0
    tau: float = 1e-3


class Adam(_Spec, frozen=True):
    """v <- beta2 v + (1 - beta2) mean^2 (Reddi et al. 2021, Alg. 2, FedAdam; no bias correction)."""

    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3


class Yogi(_Spec, frozen=True):
    """v <- v - (1 - beta2) mean^2 sign(v - mean^2) (Reddi et al. 2021, Alg. 2, FedYogi)."""

    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3


class Mixing(_Spec, frozen=True):
    """theta <- a theta + (1 - a) theta~, with a = `alpha` for odd versions and `beta` for even ones.

    theta~ is the mean of the participants' models, base version plus delta. `schedule` scales their
    share 1 - a by version and staleness.
    """

    alpha: float = 0.5
    beta: float = 0.5
    schedule: Schedule = Constant()


Step: TypeAlias = Sgd | Momentum | Adagrad | Adam | Yogi | Mixing


class Mean(NamedTuple):
    """What a fold gives a step: the mean delta `(dim,)`, the weight of each lag, and the models of those lags.

    `bases[lag]` is the model that reports with that lag were trained from; `bases[0]` is the current one.
    """

    delta: Row
    weights: Mapping[int, int]
    bases: Mapping[int, Array]


def init(spec: Step, row: Row) -> State:
    """Return the state of `spec` before the first version of a model like `row`."""
    match spec:
        case Momentum():
            return {"v": np.zeros_like(row)}
        case Adagrad(tau=tau) | Adam(tau=tau) | Yogi(tau=tau):
            return {"m": np.zeros_like(row), "v": np.full_like(row, tau * tau)}
        case _:
            return {}


def apply(spec: Step, row: Row, mean: Mean, state: State, version: int) -> Row:
    """Return the row of `version`; `state` is changed in place. Computed in the type of `mean.delta`."""
    delta = mean.delta
    match spec:
        case Sgd(lr=lr):
            return _moved(row, delta, lr)
        case Momentum(lr=lr, momentum=momentum):
            state["v"] *= momentum
            state["v"] += delta
            return _moved(row, state["v"], lr)
        case Mixing():
            return _mixed(spec, row, mean, version)
        case Adagrad() | Adam() | Yogi():
            return _adaptive(spec, row, delta, state)


BLOCK = 1 << 15
"""Numbers moved at once, so that a large model needs no temporary of its size."""


def _moved(row: Row, delta: Row, rate: float) -> Row:
    out = np.empty_like(row)
    for start in range(0, len(row), BLOCK):
        block = slice(start, start + BLOCK)
        out[block] = row[block] + rate * delta[block]
    return out


def _adaptive(spec: Adagrad | Adam | Yogi, row: Row, delta: Row, state: State) -> Row:
    m, v, square = state["m"], state["v"], delta * delta
    m *= spec.beta1
    m += (1 - spec.beta1) * delta
    match spec:
        case Adagrad():
            v += square
        case Adam(beta2=beta2):
            v *= beta2
            v += (1 - beta2) * square
        case Yogi(beta2=beta2):
            v -= (1 - beta2) * square * np.sign(v - square)
    return _moved(row, m / (np.sqrt(v) + spec.tau), spec.lr)


def _mixed(spec: Mixing, row: Row, mean: Mean, version: int) -> Row:
    """Mix by lag: with weights w, theta~ = (sum w_lag base_lag + sum of deltas) / sum w."""
    weights = sorted(mean.weights.items())  # sums of floats, free of the order in which reports came
    total = sum(mean.weights.values())
    keep = spec.alpha if version % 2 else spec.beta
    factor = (1 - keep) * sum(weight * share(spec.schedule, version, lag) for lag, weight in weights) / total
    models = mean.delta  # the mean of the participants' models, less the current model
    for lag, weight in weights:
        if lag:
            models = models + (weight / total) * (mean.bases[lag].astype(mean.delta.dtype) - row)
    return _moved(row, models, factor)
