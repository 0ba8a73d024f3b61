"""What cannot be hidden by SecAgg+ is refused when the federation is built, with the reason; and the spec travels."""

from __future__ import annotations

from pathlib import Path

import pytest

import fedthings as ft
from fedthings.device.rules import Rules
from fedthings.errors import SpecError
from fedthings.federation import phases, plans
from fedthings.phase import Phase
from fedthings.server.service import Service
from fedthings.spelling import decode, encode
from fedthings.transport.memory import Hub
from hiding import federation

REFUSED = {
    "asynchronous": (
        {"pace": ft.Pace(goal=4, concurrency=8, staleness=2), "strategy": ft.fedavg(weight="equal")},
        "pace.staleness is 2 beside secagg: the masks of a version cancel among its own reports",
    ),
    "a period": ({"pace": ft.Pace(goal=4, period=60.0)}, "pace.period is 60 beside secagg"),
    "a quorum": ({"pace": ft.Pace(goal=4, quorum=3)}, "pace.quorum is 3 beside secagg"),
    "stale ones count less": ({"strategy": ft.fedbuff()}, "strategy.staleness is set beside secagg"),
    "nothing is clipped": ({"stages": ()}, "secure needs a bound on every number"),
    "fewer bits": ({"stages": (ft.clip(1.0), ft.int8())}, "stages has Quantize beside secure"),
    "edges": ({"edge": ft.Edge()}, "secure is set beside edge"),
    "privacy": (
        {
            "privacy": ft.central_dp(epsilon=8.0, delta=1e-5),
            "strategy": ft.fedavg(weight="equal"),
            "task": ft.Task(model=ft.mlp(4, 5, 2), loss="cross_entropy", recipe=ft.Recipe(lr=0.1)),
            "pace": ft.Pace(goal=4, separation=1),
        },
        "privacy is claimed beside secagg: the coordinator takes off all masks",
    ),
    "a goal below the minimum": ({"pace": ft.Pace(goal=2)}, "secure.min_batch is 3, above pace.goal 2"),
    "no number of neighbours": (
        {"pace": ft.Pace(goal=5000), "secure": {"corrupt": 0.3, "dropout": 0.3}},
        "secure.corrupt 0.3 and secure.dropout 0.3 leave no number of neighbours up to 512 for 5000 devices",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_hidden_is_refused(case: str) -> None:
    fields, said = REFUSED[case]
    with pytest.raises(SpecError) as error:
        federation(**fields)  # type: ignore[arg-type]
    assert said in str(error.value)


def test_a_gateway_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="secagg is set, and the gateway west sends sums"):
        Service(federation(), 1, tmp_path, Hub().coordinator("fed"), gateways=("west",))


def test_the_spec_travels(tmp_path: Path) -> None:
    spec = federation(secure={"bits": 16, "min_batch": 4, "corrupt": 0.1}, stages=(ft.clip(1.0), ft.rotate()))
    phase = phases(spec)[1]
    assert phase.secure == spec.secure and decode(encode(phase), Phase) == phase
    (tmp_path / "fed.toml").write_text(ft.dumps(spec))
    assert ft.load(tmp_path / "fed.toml") == spec


def test_nobody_comes_in_for_those_who_drop_out() -> None:
    assert all(plan.closed and plan.pace.quorum == 1 for plan in plans(federation(), 1))


def test_an_owner_who_wants_a_helper_has_none_here() -> None:
    key = "j0DFrbaPJWJK5bIU6nZ6bslNgp09e14a0bpvPiE4KF8"
    assert Rules(helpers=(key,)).refusal("fed", phases(federation())[1]) == "owner: only with a helper it trusts"
