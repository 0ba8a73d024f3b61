"""Edge rounds in the simulator: HierFAVG (Liu et al. 2020, Alg. 1), many edges together as each alone."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

import fedthings as ft
from fedthings.cli import fedthings
from fedthings.federation import dumps, load, phases
from fedthings.learn.digits import digits
from fedthings.phase import below, learner
from fedthings.simulation.world import Uneven
from fedthings.vector import Key

HOMES = {f"device-{i}": ("west", "east", "east", "north")[i % 4] for i in range(12)}


def federation(edge: ft.Edge | None = None, goal: int = 3, **fields) -> ft.Federation:
    recipe = ft.Recipe(lr=0.2, batch=16)
    task = ft.Task(model=ft.mlp(64, 12, 10), loss="cross_entropy", recipe=recipe)
    return ft.Federation(task, ft.fedavg(), ft.Pace(goal=goal, patience=600.0), seed=3, edge=edge, **fields)


def fleet() -> ft.Fleet:
    return digits(12, 0).under(HOMES)


def by_hand(fed: ft.Federation, data: ft.Fleet, versions: int) -> np.ndarray:
    """Algorithm 1 in float64 means, one device after the other."""
    assert fed.edge is not None
    spec = below(phases(fed)[0])
    ours = learner(spec)
    theta = fed.task.model.init(fed.seed)
    for version in range(versions):
        ends, sizes = [], []
        for names in data.edges.values():
            edge = theta
            for number in range(fed.edge.rounds):
                moved, weights = [], []
                for name in names:
                    key = Key(fed.seed, name, version * fed.edge.rounds + number, 0)
                    fit, _ = ours.one({"x": edge}, None, data.shard(name), key, 1.0)
                    moved.append(fit.report["x"].astype(np.float64))
                    weights.append(int(fit.weight))
                edge = (edge + np.average(moved, 0, weights)).astype(np.float32)
            ends.append(edge.astype(np.float64))
            sizes.append(sum(weights))
        theta = np.average(ends, 0, sizes).astype(np.float32)
    return theta


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_it_is_the_published_algorithm(rounds):
    fed = federation(ft.Edge(rounds))
    run = ft.simulate(fed, fleet(), 3)
    assert np.allclose(run.row, by_hand(fed, fleet(), 3), rtol=0, atol=2e-6)
    assert [line["updates"] for line in run.history] == [3] * 3


def test_one_edge_round_is_plain_averaging_over_the_same_devices():
    """Equal but for the rounding of an edge's report to float32: a unit in the last place a version."""
    flat = ft.simulate(federation(goal=12), fleet(), 4)
    edges = ft.simulate(federation(ft.Edge(1)), fleet(), 4)
    assert np.allclose(edges.row, flat.row, rtol=0, atol=4 * 2**-23)
    assert edges.history[-1]["metrics"]["accuracy"] == pytest.approx(flat.history[-1]["metrics"]["accuracy"], abs=0.01)


@pytest.mark.parametrize("stages", [(), (ft.clip(1.0), ft.top_k(0.2))], ids=["plain", "stages"])
def test_many_edges_together_are_each_alone_bit_for_bit(stages, monkeypatch):
    fed = federation(ft.Edge(2), stages=stages)
    fed = replace(fed, task=replace(fed.task, normalise="fleet", recipe=ft.Recipe(lr=0.2, batch=16, keep=0.3)))
    want = ft.simulate(fed, fleet(), 3, engine="numpy")
    assert np.array_equal(ft.simulate(fed, fleet(), 3, engine="numpy", workers=2).row, want.row)
    monkeypatch.setattr("fedthings.simulation.cohort.ROWS", 1)  # a device at a time
    assert np.array_equal(ft.simulate(fed, fleet(), 3, engine="numpy").row, want.row)


def test_time_is_that_of_the_edges_rounds_and_links():
    run = ft.simulate(federation(ft.Edge(5)), fleet(), 2)
    assert [line["time"] for line in run.history] == [6.0, 12.0]  # a second each edge round, and one for the edge's


def test_bytes_are_those_to_the_coordinator():
    one, five = (ft.simulate(federation(ft.Edge(k)), fleet(), 2).history for k in (1, 5))
    assert [line["bytes_up"] for line in one] == [line["bytes_up"] for line in five]


def test_a_lossy_world_leaves_devices_out_and_goes_on():
    fed = federation(ft.Edge(3, patience=5.0))
    run = ft.simulate(fed, fleet(), 5, world=Uneven(1.0, 0.5, lost=0.2, seed=1))
    assert run.history[-1]["metrics"]["accuracy"] > 0.4
    again = ft.simulate(fed, fleet(), 5, world=Uneven(1.0, 0.5, lost=0.2, seed=1))
    assert np.array_equal(run.row, again.row)


@pytest.mark.parametrize(
    "pace",
    [ft.Pace(goal=2, concurrency=3, staleness=3, patience=600.0), ft.Pace(goal=2, concurrency=3, patience=600.0)],
)
def test_edges_may_be_over_selected_and_asynchronous(pace):
    fed = replace(federation(ft.Edge(2)), pace=pace)
    run = ft.simulate(fed, fleet(), 8, world=Uneven(1.0, 1.0, seed=2))
    assert [line["updates"] for line in run.history] == [2] * 8
    assert run.history[-1]["metrics"]["accuracy"] > 0.6


def test_a_run_that_was_left_goes_on(tmp_path):
    fed = federation(ft.Edge(2), stages=(ft.top_k(0.2),))
    fed = replace(fed, pace=ft.Pace(goal=2, concurrency=3, staleness=3, patience=600.0))
    world = Uneven(1.0, 1.0, seed=2)
    want = ft.simulate(fed, fleet(), 6, world=world)

    def stop(line) -> None:
        if line["version"] == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        ft.simulate(fed, fleet(), 6, world=world, out=tmp_path / "run", on_version=stop)
    run = ft.simulate(fed, fleet(), 6, world=world, out=tmp_path / "run")
    assert np.array_equal(run.row, want.row)


def test_the_command_line_divides_a_file_among_edges(tmp_path):
    fed, data = federation(ft.Edge(2)), digits(12, 0)
    (tmp_path / "fed.toml").write_text(dumps(fed))
    shards = [data.shard(name) for name in data.names]
    device = np.repeat(np.arange(12), [len(shard.X) for shard in shards])
    X, y = (np.concatenate([getattr(shard, part) for shard in shards]) for part in ("X", "y"))
    np.savez(tmp_path / "fleet.npz", X=X, y=y, device=device)
    words = ["simulate", str(tmp_path / "fed.toml"), "--fleet", str(tmp_path / "fleet.npz"), "--rounds", "2", "--json"]
    result = CliRunner().invoke(fedthings, [*words, "--edges", "3"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["rounds"] == 2
    assert "has no edges" in str(CliRunner().invoke(fedthings, words).exception)


def test_it_travels_in_toml(tmp_path):
    fed = federation(ft.Edge(5, goal=4, patience=9.0, quorum=2))
    (tmp_path / "fed.toml").write_text(dumps(fed))
    assert load(tmp_path / "fed.toml") == fed


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ft.Edge(0), "edge.rounds is 0"),
        (lambda: ft.Edge(2, goal=3, quorum=4), "edge.quorum is 4"),
        (lambda: ft.Edge(2, patience=0.0), "edge.patience is 0.0"),
        (lambda: replace(federation(ft.Edge(2)), strategy=ft.fedbuff()), "strategy.staleness is set beside edge"),
        (lambda: ft.simulate(federation(ft.Edge(2)), digits(12, 0), 1), "has no edges"),
        (lambda: ft.simulate(federation(ft.Edge(2), devices=4), fleet(), 1), "devices is 4, the fleet has 3"),
        (lambda: digits(12, 0).under(13), "edges is 13"),
        (lambda: digits(12, 0).under({"device-0": "west"}), "names none for device-1"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(make, says):
    with pytest.raises(ft.FedthingsError, match=says):
        make()


def test_a_world_of_sleepers_is_refused():
    sleepy = ft.Things(
        groups=(ft.Group(device="pi4", link="wifi", available=ft.duty_cycle(5.0, 60.0), leaving="sleep"),)
    )
    with pytest.raises(ft.SpecError, match="sleeps in this world"):
        ft.simulate(federation(ft.Edge(2)), fleet(), 1, world=sleepy)


def test_a_fleet_divides_its_devices_among_so_many_edges():
    edges = digits(12, 0).under(5).edges
    assert list(edges) == [f"edge-{i}" for i in range(5)]
    assert sorted(map(len, edges.values())) == [2, 2, 2, 3, 3]
