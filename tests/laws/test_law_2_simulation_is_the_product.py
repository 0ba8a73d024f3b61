"""Law 2: the service's trace is the simulator's, command by command, and so is the model, bit for bit."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fedthings as ft
from fedthings.simulation.world import Steady, Uneven
from fedthings.vector import keyed
from virtual import Virtual

SLOW = Uneven(median=3.0, spread=1.0, lost=0.1, seed=5)
THINGS = ft.Things(
    (ft.Group(device="slow", link="instant", stragglers=ft.log_normal(1.0), dropout=0.1),),
    devices={"slow": ft.Device(based_on="pi4", flops=3e4)},
    links={"instant": ft.Link(based_on="ethernet", up=1e99, down=1e99, round_trip=0.0, loss=0.0)},
)


def fleet(devices: int = 9) -> ft.Fleet:
    rng = keyed("law 2")
    X = rng.normal(0, 1, (400, 6)).astype(np.float32)
    X[rng.random(X.shape) < 0.05] = np.nan
    y = (np.nan_to_num(X[:, 0]) > 0).astype(np.int64) + (np.nan_to_num(X[:, 1]) > 0.5)
    device = ft.partition.dirichlet(y, devices, 0.5, 1)
    return ft.Fleet.from_arrays(X, y, device, split=(rng.random(400) < 0.2).astype(int))


def federation(pace: ft.Pace, **more) -> ft.Federation:
    settings = {"strategy": ft.fedavg(), "devices": 9, **more}
    recipe = ft.Recipe(lr=0.1, batch=8, epochs=2, **settings.pop("recipe", {}))
    local = {"local": settings.pop("local", ()), "local_epochs": settings.pop("alone", 0)}
    model, window = settings.pop("model", ft.mlp(6, 8, 3)), settings.pop("window", ft.window())
    task = ft.Task(model=model, loss="cross_entropy", normalise="fleet", recipe=recipe, window=window, **local)
    return ft.Federation(task, pace=pace, seed=11, **settings)


CASES = {
    "synchronous": (ft.Pace(goal=9), {}, Steady()),
    "over-selected": (ft.Pace(goal=4, concurrency=6, patience=8.0, quorum=2), {}, SLOW),
    "buffered": (ft.Pace(goal=3, concurrency=6, patience=20.0, staleness=4), {}, SLOW),
    "semi-synchronous": (ft.Pace(goal=9, concurrency=6, patience=20.0, staleness=4, period=4.0, quorum=2), {}, SLOW),
    "own deadlines, sitting out, forecast": (
        ft.Pace(
            goal=3, concurrency=4, patience=20.0, quorum=2, slack=1.5, separation=1, cap=5, selection=ft.forecast()
        ),
        {},
        SLOW,
    ),
    "asynchronous mixing": (
        ft.Pace(goal=1, concurrency=5, patience=20.0, staleness=6),
        {"strategy": ft.mixing(0.6, schedule=ft.polynomial(0.5))},
        SLOW,
    ),
    "compressed both ways": (
        ft.Pace(goal=4, concurrency=6, patience=8.0, quorum=2),
        {"stages": (ft.clip(5.0), ft.top_k(0.3), ft.eden(3)), "down": ft.int8(16)},
        SLOW,
    ),
    "of low rank, asynchronous": (
        ft.Pace(goal=3, concurrency=6, patience=20.0, staleness=4),
        {"stages": (ft.low_rank(1), ft.int4(8)), "down": ft.int4(8), "recipe": {"keep": 0.2}},
        SLOW,
    ),
    "partial work, over-selected": (
        ft.Pace(goal=5, concurrency=7, patience=4.0, quorum=2),
        {"strategy": ft.fedprox(0.1), "recipe": {"keep": 0.2}},
        SLOW,
    ),
    "partial work, buffered": (
        ft.Pace(goal=3, concurrency=6, patience=5.0, staleness=4),
        {"strategy": ft.Strategy(mu=0.01, partial=True, weight="equal")},
        SLOW,
    ),
    "partial work of things, own deadlines": (
        ft.Pace(goal=4, concurrency=6, patience=5.0, quorum=2, slack=1.5),
        {"strategy": ft.fedprox(0.1)},
        THINGS,
    ),
    "down by differences": (
        ft.Pace(goal=4, concurrency=6, patience=8.0, quorum=2),
        {"stages": (ft.eden(3),), "down": ft.delta(6, 16)},
        SLOW,
    ),
    "down by differences, asynchronous": (
        ft.Pace(goal=3, concurrency=6, patience=20.0, staleness=4),
        {"strategy": ft.fedadam(), "down": ft.delta(8, 16, back=2)},
        SLOW,
    ),
    "scaffold, compressed both ways": (
        ft.Pace(goal=4, concurrency=6, patience=8.0, quorum=2),
        {"strategy": ft.scaffold(9, step=ft.momentum(0.5)), "stages": (ft.eden(4),), "down": ft.int8(16)},
        SLOW,
    ),
    "scaffold by differences": (
        ft.Pace(goal=4, concurrency=6, patience=8.0, quorum=2),
        {"strategy": ft.scaffold(9), "down": ft.delta(8, 16)},
        SLOW,
    ),
    "feddyn": (ft.Pace(goal=4, concurrency=6, patience=8.0, quorum=2), {"strategy": ft.feddyn(9, 0.1)}, SLOW),
    "nova, partial work, buffered": (
        ft.Pace(goal=3, concurrency=6, patience=5.0, staleness=4),
        {"strategy": ft.fednova(mu=0.1)},
        SLOW,
    ),
    "q-ffl": (ft.Pace(goal=4, concurrency=6, patience=8.0, quorum=2), {"strategy": ft.qffl(2.0)}, SLOW),
    "fedsgd": (ft.Pace(goal=3, concurrency=6, patience=20.0, staleness=4), {"strategy": ft.fedsgd(0.3)}, SLOW),
    "ditto": (
        ft.Pace(goal=4, concurrency=6, patience=8.0, quorum=2),
        {"strategy": ft.ditto(0.5), "stages": (ft.top_k(0.3),)},
        SLOW,
    ),
    "ifca, buffered": (ft.Pace(goal=3, concurrency=6, patience=20.0, staleness=4), {"strategy": ft.ifca(3)}, SLOW),
    "tuned": (ft.Pace(goal=4, concurrency=6, patience=8.0, quorum=2), {"strategy": ft.finetune(2)}, SLOW),
    "local head, compressed both ways": (
        ft.Pace(goal=4, concurrency=6, patience=8.0, quorum=2),
        {"strategy": ft.fedadam(), "local": ("head",), "stages": (ft.eden(4),), "down": ft.int8(16)},
        SLOW,
    ),
    "local head, by turns": (
        ft.Pace(goal=4, concurrency=6, patience=8.0, quorum=2),
        {"strategy": ft.fedprox(0.1), "local": ("head",), "alone": 2},
        SLOW,
    ),
    "local body, asynchronous": (
        ft.Pace(goal=3, concurrency=6, patience=20.0, staleness=4),
        {"local": ("dense.0",), "stages": (ft.low_rank(1),), "down": ft.delta(8, 16)},
        SLOW,
    ),
    "prototypes": (
        ft.Pace(goal=4, concurrency=6, patience=8.0, quorum=2),
        {"model": ft.sequential(6, ft.prototypes(4, 3, ((8,), (6, 5))))},
        SLOW,
    ),
    "windows, recurrent": (
        ft.Pace(goal=4, concurrency=6, patience=8.0, quorum=2),
        {
            "model": ft.sequential(
                (3, 6), ft.log1p((1,)), ft.conv1d(4, 2, padding="causal"), ft.batch_norm(), ft.gru(3)
            ),
            "window": ft.window(3, stride=2),
            "strategy": ft.fedprox(0.1),
        },
        SLOW,
    ),
    "own share kept, clipped": (
        ft.Pace(goal=5, concurrency=7, patience=9.0, quorum=2),
        {"recipe": {"keep": 0.3}, "stages": (ft.clip(0.5),), "strategy": ft.fedadam()},
        SLOW,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_trace_history_and_model_are_those_of_the_simulator(name, tmp_path):
    pace, settings, world = CASES[name]
    spec, things = federation(pace, **settings), fleet()
    simulated = ft.simulate(spec, things, 8, out=tmp_path / "simulated", world=world, trace=True)
    with (tmp_path / "trace.jsonl").open("w") as trace:
        served = Virtual(spec, things, 8, tmp_path / "served", world, trace=trace).run()
    want = (tmp_path / "simulated" / "trace.jsonl").read_text().splitlines()
    have = (tmp_path / "trace.jsonl").read_text().splitlines()
    for a, b in zip(want, have, strict=False):
        assert json.loads(a) == json.loads(b)
    assert len(want) == len(have) > 30
    assert np.array_equal(simulated.row, served.row)
    # A device in the field does not measure its joules yet.
    assert [{**line, "joules": None} for line in simulated.history] == served.history
    assert len(simulated.history) == 8
    assert simulated.model == served.model
    if name != "synchronous":
        assert any("discard" in line for line in want)
    assert simulated.summary["engine"].pop("trains")  # in a service it is the devices that train, and know by what
    simulated.summary["total"]["joules"] = None
    same = ("rounds", "best", "reason", "seconds", "bytes_up", "bytes_down", "engine", "total")
    assert {k: simulated.summary[k] for k in same} == {k: served.summary[k] for k in same}
