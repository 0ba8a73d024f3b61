"""Each method beside each way: what goes together runs, the same in both worlds; the rest is refused, said why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

import fedthings as ft
from fedthings.federation import phases
from fedthings.learn.digits import digits
from fedthings.learn.staying import travels
from fedthings.phase import schema
from fedthings.simulation.world import Uneven
from gateways import Tree
from secure import Secure, key_in
from virtual import Virtual
from ways import DEVICES, METHODS, ROWS, WAYS, federation, refusal, table

PAGE = Path(__file__).parents[1] / "docs" / "algorithms.md"
VERSIONS = 3


def asynchronous(spec: ft.Federation, things: ft.Fleet, where: Path) -> None:
    world = Uneven(median=3.0, spread=1.0, lost=0.0, seed=5)
    simulated = ft.simulate(spec, things, 12, world=world, out=where / "simulated", trace=True)
    assert np.array_equal(Virtual(spec, things, 12, where, world).run().row, simulated.row)
    lines = map(json.loads, (where / "simulated" / "trace.jsonl").read_text().splitlines())
    assert any(command[0] == "keep" and command[2] > 0 for _, _, *commands in lines for command in commands)


def behind_gateways(spec: ft.Federation, things: ft.Fleet, where: Path) -> None:
    tree = Tree(spec, things, VERSIONS, where, {"west": "", "east": ""})
    run = tree.run()
    assert all(gateway.sums < gateway.merged for gateway in tree.gateways.values())
    assert np.array_equal(run.row, ft.simulate(spec, things, VERSIONS).row)


def compressed(spec: ft.Federation, things: ft.Fleet, where: Path) -> None:
    run = Virtual(spec, things, VERSIONS, where).run()
    plain = ft.simulate(federation(spec.strategy, task=spec.task), things, VERSIONS)
    assert np.array_equal(run.row, ft.simulate(spec, things, VERSIONS).row)
    assert run.summary["total"]["bytes_up"] < 0.7 * plain.summary["total"]["bytes_up"]
    assert run.summary["total"]["bytes_down"] < 0.7 * plain.summary["total"]["bytes_down"]
    assert np.linalg.norm(run.row - plain.row) < 0.1 * np.linalg.norm(plain.row - spec.task.model.init(spec.seed))


def in_secure_mode(spec: ft.Federation, things: ft.Fleet, where: Path) -> None:
    run, simulated = Secure(spec, things, VERSIONS, where).run(), ft.simulate(spec, things, VERSIONS)
    assert np.array_equal(run.row, simulated.row)
    assert [line["updates"] for line in run.history] == [DEVICES] * VERSIONS


def under_dp(spec: ft.Federation, things: ft.Fleet, where: Path) -> None:
    run = Virtual(spec, things, VERSIONS, where, noise="keyed").run()
    assert np.array_equal(run.row, ft.simulate(spec, things, VERSIONS).row)
    assert [f.name for f in schema(phases(spec)[0])] == ["x"]  # nothing leaves without noise
    assert not run.history[-1]["metrics"]


def partial_work(spec: ft.Federation, things: ft.Fleet, where: Path) -> None:
    hurried = Uneven(median=3.0, spread=0.0)  # all of the work takes longer than a deadline leaves
    part = ft.simulate(spec, things, VERSIONS, world=hurried)
    assert np.array_equal(Virtual(spec, things, VERSIONS, where, hurried).run().row, part.row)
    assert [line["updates"] for line in part.history] == [DEVICES] * VERSIONS
    assert not np.array_equal(part.row, ft.simulate(spec, things, VERSIONS).row)


RUNS: dict[str, Callable[[ft.Federation, ft.Fleet, Path], None]] = {
    way: globals()[way.lower().replace(" ", "_")] for way in WAYS
}
LACKS = {"asynchronous": "asynchronous", "in secure mode": "secure", "under DP": "privacy", "partial work": "partial"}
NO = {
    ("mixing", "under DP"): "strategy.step is mixing beside privacy",
    ("fedasync", "under DP"): "strategy.step is mixing beside privacy",
    ("prototypes", "asynchronous"): "pace.staleness is 4 beside prototypes",
    ("prototypes", "under DP"): "privacy is claimed beside prototypes",
}
"""What is refused for another reason than the method's own."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ROWS)
def test_what_goes_together_runs_and_the_rest_is_refused(name: str, way: str, tmp_path: Path) -> None:
    (strategy, task), helper = ROWS[name], key_in(tmp_path / "helper")
    reason = refusal(lambda: federation(strategy, way, helper, task))
    if not reason:
        assert (name, way) not in NO
        RUNS[way](federation(strategy, way, helper, task), digits(DEVICES, 0), tmp_path)
        return
    assert (NO.get((name, way)) or strategy.method.lacks[LACKS[way]]) in reason


@pytest.mark.parametrize("name", ROWS)
def test_each_method_among_devices_that_hide_their_reports_together(tmp_path: Path, name: str) -> None:
    def built() -> ft.Federation:
        strategy, task = ROWS[name]
        spec = federation(strategy, "in secure mode", key_in(tmp_path / "helper"), task)
        return replace(spec, secure=ft.secagg())

    reason = refusal(built)
    assert bool(reason) == (name in ("scaffold", "ifca", "fedbuff")), reason
    if reason:
        assert "secure is set beside" in reason or "strategy.staleness is set beside secagg" in reason
        return
    run = Virtual(built(), digits(DEVICES, 0), VERSIONS, tmp_path / "run").run()
    assert np.array_equal(run.row, ft.simulate(built(), digits(DEVICES, 0), VERSIONS).row)
    assert [line["updates"] for line in run.history] == [DEVICES] * VERSIONS


@pytest.mark.parametrize("name", ROWS)
def test_under_edges_are_methods_and_tasks_that_keep_nothing_there(name: str) -> None:
    strategy, task = ROWS[name]
    reason = refusal(lambda: replace(federation(strategy, task=task), edge=ft.Edge(2)))
    assert bool(reason) == (strategy.method.name != "average" or bool(task.local) or name == "fedbuff"), reason
    assert not reason or "is set beside" in reason


@pytest.mark.parametrize("name", [name for name, strategy in METHODS.items() if strategy.method.name == "average"])
def test_layers_that_stay_go_with_every_server_step(name: str) -> None:
    _, task = ROWS["local"]
    spec, first = federation(METHODS[name], task=task), task.model.init(5)
    run, there = ft.simulate(spec, digits(DEVICES, 0), VERSIONS), travels(task)
    assert (run.row[there] != first[there]).mean() > 0.5
    np.testing.assert_allclose(run.row[~there], first[~there], rtol=1e-6)
    assert run.history[-1]["personal"]["mean"]["accuracy"] > run.history[0]["personal"]["mean"]["accuracy"]


def test_the_page_has_the_table_of_the_specs(tmp_path: Path) -> None:
    assert "\n".join(table(key_in(tmp_path))) in PAGE.read_text()
