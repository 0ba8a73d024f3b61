"""Law 10: the owner's rules are read on the device; the coordinator plans with refusals as a normal answer."""

from __future__ import annotations

import pytest

import fedthings as ft
from fedthings.device import agent as agents
from fedthings.device.rules import Rules
from fedthings.errors import SpecError
from fedthings.learn.digits import digits
from fedthings.protocol.events import Ticket
from several import Several
from virtual import Virtual


def federation(strategy: ft.Strategy | None = None, **pace) -> ft.Federation:
    task = ft.Task(model=ft.mlp(64, 100, 10), loss="cross_entropy", recipe=ft.Recipe(epochs=4, batch=10))
    return ft.Federation(task, strategy or ft.fedavg(), ft.Pace(**pace), devices=4)


def test_what_the_owner_does_not_want_is_declined_before_the_model_is_fetched(tmp_path):
    rules = {"device-1": Rules(max_parameters=100)}
    world = Virtual(federation(goal=2, patience=9.0), digits(4, 0), 3, tmp_path, rules=rules)
    run = world.run()
    assert [line["updates"] for line in run.history] == [2, 2, 2]  # another device does it instead
    assert sum(line["dropped"].get("owner: model too large", 0) for line in run.history) > 0
    assert world.agents["device-1"].transport.bytes_received < world.service.engine.model_bytes(
        Ticket(0, 0, "device-1", 0)
    )


def test_a_device_that_never_joins_is_never_asked(tmp_path):
    rules = {"device-1": Rules(federations=("another",))}
    world = Several([federation(goal=3, patience=9.0)], digits(4, 0), 2, tmp_path, rules)
    world.run()
    (service,) = world.services.services
    assert service.coordinator.last.keys() == {"device-0", "device-2", "device-3"}
    assert "device-1" not in service.coordinator.present


@pytest.mark.parametrize(("strategy", "share"), [(ft.fedprox(0.1), 0.5), (ft.fedavg(), 1.0)])
def test_partial_work_is_done_where_the_strategy_takes_it(strategy, share, tmp_path, monkeypatch):
    efforts = {}
    real = agents.learner

    def watched(phase):
        ours = real(phase)

        def one(model, state, shard, key, effort):
            efforts[phase.kind, key.device] = effort
            return ours.one(model, state, shard, key, effort)

        return ours._replace(one=one)

    monkeypatch.setattr(agents, "learner", watched)
    world = Virtual(federation(strategy, goal=4), digits(4, 0), 1, tmp_path, rules={"device-2": Rules(effort=0.5)})
    run = world.run()
    assert efforts["train", "device-2"] == share
    assert efforts["train", "device-0"] == 1.0
    assert run.history[0]["updates"] == 4


def test_a_slow_device_does_what_the_deadline_leaves_time_for(tmp_path):
    world = Virtual(federation(ft.fedprox(0.1), goal=4), digits(4, 0), 1, tmp_path)
    agent = world.agents["device-0"]
    assert agent._effort(60.0) == 1.0  # nothing is known yet
    agent._seconds = 100.0
    assert agent._effort(60.0) == pytest.approx(0.8 * 0.6)
    assert agent._effort(1000.0) == 1.0
    world.service.close()


def test_rules_that_cannot_be_are_refused():
    with pytest.raises(SpecError, match=r"rules\.effort is 2"):
        Rules(effort=2)
