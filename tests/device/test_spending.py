"""What a device's answers have cost: on its disk before they leave, in one count for all federations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fedthings as ft
from fedthings.device.membership import Membership
from fedthings.device.spending import FILE, SPENT, Spending
from fedthings.errors import StoreError
from fedthings.federation import phases, question
from fedthings.learn.digits import digits
from fedthings.transport.memory import Hub

PHASE = phases(question("labels(3)", local=ft.local_dp(0.1)))[0]


def test_costs_add_up_over_restarts_to_the_budget_and_no_further(tmp_path: Path) -> None:
    for turn in range(10):
        spending = Spending(tmp_path)
        assert spending.refusal(PHASE, 1.0) == ""
        spending.spend(PHASE, print)
        assert json.loads((tmp_path / FILE).read_text()) == {"labels(3)": pytest.approx(0.1 * (turn + 1))}
    assert Spending(tmp_path).total == pytest.approx(1.0)
    assert Spending(tmp_path).refusal(PHASE, 1.0) == SPENT
    assert Spending(tmp_path).refusal(PHASE, 0.0) == ""
    other = phases(question("mean(0)", local=ft.local_dp(0.1, (0, 1))))[0]
    assert Spending(tmp_path).refusal(other, 1.0) == SPENT
    assert Spending(tmp_path).refusal(phases(question("mean(0)"))[0], 1.0) == ""  # the rules say that


def test_a_count_that_is_no_number_leaves_nothing_to_spend(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"mean(0)": NaN}')
    assert Spending(tmp_path).refusal(PHASE, 1.0) == SPENT


def test_a_damaged_count_does_not_begin_anew(tmp_path: Path) -> None:
    for content in ("{", "[1]", '{"a": "b"}'):
        (tmp_path / FILE).write_text(content)
        with pytest.raises(StoreError, match="is damaged: put back a copy, or remove it"):
            Spending(tmp_path)


def test_an_answer_that_cannot_be_counted_is_not_made(tmp_path: Path) -> None:
    spending = Spending(tmp_path)
    (tmp_path / (FILE + ".new")).mkdir()  # what is written first has no place
    with pytest.raises(StoreError, match="cannot write"):
        spending.spend(PHASE, print)


def test_the_agents_of_all_federations_share_the_count(tmp_path: Path) -> None:
    fleet = digits(1, 0)
    member = Membership(fleet.names[0], fleet.shard(fleet.names[0]), Hub().device(fleet.names[0]), tmp_path)
    one, other = (member._join(federation, federation) for federation in ("a", "b"))
    assert one.spending is other.spending
    one.spending.spend(PHASE, print)
    assert json.loads((tmp_path / FILE).read_text()) == {"labels(3)": 0.1}
