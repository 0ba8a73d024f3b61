"""Models that are Python code: the number of workers never changes a result, and the service makes the same model."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import fedthings as ft
from fedthings.device.rules import Rules
from fedthings.learn import own, save
from fedthings.simulation.world import Uneven
from virtual import Virtual

SLOW = Uneven(median=3.0, spread=1.0, lost=0.1, seed=5)
MODELS = ["by_hand", "normed"]
PACES = {
    "synchronous": {"goal": 6, "concurrency": 8, "patience": 9.0, "quorum": 2},
    "asynchronous": {"goal": 4, "concurrency": 8, "patience": 20.0, "staleness": 3},
}


def fleet() -> ft.Fleet:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 6)).astype("f4")
    y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
    return ft.Fleet.from_arrays(X, y, np.sort(rng.integers(0, 12, 400)), (rng.random(400) < 0.2).astype(int))


def federation(model: str, pace: str, mu: float = 0.1) -> ft.Federation:
    recipe = ft.Recipe(lr=0.1, batch=8, epochs=2, keep=0.3)
    task = ft.Task(model=ft.own(f"own_models:{model}"), loss="cross_entropy", recipe=recipe)
    return ft.Federation(task, ft.fedprox(mu=mu), ft.Pace(**PACES[pace]), stages=(ft.clip(0.5),), seed=11, devices=12)


@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize("model", MODELS)
def test_the_number_of_workers_never_changes_the_result(model: str, pace: str) -> None:
    spec, things = federation(model, pace), fleet()
    runs = [ft.simulate(spec, things, 6, world=SLOW, workers=workers) for workers in (1, 2, 5)]
    assert len(runs[0].history) == 6
    assert (runs[0].row != spec.task.model.init(11)).any()
    for run in runs[1:]:
        np.testing.assert_array_equal(run.row, runs[0].row)
        assert run.history == runs[0].history


@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize("model", MODELS)
def test_trace_history_and_model_of_the_service_are_those_of_the_simulator(model: str, pace: str, tmp_path) -> None:
    spec, things = federation(model, pace), fleet()
    simulated = ft.simulate(spec, things, 6, out=tmp_path / "simulated", world=SLOW, trace=True)
    rules = {name: Rules(allow=(f"own_models:{model}",)) for name in things.names}
    with (tmp_path / "trace.jsonl").open("w") as trace:
        served = Virtual(spec, things, 6, tmp_path / "served", SLOW, rules, trace=trace).run()
    want = (tmp_path / "simulated" / "trace.jsonl").read_text().splitlines()
    have = (tmp_path / "trace.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in have] == [json.loads(line) for line in want]
    np.testing.assert_array_equal(served.row, simulated.row)
    assert served.history == simulated.history and len(served.history) == 6
    assert served.model == simulated.model == ft.own(f"own_models:{model}")


def test_a_device_keeps_its_model_to_predict_with(tmp_path) -> None:
    spec, things = federation("normed", "synchronous"), fleet()
    rules = {name: Rules(allow=("own_models:normed",)) for name in things.names}
    world = Virtual(spec, things, 2, tmp_path, rules=rules)
    while not world.service.done and world.step():
        pass
    world.service.announce()  # it is over: devices say hello, and are told where the last model is
    while world.step():
        pass
    run = world.result()
    model, row, notes = save.load(tmp_path / "devices" / "device-0" / "model.safetensors")
    assert model == spec.task.model and notes["version"] == "2"
    np.testing.assert_array_equal(row, run.row)


def test_code_that_fails_on_a_device_is_declined_and_the_others_go_on(tmp_path, monkeypatch) -> None:
    real = own.Own.made.fget

    def made(model):
        lifted = real(model)

        def steps(task, mu):
            ours = lifted.steps(task, mu)

            def run(received, start, shards, keys, efforts, change):
                if any(key.device == "device-3" for key in keys):
                    raise ft.SpecError("the sensor is wet")
                return ours(received, start, shards, keys, efforts, change)

            return run

        return replace(lifted, steps=steps)

    monkeypatch.setattr(own.Own, "made", property(made))
    spec, things = federation("by_hand", "synchronous"), fleet()
    rules = {name: Rules(allow=("own_models:by_hand",)) for name in things.names}
    told: list[str] = []
    world = Virtual(spec, things, 4, tmp_path / "served", rules=rules)
    world.agents["device-3"].on_news = told.append
    run = world.run()
    assert sum(line["dropped"].get("training failed", 0) for line in run.history) > 0
    assert "cannot do the task: the sensor is wet" in told
    assert [line["updates"] for line in run.history] == [6] * 4
    with pytest.raises(ft.SpecError, match="the sensor is wet"):  # in a simulation it is the user's own to repair
        ft.simulate(spec, things, 4)
