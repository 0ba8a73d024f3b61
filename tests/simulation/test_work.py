"""What a task asks of its device, by hand: operations, memory, and both in the history of a run."""

from __future__ import annotations

import numpy as np
import pytest

import fedthings as ft
from fedthings.engine import Engine
from fedthings.learn.descent import schedule
from fedthings.learn.layers import AvgPool, Conv1d, Conv2d, Dense, Flatten, LayerNorm, Relu, Softmax
from fedthings.learn.local import trainer
from fedthings.protocol.events import Ticket
from fedthings.simulation.devices import Device
from fedthings.simulation.things import Group, Things
from fedthings.simulation.work import Counted
from fedthings.vector import Key


@pytest.mark.parametrize(
    ("layer", "given", "flops"),
    [
        (Dense(3), (5,), 3 * (2 * 5 + 1)),
        (Dense(3, "relu"), (5,), 3 * (2 * 5 + 2)),
        (Conv1d(4, 3), (10, 2), 8 * 4 * (2 * 3 * 2 + 1)),
        (Conv2d(4, 3, padding="same", activation="relu"), (8, 8, 2), 64 * 4 * (2 * 9 * 2 + 2)),
        (AvgPool(2), (8, 8, 4), 16 * 4 * 4),
        (Flatten(), (8, 8, 4), 0),
        (Relu(), (7,), 7),
        (Softmax(), (7,), 35),
        (LayerNorm(), (7,), 49),
    ],
)
def test_operations_of_a_layer(layer, given, flops):
    assert layer.flops(given) == flops


def test_training_is_the_way_there_and_back():
    model = ft.mlp(5, 8, 2)
    first, last = 8 * (2 * 5 + 2), 2 * (2 * 8 + 1)
    assert model.flops == first + last
    assert model.training_flops == 2 * first + 3 * last  # nothing before the first layer learns
    scaled = ft.sequential(5, ft.standardise(np.zeros(5), np.ones(5)), ft.dense(2))
    assert scaled.training_flops == 15 + 2 * 2 * (2 * 5 + 1)


def counted(**recipe):
    task = ft.Task(model=ft.mlp(5, 8, 2), loss="cross_entropy", recipe=ft.Recipe(**recipe), normalise="fleet")
    X, y, device = np.ones((40, 5), "f4"), np.arange(40) % 2, np.repeat(["a", "b"], [10, 30])
    fleet = ft.Fleet.from_arrays(X, y, device, np.arange(40) % 5 == 0)
    spec = ft.Federation(task)
    return Counted(Engine(spec, 3), fleet), task.model


def test_operations_and_memory_of_each_phase():
    work, model = counted(batch=4, epochs=3, optimizer="momentum")
    device = Ticket(1, 0, "b", 0)  # 24 samples to train on, 6 to test
    dim = model.layout.dim
    assert work.flops(device, 0.0) == 3 * 24 * model.training_flops + 6 * model.flops + 18 * 4 * dim
    assert work.memory(device, 0.0) == 4 * (3 * dim + 4 * (5 + 8 + 2))
    assert work.flops(Ticket(0, 0, "b", 0), 0.0) == 3 * 24 * 5
    assert work.flops(Ticket(2, 0, "b", 0), 0.0) == 6 * model.flops
    assert work.memory(Ticket(2, 0, "b", 0), 0.0) < work.memory(device, 0.0)


@pytest.mark.parametrize(("batch", "effort", "steps", "seen"), [(5, 0.4, 6, 29), (5, 0.01, 1, 5), (0, 0.4, 2, 48)])
def test_a_part_of_the_work_has_the_operations_of_the_steps_that_training_does(batch, effort, steps, seen):
    work, model = counted(batch=batch, epochs=3)  # 24 samples make 5 steps of an epoch, or one
    task = work.engine.phases[1].task
    found = work.flops(Ticket(1, 0, "b", 0), 0.0, effort)
    assert found == seen * model.training_flops + 6 * model.flops + steps * 2 * model.layout.dim
    shard = work.fleet.shard("b")
    _, _, (done,) = schedule(task.recipe, np.array([24]), [effort])
    fit, _ = trainer(task).one({"x": model.init(0)}, None, shard, Key(0, "b", 0, 0), effort)
    assert (done, fit.metrics["train"][0]) == (steps, seen)


def windowed(strategy, kind="train"):
    """Return the operations of a phase on 24 rows, 8 windows, to train on and 6, 2 windows, to test; and the task."""
    model = ft.sequential((3, 5), ft.flatten(), ft.dense(2))
    window = ft.window(steps=3, stride=3)
    task = ft.Task(model=model, loss="cross_entropy", window=window, normalise="fleet")
    X, y = np.ones((30, 5), "f4"), np.arange(30) % 2
    fleet = ft.Fleet.from_arrays(X, y, np.repeat("b", 30), np.arange(30) % 5 == 0)
    engine = Engine(ft.Federation(task, strategy), 3)
    (phase,) = [i for i, spec in enumerate(engine.phases) if spec.kind == kind]
    return Counted(engine, fleet).flops(Ticket(phase, 0, "b", 0), 0.0), engine.phases[phase].task


def test_operations_are_of_windows_and_own_models_are_measured_too():
    average, task = windowed(ft.fedavg())
    assert (task.window.count(24), task.window.count(6)) == (8, 2)
    assert average == task.flops(24, 6)
    once = task.model.flops
    assert windowed(ft.fedavg(), "normalise")[0] == 3 * 8 * 15
    assert windowed(ft.fedavg(), "evaluate")[0] == 2 * once
    assert windowed(ft.qffl())[0] == average + 8 * once
    assert windowed(ft.ifca(3))[0] == average + 3 * 8 * once + 2 * once
    assert windowed(ft.ifca(3), "evaluate")[0] == 3 * 8 * once + 2 * 2 * once
    assert windowed(ft.ditto())[0] == 2 * average
    assert windowed(ft.ditto(), "evaluate")[0] == 2 * 2 * once
    assert windowed(ft.finetune(1))[0] == average
    assert windowed(ft.finetune(1), "evaluate")[0] == task.flops(24, 0) + 2 * 2 * once


def test_a_batch_is_no_larger_than_the_samples():
    for batch in (0, 1000):
        work, model = counted(batch=batch)
        assert work.memory(Ticket(1, 0, "a", 0), 0.0) == 4 * (2 * model.layout.dim + 8 * 15)


def simulated(world, **pace):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 5)).astype("f4")
    fleet = ft.Fleet.from_arrays(X, (X[:, 0] > 0).astype(int), np.arange(600) // 20)
    task = ft.Task(model=ft.mlp(5, 8, 2), loss="cross_entropy")
    return ft.simulate(ft.Federation(task, pace=ft.Pace(**pace)), fleet, 4, world=world)


def test_a_run_in_a_world_counts_seconds_joules_bytes_and_drops():
    world = Things(
        (
            Group(share=0.7, device="microcontroller", link="nb_iot", dropout=0.2),
            Group(share=0.3, device="pi4", link="wifi"),
        )
    )
    run = simulated(world, goal=8, concurrency=12, patience=300.0)
    for line in run.history:
        assert line["joules"] > 0
        assert line["bytes_up"] > 0
    assert 4 < run.summary["seconds"] < 4 * 300
    assert sum(sum(line["dropped"].values()) for line in run.history) > 0
    again = simulated(world, goal=8, concurrency=12, patience=300.0)
    assert again.history == run.history


def test_data_that_arrives_is_asked_for_at_times_that_are():
    asked = set()

    def shard(name, at):
        asked.add(at)
        return np.ones((2 + int(at // 10), 5), "f4"), np.arange(2 + int(at // 10)) % 2

    world = Things((Group(share=1.0, device="pi_zero", link="wifi"),))
    task = ft.Task(model=ft.mlp(5, 8, 2), loss="cross_entropy")
    fleet = ft.Fleet.from_function(shard, 3)
    run = ft.simulate(ft.Federation(task, pace=ft.Pace(goal=3)), fleet, 3, world=world)
    assert 0.0 in asked and max(asked) <= run.summary["seconds"]
    grown = counted(batch=0)[0]
    grown.fleet = fleet
    assert grown.memory(Ticket(1, 0, "device-0", 0), 60.0) > grown.memory(Ticket(1, 0, "device-0", 0), 0.0)


def test_a_model_too_large_for_a_device_is_counted_as_memory():
    world = Things(
        (
            Group(share=0.5, device="tiny", link="wifi"),
            Group(share=0.5, device="pi4", link="wifi"),
        ),
        devices={"tiny": Device(based_on="pi4", memory=100)},
    )
    run = simulated(world, goal=4, concurrency=8, patience=60.0)
    assert sum(line["dropped"].get("memory", 0) for line in run.history) > 0
