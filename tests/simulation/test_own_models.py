"""Models that are Python code: the number of workers never changes a result, and the service makes the same model."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
import own_models
import processes
from fedthings import down
from fedthings.device.rules import Rules
from fedthings.learn import own, save
from fedthings.protocol.events import Ticket
from fedthings.run import read
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


def test_only_what_trains_travels(tmp_path) -> None:
    """Of adapted layers (LoRA) the base neither goes down nor up, in the simulator and on the wire."""
    spec, things = federation("adapted", "synchronous"), fleet()
    thin, base = 2 * (6 + 64 + 64 + 3), 6 * 64 + 64 + 64 * 3 + 3
    rules = {name: Rules(allow=("own_models:adapted",)) for name in things.names}
    world = Virtual(spec, things, 4, tmp_path, SLOW, rules)
    served, simulated = world.run(), ft.simulate(spec, things, 4, world=SLOW)
    np.testing.assert_array_equal(served.row, simulated.row)
    assert served.history == simulated.history
    assert simulated.row.size == thin
    line = simulated.history[1]
    assert 4 * thin < line["bytes_up"] / line["updates"] < 4 * thin + 300 < 4 * (thin + base)
    assert down.model_bytes(world.service.engine, Ticket(0, 0, "device-0", 0)) < 4 * thin + 100


def test_only_what_trains_travels_between_real_processes(tmp_path, monkeypatch) -> None:
    X, y = np.random.default_rng(1).normal(size=(60, 6)).astype("f4"), np.arange(60) % 3
    things = ft.Fleet.from_arrays(X, y, np.arange(60) // 3 % 2)
    task = ft.Task(model=ft.own("own_models:adapted"), loss="cross_entropy", recipe=ft.Recipe(lr=0.1, batch=8))
    spec = ft.Federation(task, ft.fedavg(), ft.Pace(goal=2, patience=120.0), devices=2)
    paths = [str(Path(own_models.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setitem(processes.ENVIRONMENT, "PYTHONPATH", os.pathsep.join(paths))
    with processes.Processes(spec, things, 3, tmp_path, "mosquitto") as world:
        world.allow = "own_models:adapted"
        world.start()
        world.wait()
        served = read(world.out)
    simulated = ft.simulate(spec, things, 3)
    np.testing.assert_allclose(served.row, simulated.row, atol=1e-5)
    assert [line["bytes_up"] for line in served.history] == [line["bytes_up"] for line in simulated.history]
    assert served.row.size == 2 * (6 + 64 + 64 + 3)


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
