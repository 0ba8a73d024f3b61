"""Law 7 with gateways: the same model, bit for bit, with none, one, four, stacked, and when one is killed."""

from __future__ import annotations

import numpy as np
import pytest

import fedthings as ft
from fedthings.learn.digits import digits
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
