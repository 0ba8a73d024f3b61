"""Forecasting models: each is what its paper says, sees its whole window, and learns a real series."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

import fedthings as ft
from fedthings.errors import SpecError
from fedthings.learn.model import Sequential, outputs

PRESETS: dict[str, Callable[..., Sequential]] = {"dlinear": ft.dlinear, "rnn": ft.rnn, "tcn": ft.tcn}


def scaled(model: Sequential) -> Sequential:
    """Return `model` as it is before the fleet has given its targets a unit."""
    return Sequential(model.input, model.layers[:-1])


def test_dlinear_is_one_linear_layer_on_the_trend_and_one_on_the_rest() -> None:
    """Zeng et al. 2023, section 4, in float64; the trend as there, by padding with both ends."""
    model = scaled(ft.dlinear((9, 1), outputs=4, kernel=5))
    rng = np.random.default_rng(0)
    row, X = rng.normal(size=model.layout.dim), rng.normal(size=(6, 9))
    weight, bias = model.layout.views(row).values()
    trend = np.stack([np.convolve(np.pad(x, 2, mode="edge"), np.ones(5) / 5, "valid") for x in X])
    want = (X - trend) @ weight[0::2] + trend @ weight[1::2] + bias
    np.testing.assert_allclose(outputs(model, row, X[..., None]), want, rtol=0, atol=1e-12)


DILATIONS = {2: [1], 5: [1, 2, 1], 16: [1, 2, 4, 8], 24: [1, 2, 4, 8, 8], 30: [1, 2, 4, 8, 14]}


@pytest.mark.parametrize("steps", DILATIONS)
def test_tcn_is_the_last_step_of_a_causal_stack(steps: int) -> None:
    """Bai et al. 2018, section 3: zeros before the signal, and of what the last layer gives the last step."""
    body = ft.tcn((steps, 2), filters=3).layers[:-3]
    assert [layer.dilation for layer in body] == DILATIONS[steps]
    stack = ft.sequential((steps, 2), *(msgspec.structs.replace(layer, padding="causal") for layer in body))
    row, X = stack.init(1).astype("f8"), np.random.default_rng(2).normal(size=(7, steps, 2))
    found = outputs(ft.sequential((steps, 2), *body), row, X)
    assert found.any()
    np.testing.assert_allclose(found[:, 0], outputs(stack, row, X)[:, -1], rtol=1e-12)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("steps", [1, 2, 7, 12])
def test_every_step_and_channel_of_a_window_counts(name: str, steps: int) -> None:
    model = scaled(PRESETS[name]((steps, 2), outputs=3))
    row, X = model.init(0).astype("f8"), np.random.default_rng(3).normal(size=(20, steps, 2))
    before = outputs(model, row, X)
    assert before.shape == (20, 3)
    for step in range(steps):
        for channel in range(2):
            other = X.copy()
            other[:, step, channel] += 1
            if name != "dlinear" or steps > 1:  # of one step the remainder is 0
                assert np.abs(outputs(model, row, other) - before).max() > 1e-9, (step, channel)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("wrong", [24, (24,), (24, 1, 1), (0, 1), (24, 0)])
def test_an_input_that_is_no_window_is_refused(name: str, wrong: object) -> None:
    with pytest.raises(SpecError, match=rf"{name}: the input is .* give \(steps, channels\), such as \(24, 1\)"):
        PRESETS[name](wrong)


LEARNS = {"dlinear": (ft.Recipe(lr=0.005), 4), "rnn": (ft.Recipe(optimizer="adam", lr=0.005), 2),
          "tcn": (ft.Recipe(optimizer="adam", lr=0.002), 3)}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_each_forecasts_the_load_of_homes_better_than_the_last_hour_does(name: str, data: Path) -> None:
    """CityLearn, the next hour of 17 homes from the last 24; every fifth window."""
    held = ft.catalogue.arrays("citylearn", data)
    homes = ft.Fleet.from_arrays(held["y"][:, None], held["y"], held["device"], held["split"])
    window, (recipe, rounds) = ft.window(steps=24, stride=5, ahead=1), LEARNS[name]
    tested = [window.shard(rows) for rows in homes.cohort(homes.names, [0.0] * len(homes))]
    errors = np.concatenate([shard.test_X[:, -1, 0] - shard.test_y for shard in tested])
    persistence = np.sqrt(np.square(errors).mean())
    assert persistence == pytest.approx(0.92, abs=0.02)
    task = ft.Task(model=PRESETS[name]((24, 1)), loss="mse", normalise="fleet", window=window, recipe=recipe)
    run = ft.simulate(ft.Federation(task, pace=ft.Pace(goal=17)), homes, rounds)
    assert run.summary["metrics"]["rmse"] < 0.97 * persistence
