"""Reports that cannot be summed: what is wrong in form frees its slot, what is wrong in value is left out (law 4)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fedthings.bodies import Model, Report
from fedthings.learn.metrics import MANY, MOST
from fedthings.messages import Receipt, Refusal
from fedthings.protocol.events import Ticket
from fedthings.transport.chunks import Source
from fedthings.wire import pack_body
from virtual import Virtual

from .conftest import federation, fleet
from .villain import HONEST, ROUNDS, Villain, dropped, offered, run

DIM = federation().task.model.layout.dim


def x(value: float = 0.0, dim: int = DIM, dtype: str = "f4") -> dict[str, np.ndarray]:
    row = np.zeros(dim, dtype)
    row[-1] = value
    return {"x": row}


def weight(*values: int, dtype: str = "i8") -> np.ndarray:
    return np.array(values, dtype)


def measured(v: Villain, **sums: np.ndarray) -> dict[str, np.ndarray]:
    """Return the metrics that are due, all zero but for `sums`."""
    return {**v.world.service.engine._template.metrics, **sums}


FORMS = {
    "wrong dimension": (lambda v: {"arrays": x(dim=DIM + 1)}, "wrong dimension"),
    "no numbers": (lambda v: {"arrays": x(dim=1)}, "wrong dimension"),
    "wrong dtype": (lambda v: {"arrays": x(dtype="f2")}, "wrong type"),
    "integers": (lambda v: {"arrays": x(dtype="i4")}, "wrong type"),
    "an array missing": (lambda v: {"arrays": {}}, "wrong arrays"),
    "an array too many": (lambda v: {"arrays": {**x(), "c": np.zeros(1, "f4")}}, "wrong arrays"),
    "two weights": (lambda v: {"weight": weight(1, 1)}, "wrong type"),
    "half a weight": (lambda v: {"weight": weight(1, dtype="f8")}, "wrong type"),
    "a metric missing": (lambda v: {"metrics": {}}, "wrong arrays"),
    "a metric too many": (lambda v: {"metrics": measured(v, rmse=weight(0, 0))}, "wrong arrays"),
    "a metric too long": (lambda v: {"metrics": measured(v, accuracy=weight(0, 0, 0))}, "wrong dimension"),
    "a metric of floats": (lambda v: {"metrics": measured(v, accuracy=np.zeros(2))}, "wrong type"),
    "another's": (lambda v: {"ticket": Ticket(0, 0, "device-0", 0)}, "malformed"),
}


@pytest.mark.parametrize("case", FORMS)
def test_a_report_of_wrong_form_frees_its_slot(case: str, tmp_path: Path) -> None:
    changes, reason = FORMS[case]
    villain, result = run(tmp_path, lambda v, t: [offered(v.report(t, **changes(v)), t)])
    check_freed(villain, result, reason)


BODIES = {
    "truncated": lambda report: pack_body(report)[:-5],
    "garbage": lambda report: b"\xff" * 90,
    "a model": lambda report: pack_body(Model(0, 0, x())),
    "of version 2": lambda report: pack_body(report).replace(b"av\x01", b"av\x02"),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_body_that_is_no_report_frees_its_slot(case: str, tmp_path: Path) -> None:
    villain, result = run(tmp_path, lambda v, t: [Source(BODIES[case](v.report(t))).offer("report", t, first=True)])
    check_freed(villain, result, "unknown version" if case == "of version 2" else "malformed")


def check_freed(villain: Villain, result: ft.Run, reason: str) -> None:
    assert villain.world.service.refusals == {reason: ROUNDS}
    assert dropped(result, reason) == ROUNDS
    assert result.summary["seconds"] < 10  # no deadline was waited for
    receipts = [(m.kept, m.reason) for m in villain.answers if isinstance(m, Receipt) and m.reason != "enough"]
    assert receipts == [(False, reason)] * ROUNDS
    assert sum(isinstance(m, Refusal) and bool(m.detail) for m in villain.answers) == ROUNDS


IMPOSSIBLE = "impossible metrics"
VALUES = {
    "NaN": (lambda v: {"arrays": x(np.nan)}, "not finite"),
    "Inf": (lambda v: {"arrays": x(-np.inf)}, "not finite"),
    "out of range": (lambda v: {"arrays": x(64.5)}, "out of range"),
    "far out of range": (lambda v: {"arrays": x(-3e38)}, "out of range"),
    "weight 0": (lambda v: {"weight": weight(0)}, "weight out of range"),
    "a negative weight": (lambda v: {"weight": weight(-5)}, "weight out of range"),
    "more than one may weigh": (lambda v: {"weight": weight(65_537)}, "weight out of range"),
    "all the weight there is": (lambda v: {"weight": weight(2**63 - 1)}, "weight out of range"),
    "a negative count": (lambda v: {"metrics": measured(v, loss=weight(-1, 0))}, IMPOSSIBLE),
    "more samples than are": (lambda v: {"metrics": measured(v, accuracy=weight(MANY + 1, 0))}, IMPOSSIBLE),
    "more right than counted": (lambda v: {"metrics": measured(v, accuracy=weight(10, 11))}, IMPOSSIBLE),
    "less right than none": (lambda v: {"metrics": measured(v, accuracy=weight(10, -1))}, IMPOSSIBLE),
    "a sum that would wrap": (lambda v: {"metrics": measured(v, loss=weight(1, MOST + 1))}, IMPOSSIBLE),
    "the least integer": (lambda v: {"metrics": measured(v, train=weight(1, -(2**63)))}, IMPOSSIBLE),
}


@pytest.mark.parametrize("case", VALUES)
def test_a_report_of_wrong_values_is_left_out(case: str, tmp_path: Path) -> None:
    changes, reason = VALUES[case]
    villain, result = run(tmp_path, lambda v, t: [offered(v.report(t, **changes(v)), t)])
    assert villain.world.service.refusals == {}
    assert dropped(result, reason) == ROUNDS
    receipts = [(m.kept, m.reason) for m in villain.answers if isinstance(m, Receipt) and m.reason != "enough"]
    assert receipts == [(True, reason)] * ROUNDS


def test_it_counts_toward_the_goal_and_frees_no_slot(tmp_path: Path) -> None:
    """Of four devices at work three are waited for: the bad report is one of them, in every version."""
    world = Virtual(federation(2), fleet(1), ROUNDS, tmp_path)
    world.agents["villain"] = Villain(world, lambda v, t: [offered(v.report(t, arrays=x(np.nan)), t)])  # type: ignore[assignment]
    result = world.run()
    assert [line["updates"] for line in result.history] == [1] * ROUNDS
    assert [line["dropped"]["not finite"] for line in result.history] == [1] * ROUNDS


def test_statistics_are_held_to_the_same(tmp_path: Path) -> None:
    """In the phase that learns the fleet's scaling a report with NaN changes nothing either."""
    world = Virtual(federation(HONEST + 1, "fleet"), fleet(HONEST), ROUNDS, tmp_path)
    villain = world.agents["villain"] = Villain(world, lambda v, t: [])  # type: ignore[assignment]
    says = villain.receive

    def receive(arrival, now):
        message = getattr(arrival, "message", None)
        if type(message).__name__ == "Assignment" and world.service.engine.spec.kind == "normalise":
            bad = {name: np.full(4, np.nan) for name in ("count", "sum", "square")}
            villain.transport.send("coordinator", offered(Report(message.ticket, bad, weight(1), {}), message.ticket))
        else:
            says(arrival, now)

    villain.receive = receive  # type: ignore[method-assign]
    result = world.run()
    honest = ft.simulate(federation(HONEST, "fleet"), fleet(HONEST), ROUNDS)
    assert np.array_equal(result.row, honest.row)


@pytest.mark.parametrize("lr", [1e9, 3e38])
def test_a_device_that_diverges_is_the_same_in_both_worlds(lr: float, tmp_path: Path) -> None:
    """Its state is that of the last report that was kept, so it can come back (law 8)."""
    spec = federation(HONEST, lr=lr, keep=0.5)
    world = Virtual(spec, fleet(HONEST), ROUNDS, tmp_path)
    served, simulated = world.run(), ft.simulate(spec, fleet(HONEST), ROUNDS)
    assert np.array_equal(served.row, simulated.row)
    assert [line["dropped"] for line in served.history] == [line["dropped"] for line in simulated.history]
    assert all(np.isfinite(a.shelf.state[0]["x"]).all() for a in world.agents.values() if a.shelf.state)
