"""Laws 2 and 8 with edge rounds: real edges between the real service and real agents make the simulated model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

import fedthings as ft
from fate import Fate, Killed
from fedthings.device.agent import Agent
from fedthings.gateway.edge import Edge
from fedthings.learn import save
from fedthings.learn.digits import digits
from fedthings.server.store import Store
from gateways import Tree
from virtual import NAME

ROUNDS = 3
EDGES = {"west": "", "east": ""}
HOMES = {f"device-{i}": "west" if i < 4 else "east" for i in range(8)}


def federation(rounds: int = 3, keep: float = 0.2, **fields) -> ft.Federation:
    recipe = ft.Recipe(lr=0.2, batch=16, keep=keep)
    task = ft.Task(model=ft.mlp(64, 12, 10), loss="cross_entropy", normalise="fleet", recipe=recipe)
    pace = ft.Pace(goal=2, patience=600.0)
    edge = ft.Edge(rounds, patience=20.0)
    return ft.Federation(task, ft.fedavgm(), pace, devices=2, seed=3, edge=edge, **fields)


def fleet() -> ft.Fleet:
    return digits(8, 0).under(HOMES)


def grown(fed: ft.Federation, place: Path) -> Tree:
    return Tree(fed, fleet(), ROUNDS, place, EDGES, homes=HOMES, edges=True)


def assert_same(run: ft.Run, want: ft.Run) -> None:
    assert np.array_equal(run.row, want.row)
    assert len(run.history) == len(want.history)
    for line, due in zip(run.history, want.history, strict=True):
        same = ("version", "updates", "dropped", "loss", "metrics", "worst_decile", "bytes_up", "bytes_down")
        assert {k: line[k] for k in same} == {k: due[k] for k in same}


@pytest.mark.parametrize("stages", [(), (ft.int8(),), (ft.top_k(0.1),)], ids=["plain", "int8", "topk"])
@pytest.mark.parametrize("rounds", [1, 3])
def test_the_model_is_the_simulated_one_bit_for_bit(rounds, stages, tmp_path):
    fed = federation(rounds, stages=stages)
    want = ft.simulate(fed, fleet(), ROUNDS)
    tree = grown(fed, tmp_path)
    while not tree.service.done:
        assert tree.step()
    tree.service.announce()
    while not all(edge.done for edge in tree.gateways.values()):
        assert tree.step()
        for agent in [agent for agent in tree.agents.values() if agent.done]:
            agent.transport.close()  # which says Bye
    assert all(agent.done for agent in tree.agents.values())
    model = save.load(tmp_path / "devices" / "device-5" / "model.safetensors")[1]
    assert np.array_equal(model, want.row)  # the last model has come down to the devices
    assert_same(tree.result(), want)


def test_an_edge_is_killed_at_any_step_and_goes_on_where_it_was(tmp_path):
    fed = federation()
    want = ft.simulate(fed, fleet(), ROUNDS)
    tree = grown(fed, tmp_path / "calm")
    steps = 0
    while not tree.service.done:
        assert tree.step()
        steps += 1
    assert_same(tree.result(), want)
    for at in range(10, steps - 1, steps // 8):
        tree = grown(fed, tmp_path / str(at))
        for step in range(100_000):
            if step == at:
                tree.kill("west", sent=bool(at % 2))
                tree.revive("west")
            if tree.service.done:
                break
            assert tree.step()
        assert_same(tree.result(), want)


def test_gateways_below_an_edge_change_nothing(tmp_path):
    fed = federation()
    want = ft.simulate(fed, fleet(), ROUNDS)
    under = {**EDGES, "hall": "west", "attic": "west"}
    homes = {
        name: ("hall", "attic", "west")[i % 3] if home == "west" else home
        for i, (name, home) in enumerate(HOMES.items())
    }
    tree = Tree(fed, fleet(), ROUNDS, tmp_path, under, homes=homes, edges=True)
    assert_same(tree.run(), want)
    assert tree.gateways["hall"].merged


@pytest.mark.parametrize("pace", [{"goal": 1, "concurrency": 2}, {"goal": 1, "concurrency": 2, "staleness": 3}])
def test_edges_that_are_too_late_or_asynchronous_go_on_with_what_is_asked_next(pace, tmp_path):
    fed = federation(keep=0.0)
    fed = replace(fed, pace=ft.Pace(patience=600.0, **pace))
    tree = grown(fed, tmp_path)
    while not tree.service.done:
        assert tree.step()
    run = tree.result()
    assert [line["updates"] for line in run.history] == [1] * ROUNDS
    simulated = ft.simulate(fed, fleet(), ROUNDS)
    assert [line["updates"] for line in simulated.history] == [1] * ROUNDS
    assert np.isfinite(run.row).all() and np.isfinite(simulated.row).all()


def test_an_edge_is_killed_just_before_and_after_what_it_writes(tmp_path, monkeypatch):
    fed = federation()
    want = ft.simulate(fed, fleet(), ROUNDS)

    def whose(store: Store) -> str:
        return next((name for name in EDGES if f"gateways/{name}/" in str(store._engine.url)), "")

    fate = Fate(monkeypatch, [(Store, name) for name in ("journal", "commit", "checkpoint")], whose)

    def ran(place: Path, moment: int) -> bool:
        fate.begin(moment)
        killed = False
        tree = grown(fed, place)
        while not tree.service.done:
            try:
                assert tree.step()
            except Killed as death:
                killed = True
                tree.kill(death.args[0])
                tree.revive(death.args[0])
                tree.drain()
        assert_same(tree.result(), want)
        return killed

    ran(tmp_path / "calm", 0)
    points = fate.seen
    assert points > 60
    for moment in range(3, points - 1, 31):
        for sign in (1, -1):
            assert ran(tmp_path / f"{moment}{sign}", sign * moment)


def test_a_device_that_vanishes_is_left_out_when_its_patience_is_over(tmp_path):
    fed = federation(keep=0.0)
    tree = grown(fed, tmp_path)
    gone = False
    while not tree.service.done:
        assert tree.step()
        if not gone and tree.service.coordinator.phase == 1 and "device-1" in held_tasks(tree, "west"):
            tree.hubs["west"].unlink("device-1")  # its will says so
            tree.agents.pop("device-1")
            gone = True
            before = tree.now
    assert gone
    run = tree.result()
    assert [line["updates"] for line in run.history] == [2] * ROUNDS
    assert 20 <= tree.now - before < 3 * 20  # waited for once, and not again each round


def held_tasks(tree: Tree, name: str) -> set[str]:
    edge = tree.gateways[name]
    assert isinstance(edge, Edge)
    return set() if edge.rounds is None else set(edge.rounds.coordinator.tasks)


def test_a_device_without_an_edge_declines(tmp_path):
    fed = federation()
    tree = grown(fed, tmp_path)
    news: list[str] = []
    lone = Agent("lone", fleet().shard("device-0"), tree.hub.device("lone", NAME), on_news=news.append)
    tree.agents["lone"] = lone
    while not tree.service.done:
        assert tree.step()
    assert any("join one of them" in text for text in news)


def test_every_wait_of_an_edge_has_a_name(tmp_path):
    tree = grown(federation(), tmp_path)
    seen: set[str] = set()
    while not tree.service.done:
        edge = tree.gateways["west"]
        assert isinstance(edge, Edge)
        waits = edge.status()["waiting"]
        assert waits
        seen |= {wait["for"].split(":")[0] for wait in waits}
        assert tree.step()
    assert {"the next task from above", "reports", "the receipt of the edge's report"} <= seen
