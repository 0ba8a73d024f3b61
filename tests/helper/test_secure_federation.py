"""What cannot be hidden is refused when the federation is built, with the reason; and the spec travels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

import fedthings as ft
from fedthings.device.rules import Rules
from fedthings.errors import SpecError
from fedthings.federation import phases, plans
from fedthings.identity.keys import spelled
from fedthings.learn.data import Shard
from fedthings.phase import Phase, fits, rings
from fedthings.privacy import keys
from fedthings.spelling import decode, encode

KEY = spelled(keys.public_of(bytes(range(32))))


def federation(secure: dict | None = None, **fields) -> ft.Federation:
    task = ft.Task(model=ft.mlp(4, 5, 2), loss="cross_entropy", recipe=ft.Recipe(lr=0.1))
    settings = {"stages": (ft.clip(1.0),), "pace": ft.Pace(goal=4), **fields}
    return ft.Federation(task, secure=ft.two_servers(KEY, **(secure or {})), **settings)


REFUSED = {
    "nothing is clipped": ({"stages": ()}, "secure needs a bound on every number"),
    "turned before it is clipped": ({"stages": (ft.rotate(), ft.clip(1.0))}, "secure needs a bound on every number"),
    "fewer bits": ({"stages": (ft.clip(1.0), ft.int8())}, "stages has Quantize beside secure: what it sends is undone"),
    "EDEN": ({"stages": (ft.clip(1.0), ft.eden())}, "stages has Eden beside secure"),
    "sparse": ({"stages": (ft.clip(1.0), ft.top_k(0.1))}, "stages has TopK beside secure"),
    "a goal below the minimum": ({"pace": ft.Pace(goal=2)}, "secure.min_batch is 3, above pace.goal 2"),
    "mixing by lag": (
        {"strategy": ft.mixing(0.5), "pace": ft.Pace(goal=4, concurrency=8, staleness=2)},
        "pace.staleness is 2 with mixing beside secure",
    ),
    "no room": (
        {"secure": {"bits": 16}, "pace": ft.Pace(goal=5000)},
        "secure.bits is 16, which has no room for 5000 reports of 8 steps each: set it to 32, or lower",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_hidden_is_refused(case: str) -> None:
    fields, said = REFUSED[case]
    with pytest.raises(SpecError) as error:
        federation(**fields)
    assert said in str(error.value)


@pytest.mark.parametrize("stages", [(), (ft.clip(1.0), ft.int8())])
def test_a_device_does_not_believe_a_task_that_cannot_be_hidden(stages: tuple) -> None:
    spec = federation()
    phase = replace(phases(spec)[0], stages=stages)
    X = np.zeros((4, 4), np.float32)
    with pytest.raises(SpecError, match="secure"):
        fits(phase, Shard(X, np.zeros(4, np.int64), X[:0], np.zeros(0, np.int64)), "kitchen")


def test_the_spec_travels() -> None:
    spec = federation({"bits": 16, "min_batch": 4})
    phase = phases(spec)[0]
    assert phase.secure == spec.secure and decode(encode(phase), Phase) == phase


def test_it_travels_in_toml(tmp_path: Path) -> None:
    spec = federation({"bits": 16, "min_batch": 4})
    (tmp_path / "fed.toml").write_text(ft.dumps(spec))
    assert ft.load(tmp_path / "fed.toml") == spec


def test_no_version_is_made_of_fewer_than_the_minimum() -> None:
    assert [plan.pace.quorum for plan in plans(federation({"min_batch": 4}), 1)] == [1, 4][1:] * 2


@pytest.mark.parametrize("goal", [3, 100, 2000])
def test_a_version_with_all_its_reports_and_one_more_cannot_wrap(goal: int) -> None:
    for bits in (16, 32):
        spec = federation({"bits": bits}, pace=ft.Pace(goal=goal, concurrency=goal))
        ring = rings(phases(spec)[0])
        assert ring is not None and (goal + 1) * ring.most < 2 ** (bits - 1)


def test_an_owner_may_want_a_helper_it_trusts() -> None:
    hidden, plain = phases(federation())[0], phases(ft.Federation(federation().task))[0]
    assert Rules(helpers=(KEY,)).refusal("fed", hidden) == ""
    assert Rules(helpers=(KEY,)).refusal("fed", plain) == "owner: only with a helper it trusts"
    other = spelled(keys.public_of(bytes(range(1, 33))))
    assert Rules(helpers=(other,)).refusal("fed", hidden) == "owner: only with a helper it trusts"
    with pytest.raises(SpecError, match=r"rules\.helpers\[0\] is 'abc'"):
        Rules(helpers=("abc",))
