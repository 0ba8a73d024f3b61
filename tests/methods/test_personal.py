"""Models that are a device's own: what stays, what travels, what is measured, what is kept for predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fedthings.federation import phases
from fedthings.learn import save
from fedthings.learn.descent import corrected
from fedthings.learn.local import trainer
from fedthings.learn.model import outputs
from fedthings.learn.staying import travels
from fedthings.phase import learner
from fedthings.transport.transport import Linked
from fedthings.vector import Key, keyed
from virtual import Virtual

SHARED = ft.mlp(6, 16, 3).layout.dim - 16 * 3 - 3


def fleet(devices: int = 8) -> ft.Fleet:
    """Return devices in two camps: what is the first class to one half is the second to the other."""
    rng, n = keyed("camps"), 60 * devices
    X = rng.normal(0, 1, (n, 6)).astype(np.float32)
    device = np.arange(n) % devices
    y = ((X[:, 0] > 0) + device % 2) % 2 + (X[:, 1] > 1)
    return ft.Fleet.from_arrays(X, y, device, split=(np.arange(n) // devices % 3 == 0).astype(int))


def federation(strategy: ft.Strategy | None = None, local: tuple[str, ...] = (), alone: int = 0) -> ft.Federation:
    recipe, model = ft.Recipe(lr=0.3, batch=8, epochs=2), ft.mlp(6, 16, 3)
    task = ft.Task(model=model, loss="cross_entropy", recipe=recipe, local=local, local_epochs=alone)
    return ft.Federation(task, strategy or ft.fedavg(), ft.Pace(goal=8), seed=3, devices=8)


OWN = {
    "local": federation(local=("head",)),
    "by turns": federation(local=("head",), alone=5),
    "ditto": federation(ft.ditto(0.1)),
    "finetune": federation(ft.finetune(10)),
    "ifca": federation(ft.ifca(2)),
}


@pytest.mark.parametrize("name", OWN)
def test_the_history_has_the_mean_and_the_worst_decile_of_both_models(name: str) -> None:
    run = ft.simulate(OWN[name], fleet(), 20)
    average = ft.simulate(federation(), fleet(), 20)
    last = run.history[-1]
    assert set(last["personal"]) == {"mean", "worst_decile", "received"}
    assert last["personal"]["mean"]["accuracy"] > average.history[-1]["metrics"]["accuracy"] + 0.2
    assert last["personal"]["worst_decile"]["accuracy"] > average.history[-1]["worst_decile"]["accuracy"] + 0.1
    assert last["personal"]["worst_decile"]["accuracy"] <= last["personal"]["mean"]["accuracy"]
    assert ("personal" in run.history[0]) == (name != "finetune")  # which is done after the last version
    assert not any("personal" in line for line in average.history)


@pytest.mark.parametrize("name", OWN)
def test_a_device_keeps_its_own_model_for_predictions(name: str, tmp_path: Path) -> None:
    things = fleet()
    world = Virtual(OWN[name], things, 6, tmp_path)
    while not world.service.done:
        assert world.step()
    for device in things.names:  # it asks what to do, and hears that it is over
        world.agents[device].receive(Linked(), world.now)
    while not all(agent.done for agent in world.agents.values()):
        assert world.step()
    run, right = world.result(), []
    for device in things.names:
        shard = things.shard(device)
        model, row, _ = save.load(tmp_path / "devices" / device / "model.safetensors")
        right.append((outputs(model, row, shard.test_X).argmax(-1) == shard.test_y).mean())
    assert np.mean(right) == pytest.approx(run.history[-1]["personal"]["mean"]["accuracy"], abs=0.03)


@pytest.mark.parametrize(("local", "dim"), [(("head",), SHARED), (("body",), 16 * 3 + 3), (("dense.1",), SHARED)])
def test_only_what_is_not_local_travels(local: tuple[str, ...], dim: int) -> None:
    spec = federation(local=local)
    run, average = ft.simulate(spec, fleet(), 3), ft.simulate(federation(), fleet(), 3)
    whole = spec.task.model.layout.dim
    for way in ("bytes_up", "bytes_down"):
        saved = average.history[1][way] - run.history[1][way]
        assert abs(saved - 8 * 4 * (whole - dim)) < 8 * (8 * 60 if way == "bytes_up" else 16)  # and its own metrics
    stays = ~travels(spec.task)
    assert np.array_equal(run.row[stays], spec.task.model.init(spec.seed)[stays])  # the server never sees them
    assert stays.sum() == whole - dim


def test_by_turns_the_head_is_trained_on_the_body_received_then_the_body_under_that_head() -> None:
    """Collins et al. 2021, Alg. 1: as steps of the whole model of which one part is put back each time."""
    recipe = ft.Recipe(lr=0.3, batch=0, epochs=2)
    task = ft.Task(model=ft.mlp(6, 16, 3), loss="cross_entropy", recipe=recipe, local=("head",), local_epochs=3)
    shard, key, there = fleet().shard("device-0"), Key(3, "device-0", 0, 0), travels(task)
    step = trainer(ft.Task(model=task.model, loss=task.loss, recipe=ft.Recipe(lr=0.3, batch=0)), engine="numpy")
    start = task.model.init(3)
    row = start.copy()
    for moves in (~there, ~there, ~there, there, there):
        fit, _ = step.one({"x": row}, None, shard, key, 1.0)
        row[moves] += fit.report["x"][moves]
    fit, state = learner(phases(ft.Federation(task, seed=3))[0]).one({"x": start[there]}, None, shard, key, 1.0)
    np.testing.assert_allclose(fit.report["x"], (row - start)[there], atol=1e-6)
    np.testing.assert_allclose(state["own"], row[~there], atol=1e-6)
    assert fit.metrics["train"][0] == 5 * len(shard.X)


def test_by_turns_the_running_statistics_of_what_does_not_move_are_held_still() -> None:
    model = ft.sequential(6, ft.dense(8), ft.batch_norm(), ft.relu(), ft.dense(3))
    task = ft.Task(model=model, loss="cross_entropy", local=("head",), recipe=ft.Recipe(batch=8, epochs=2))
    shard, key, row, there = fleet().shard("device-0"), Key(3, "device-0", 0, 0), model.init(3), travels(task)
    for moves in (there, ~there):
        change = np.empty((1, len(row)), np.float32)
        corrected(task, 0.0, moves)(row, None, [shard], [key], [1.0], change, None)
        assert change[0][moves].any() and not change[0][~moves].any()
        views = model.layout.views(change[0])
        assert [views[f"1.batch_norm.{name}"].any() for name in ("mean", "variance")] == [moves is there] * 2


def test_normalisation_layers_can_stay() -> None:
    model = ft.sequential(6, ft.dense(8, "relu"), ft.layer_norm(), ft.dense(8), ft.layer_norm(), ft.dense(3))
    task = ft.Task(model=model, loss="cross_entropy", local=("layer_norm",))
    assert (~travels(task)).sum() == 2 * 16


@pytest.mark.parametrize(
    ("local", "said"),
    [
        (
            ("haed",),
            "task.local has 'haed', which is no layer that learns: valid are head, body, dense, dense.0",
        ),
        (("head", "body"), "which is all that learns: leave one layer to be shared"),
        (("dense",), "which is all that learns"),
    ],
)
def test_a_layer_that_is_none_is_refused(local: tuple[str, ...], said: str) -> None:
    with pytest.raises(ft.SpecError, match=said):
        federation(local=local)


def test_by_turns_needs_layers_that_stay() -> None:
    with pytest.raises(ft.SpecError, match=r"task\.local_epochs is 2 beside no local layers: set it to 0"):
        federation(alone=2)


@pytest.mark.parametrize("strategy", [ft.scaffold(8), ft.feddyn(8), ft.fednova(), ft.qffl(), ft.ditto(), ft.ifca()])
def test_methods_that_do_not_know_layers_that_stay_are_refused(strategy: ft.Strategy) -> None:
    with pytest.raises(ft.SpecError, match=r"task\.local is set beside strategy\.method"):
        federation(strategy, ("head",))


def test_models_that_are_chosen_move_by_those_who_chose_them() -> None:
    with pytest.raises(ft.SpecError, match=r"strategy\.step is set beside strategy\.method clustered"):
        ft.Strategy(step=ft.adam(), method=ft.ifca().method)


def test_it_travels_as_toml(tmp_path: Path) -> None:
    for spec in OWN.values():
        (tmp_path / "fed.toml").write_text(ft.dumps(spec))
        assert ft.load(tmp_path / "fed.toml") == spec
        assert phases(ft.load(tmp_path / "fed.toml")) == phases(spec)
