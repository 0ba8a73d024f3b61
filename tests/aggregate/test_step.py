"""Server steps against their formulas: in float64 to 1e-12, in float32 end to end to 1e-6."""

from __future__ import annotations

import numpy as np
import pytest

from fedthings import strategy
from fedthings.aggregate import step
from fedthings.errors import SpecError
from fedthings.vector import keyed

DIM, VERSIONS = 70_003, 7


def deltas():
    rng = keyed("deltas")
    return [rng.normal(0, 0.1, DIM) for _ in range(VERSIONS)]


def run(spec, dtype):
    row = keyed("row").normal(0, 1, DIM).astype(dtype)
    state = step.init(spec, row)
    rows = [row]
    for version, delta in enumerate(deltas(), 1):
        mean = step.Mean(delta.astype(dtype), {0: 10}, {0: rows[-1]})
        rows.append(step.apply(spec, rows[-1], mean, state, version))
    return rows


def sgd(theta, delta, s, t):
    return theta + 0.5 * delta


def momentum(theta, delta, s, t):
    s["v"] = 0.9 * s.get("v", 0) + delta
    return theta + 0.7 * s["v"]


def adaptive(second):
    """Reddi et al. 2021, Alg. 2, with tau = 1e-3 and v_0 = tau^2, in the order of the paper."""

    def formula(theta, delta, s, t):
        s["m"] = 0.9 * s.get("m", 0) + (1 - 0.9) * delta
        s["v"] = second(s.get("v", 1e-6), delta**2)
        return theta + 0.01 * s["m"] / (np.sqrt(s["v"]) + 1e-3)

    return formula


def mixing(theta, delta, s, t):
    keep = 0.8 if t % 2 else 0.3
    return keep * theta + (1 - keep) * (theta + delta)


CASES = {
    "sgd": (step.Sgd(lr=0.5), sgd),
    "momentum": (step.Momentum(lr=0.7, momentum=0.9), momentum),
    "adagrad": (step.Adagrad(lr=0.01, beta1=0.9), adaptive(lambda v, g: v + g)),
    "adam": (step.Adam(), adaptive(lambda v, g: 0.99 * v + 0.01 * g)),
    "yogi": (step.Yogi(), adaptive(lambda v, g: v - 0.01 * g * np.sign(v - g))),
    "mixing": (step.Mixing(alpha=0.8, beta=0.3), mixing),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "error"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_a_step_is_its_formula(name, dtype, error):
    spec, formula = CASES[name]
    rows, state = run(spec, dtype), {}
    theta = rows[0].astype(np.float64)
    for version, delta in enumerate(deltas(), 1):
        theta = formula(theta, delta.astype(dtype).astype(np.float64), state, version)
        assert np.abs(rows[version] - theta).max() / max(1, np.abs(theta).max()) < error
    assert rows[-1].dtype == dtype


@pytest.mark.parametrize(
    ("schedule", "share"),
    [
        (step.Constant(), lambda t, lag: 1.0),
        (step.Polynomial(a=0.5), lambda t, lag: (1 + lag) ** -0.5),
        (step.Hinge(a=10, b=2), lambda t, lag: 1.0 if lag <= 2 else 1 / (10 * (lag - 2) + 1)),
        (step.Decay(rate=0.1), lambda t, lag: 1 / (1 + 0.1 * t)),
    ],
)
@pytest.mark.parametrize("lag", [0, 1, 4])
def test_mixing_a_late_model_is_fedasync(schedule, share, lag):
    """theta <- (1 - a_t) theta + a_t (base + delta), a_t = (1 - alpha) s(t, lag) (Xie et al. 2019, Alg. 1)."""
    rng = keyed("late")
    theta, base, delta = rng.normal(0, 1, (3, 100))
    spec = strategy.mixing(0.4, schedule=schedule).step
    mean = step.Mean(delta, {lag: 3}, {0: theta, lag: base if lag else theta})
    out = step.apply(spec, theta, mean, {}, 5)
    a = (1 - 0.4) * share(5, lag)
    reported = (base if lag else theta) + delta
    assert np.abs(out - ((1 - a) * theta + a * reported)).max() < 1e-12


def test_mixing_of_several_lags_weighs_their_models():
    rng = keyed("lags")
    theta, old, one, two = rng.normal(0, 1, (4, 50))
    mean = step.Mean((1 * one + 3 * two) / 4, {0: 1, 2: 3}, {0: theta, 2: old})
    out = step.apply(step.Mixing(alpha=0.5), theta, mean, {}, 1)
    reported = (1 * (theta + one) + 3 * (old + two)) / 4
    assert np.abs(out - (0.5 * theta + 0.5 * reported)).max() < 1e-12


def test_beta_defaults_to_alpha():
    assert strategy.mixing(0.25).step == step.Mixing(alpha=0.25, beta=0.25)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: step.Sgd(lr=-1.0), "lr is -1.0"),
        (lambda: step.Mixing(alpha=1.5), "alpha is 1.5"),
        (lambda: step.Momentum(momentum=1.0), "momentum is 1.0"),
        (lambda: step.Polynomial(a=-2.0), "schedule.a is -2.0"),
    ],
)
def test_figures_that_cannot_be_right_are_refused(make, words):
    with pytest.raises(SpecError, match=words):
        make()
