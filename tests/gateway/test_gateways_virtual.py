"""Law 7 with gateways: the same model, bit for bit, with none, one, four, stacked, and when one is killed."""

from __future__ import annotations

import numpy as np
import pytest

import fedthings as ft
from fate import Fate, Killed
from fedthings.engine import Engine
from fedthings.gateway.status import status
from fedthings.learn.digits import digits
from fedthings.server import gateways
from fedthings.server.store import Store
from fedthings.simulation.world import Steady
from fedthings.transport.topics import COORDINATOR
from gateways import Tree

ROUNDS = 4
FLAT = dict.fromkeys(("west", "east", "north", "south"), "")
STACKED = {"top": "", "west": "top", "east": "top", "south": ""}
DEEP = {"a": "", "b": "a", "c": "b"}


def federation(n: int = 8, **pace) -> ft.Federation:
    recipe = ft.Recipe(lr=0.2, batch=16, keep=0.2)
    task = ft.Task(model=ft.mlp(64, 12, 10), loss="cross_entropy", normalise="fleet", recipe=recipe)
    return ft.Federation(task, ft.fedavgm(), ft.Pace(**{"goal": n, "patience": 60.0} | pace), devices=n, seed=3)


def assert_same(run: ft.Run, want: ft.Run) -> None:
    assert np.array_equal(run.row, want.row)
    assert len(run.history) == len(want.history)
    for line, due in zip(run.history, want.history, strict=True):
        same = ("version", "updates", "dropped", "loss", "metrics", "worst_decile", "bytes_up")
        assert {k: line[k] for k in same} == {k: due[k] for k in same}


@pytest.fixture(scope="module")
def want() -> ft.Run:
    return ft.simulate(federation(), digits(8, 0), ROUNDS)


@pytest.mark.parametrize("under", [{}, {"west": ""}, FLAT, STACKED, DEEP], ids=["0", "1", "4", "stacked", "deep"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_model_is_the_same_bit_for_bit(under, count, tmp_path, want):
    tree = Tree(federation(), digits(8, 0), ROUNDS, tmp_path, under, settings={"count": count})
    assert_same(tree.run(), want)
    if under and not count:
        for gateway in tree.gateways.values():
            if gateway.routes or gateway.assigned or gateway.merged:
                assert gateway.sums < gateway.merged  # it has summed, and not passed on one by one
    assert not list((tmp_path / "subtotals").iterdir())


def test_a_gateway_is_killed_and_its_devices_move(tmp_path, want):
    tree = Tree(federation(), digits(8, 0), ROUNDS, tmp_path, FLAT)
    steps = 0
    while not tree.service.done:
        assert tree.step()
        steps += 1
        held = tree.gateways["west"].hold if "west" in tree.gateways and tree.gateways["west"].bound else None
        if held is not None and tree.service.coordinator.version == 2 and held.reports:
            tree.kill("west")
            for name in [name for name, home in tree.homes.items() if home == "west"]:
                tree.move(name, "east")
    assert "west" not in tree.gateways
    assert_same(tree.result(), want)


@pytest.mark.parametrize("back", [False, True], ids=["for good", "and back"])
def test_devices_go_from_a_gateway_to_the_coordinator_and_come_back(back, tmp_path, want):
    """The gateway holds a report of each that it cannot send up; each offers it to the coordinator too."""
    tree = Tree(federation(), digits(8, 0), ROUNDS, tmp_path, FLAT, settings={"interval": 5.0, "count": 9})
    moved: list[str] = []
    while not tree.service.done:
        assert tree.step()
        coordinator = tree.service.coordinator
        if not moved and coordinator.phase == 1 and coordinator.version == 1 and held(tree, "west"):
            moved = [ticket.device for ticket in held(tree, "west")]
            for name in moved:
                tree.move(name, "")
            tree.drain()
        elif back and moved and coordinator.version == 2 and tree.homes[moved[0]] == "":
            for name in moved:
                tree.move(name, "west")
            tree.drain()
    assert moved
    assert_same(tree.result(), want)
    while tree.mail:
        tree.step()
    assert not held(tree, "west")


@pytest.mark.parametrize("at", range(40, 240, 25))
def test_devices_wander_at_any_moment(at, tmp_path, want):
    """Each step a device goes on elsewhere: at another gateway, or at the coordinator; nobody is counted twice."""
    tree = Tree(federation(), digits(8, 0), ROUNDS, tmp_path, FLAT, settings={"count": 2})
    places = [*FLAT, ""]
    for step in range(100_000):
        if at <= step < at + 20:
            name = tree.fleet.names[(step * 3) % 8]
            tree.move(name, places[(step * 7) % 5])
            tree.drain()
        if tree.service.done:
            break
        assert tree.step()
    assert_same(tree.result(), want)


def held(tree: Tree, name: str) -> set:
    """Return the tickets that a gateway holds."""
    gateway = tree.gateways.get(name)
    return set() if gateway is None or not gateway.bound else set(gateway.hold.reports.values())


def test_a_gateway_that_comes_back_with_its_spool_counts_nobody_twice(tmp_path, want):
    """Its devices have moved, and their reports were kept another way, while it was dead with the same in its spool."""
    tree = Tree(federation(), digits(8, 0), ROUNDS, tmp_path, FLAT, settings={"interval": 5.0, "count": 9})
    moved: list[str] = []
    back = False
    while not tree.service.done:
        assert tree.step()
        version = tree.service.coordinator.version
        if not moved and version == 1 and tree.service.coordinator.phase == 1 and len(held(tree, "west")) == 2:
            tree.kill("west", sent=False)
            moved = [name for name, home in tree.homes.items() if home == "west"]
            for name in moved:
                tree.move(name, "east")
        elif moved and not back and version == 2:
            assert tree.open("west")
            back = True
            assert list((tmp_path / "gateways" / "west").glob("*/spool/*.cbor"))
    assert back
    assert not held(tree, "west")  # it was told that all is dealt with
    assert tree.gateways["west"].merged == 0
    assert_same(tree.result(), want)


def test_a_gateway_is_killed_at_many_points_and_starts_again(tmp_path, want):
    tree = Tree(federation(), digits(8, 0), ROUNDS, tmp_path / "calm", STACKED)
    steps = 0
    while not tree.service.done:
        assert tree.step()
        steps += 1
    assert_same(tree.result(), want)
    for name in ("top", "west", "south"):
        for at in range(20, steps - 1, steps // 6):
            tree = Tree(federation(), digits(8, 0), ROUNDS, tmp_path / f"{name}-{at}", STACKED)
            for step in range(100_000):
                if step == at:
                    tree.kill(name)
                    tree.revive(name)
                if tree.service.done:
                    break
                assert tree.step()
            assert_same(tree.result(), want)


def test_an_outage_of_the_uplink_is_worked_through(tmp_path, want):
    tree = Tree(federation(), digits(8, 0), ROUNDS, tmp_path, {"west": ""}, world=Steady(3.0))
    cut = mended = False
    while not tree.service.done:
        assert tree.step()
        coordinator = tree.service.coordinator
        if not cut and coordinator.phase == 1 and coordinator.version == 1 and len(coordinator.tasks) == 8:
            if tree.mail:
                continue
            tree.hub.unlink("west")
            cut = True
        elif cut and not mended and len(held(tree, "west")) == 8:  # all of them reported while the link was down
            assert not tree.gateways["west"].up.linked
            assert next(w["for"] for w in status(tree.gateways["west"])["waiting"]) == "the link upward"
            agent = tree.join("device-3")  # and one of them starts anew
            tree.drain()
            assert agent.transport.bytes_received
            tree.hub.link("west")
            mended = True
    assert mended
    assert_same(tree.result(), want)


@pytest.mark.parametrize("under", [{"west": ""}, STACKED], ids=["1", "stacked"])
@pytest.mark.parametrize(
    "pace", [{"goal": 3, "concurrency": 8}, {"goal": 3, "concurrency": 8, "staleness": 4}], ids=["over", "async"]
)
def test_a_sum_larger_than_the_version_takes_is_made_smaller(under, pace, tmp_path):
    tree = Tree(federation(8, **pace), digits(8, 0), 6, tmp_path, under, settings={"count": 4})
    while not tree.service.done:
        assert tree.step()
    run = tree.result()
    assert [line["updates"] for line in run.history] == [3] * 6
    while tree.mail:
        tree.step()
    assert not any(held(tree, name) for name in tree.gateways)


def test_the_coordinator_is_killed_with_subtotals_in_its_journal(tmp_path, want):
    """Law 8: at each step of a version the coordinator starts again with its directory."""
    for at in range(30, 130, 7):
        tree = Tree(
            federation(), digits(8, 0), ROUNDS, tmp_path / str(at), {"west": "", "east": ""}, settings={"count": 2}
        )
        for step in range(100_000):
            if step == at:
                tree.mail = type(tree.mail)(m for m in tree.mail if m[0] != COORDINATOR)
                tree.service.close()
                tree.serve()
            if tree.service.done:
                break
            assert tree.step()
        assert_same(tree.result(), want)


def test_the_coordinator_is_killed_between_any_two_writes(tmp_path, monkeypatch, want):
    """Law 8: just before or just after each thing that is durable, where subtotals come in."""
    writes = [(Store, name) for name in ("journal", "commit", "checkpoint")]
    fate = Fate(monkeypatch, [*writes, (gateways, "count"), (Engine, "merge")])

    def run(place, moment: int) -> bool:
        fate.begin(0)
        tree = Tree(federation(), digits(8, 0), ROUNDS, place, {"west": "", "east": ""}, settings={"count": 2})
        fate.begin(moment)
        killed = False
        while not tree.service.done:
            try:
                assert tree.step()
            except Killed:
                killed = True
                tree.mail = type(tree.mail)(m for m in tree.mail if m[0] != COORDINATOR)
                tree.serve()
                tree.drain()
        assert_same(tree.result(), want)
        return killed

    run(tmp_path / "calm", 0)
    points = fate.seen
    assert points > 60
    for moment in range(3, points - 1, 7):
        for sign in (1, -1):
            assert run(tmp_path / f"{moment}{sign}", sign * moment)
