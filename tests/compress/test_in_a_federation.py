"""Compression in a federation: as data, what travels, what is refused when it is built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fedthings.bodies import Report
from fedthings.engine import Engine
from fedthings.errors import WireError
from fedthings.federation import phases
from fedthings.learn.digits import digits
from fedthings.phase import received, sent
from fedthings.protocol.events import Ticket

TASK = ft.Task(model=ft.mlp(64, 32, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.3, batch=16))
STAGES = {
    "int8": (ft.int8(),),
    "int4": (ft.clip(10.0), ft.int4(64)),
    "eden": (ft.eden(2),),
    "top_k": (ft.top_k(0.1), ft.eden(4)),
    "random_mask": (ft.random_mask(0.2), ft.int8()),
    "low_rank": (ft.low_rank(4), ft.eden(4)),
    "sign": (ft.sign(0.02),),
}


def federation(stages=(), down=None) -> ft.Federation:
    return ft.Federation(TASK, ft.fedavg(), ft.Pace(goal=10), stages=stages, down=down)


@pytest.mark.parametrize("name", STAGES)
def test_it_travels_as_toml(name: str, tmp_path: Path) -> None:
    spec = federation(STAGES[name], ft.int8(128))
    (tmp_path / "fed.toml").write_text(ft.dumps(spec))
    assert ft.load(tmp_path / "fed.toml") == spec


@pytest.mark.parametrize("name", STAGES)
def test_what_arrives_is_what_was_announced(name: str) -> None:
    """The bytes in the history are those of the bodies, whatever a report holds (law 4)."""
    spec, fleet = federation(STAGES[name]), digits(10, 0)
    plain, run = ft.simulate(federation(), fleet, 3), ft.simulate(spec, fleet, 3)
    assert run.summary["total"]["bytes_up"] < 0.5 * plain.summary["total"]["bytes_up"]
    engine = Engine(spec, 3)
    reports = sum(engine.report_bytes(Ticket(0, 1, name, 0)) for name in fleet.names)
    assert run.history[1]["bytes_up"] == reports
    assert run.summary["metrics"]["accuracy"] > (0.15 if name == "sign" else 0.6)


def test_the_model_goes_down_in_whole_numbers() -> None:
    fleet = digits(10, 0)
    plain, run = (ft.simulate(federation(down=down), fleet, 20) for down in (None, ft.int8()))
    assert run.summary["total"]["bytes_down"] < 0.3 * plain.summary["total"]["bytes_down"]
    assert run.summary["metrics"]["accuracy"] > plain.summary["metrics"]["accuracy"] - 0.02
    spec = phases(federation(down=ft.int8(64)))[0]
    row = TASK.model.init(3)
    arrays = sent(spec, row, 5)
    scale = np.repeat(arrays["quantize.scale"], 64)[: len(row)]
    assert (np.abs(received(spec, arrays)["x"] - row) <= scale * (1 + 1e-5)).all()
    np.testing.assert_array_equal(sent(spec, row, 5)["x"], arrays["x"])  # the same for all devices


def test_a_model_that_lies_about_its_size_is_refused() -> None:
    spec = phases(federation(down=ft.int8(64)))[0]
    arrays = dict(sent(spec, TASK.model.init(0), 0))
    for name, wrong in (
        ("x", arrays["x"][:-1]),
        ("x", arrays["x"].astype(np.float32)),
        ("quantize.scale", arrays["x"]),
    ):
        with pytest.raises(WireError, match="wrong arrays"):
            received(spec, {**arrays, name: wrong})
    with pytest.raises(WireError, match=r"the model's quantize\.scale is not float32"):
        received(spec, {"x": arrays["x"]})


@pytest.mark.parametrize("name", STAGES)
def test_a_report_that_lies_about_its_size_is_refused(name: str) -> None:
    engine = Engine(federation(STAGES[name]), 3)
    good = engine._template
    for array, row in good.arrays.items():
        for wrong in (row[:-1], np.concatenate([row, row]), row.astype(np.float64)):
            with pytest.raises(WireError, match="wrong"):
                engine.expect(Report(good.ticket, {**good.arrays, array: wrong}, good.weight, good.metrics))
        with pytest.raises(WireError, match="wrong arrays"):
            less = {other: row for other, row in good.arrays.items() if other != array}
            engine.expect(Report(good.ticket, less, good.weight, good.metrics))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((ft.int8(), ft.eden(4)), "eden stands behind a stage that sends bits"),
        ((ft.eden(4), ft.clip(1.0)), "clip stands behind a stage that sends bits"),
        ((ft.top_k(0.1), ft.low_rank(2)), "low_rank stands behind a stage that leaves no matrices"),
    ],
)
def test_what_cannot_go_together_is_refused_when_it_is_built(stages, message) -> None:
    with pytest.raises(ft.SpecError, match=message):
        federation(stages)
