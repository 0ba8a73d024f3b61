"""Law 10: the owner's rules are read on the device; the coordinator plans with refusals as a normal answer."""

from __future__ import annotations

import pytest

import fedthings as ft
from fedthings import down
from fedthings.device import training
from fedthings.device.agent import Agent
from fedthings.device.rules import Rules
from fedthings.errors import SpecError
from fedthings.learn.digits import digits
from fedthings.protocol.events import Ticket
from fedthings.simulation.world import Uneven
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
    assert world.agents["device-1"].transport.bytes_received < down.model_bytes(
        world.service.engine, Ticket(0, 0, "device-1", 0)
    )


def test_a_device_that_never_joins_is_never_asked(tmp_path):
    rules = {"device-1": Rules(federations=("another",))}
    world = Several([federation(goal=3, patience=9.0)], digits(4, 0), 2, tmp_path, rules)
    world.run()
    (service,) = world.services.services
    assert service.coordinator.last.keys() == {"device-0", "device-2", "device-3"}
    assert "device-1" not in service.coordinator.present


def watched(monkeypatch) -> dict[tuple[str, str, int], float]:
    """Return where agents' efforts will stand, by kind of phase, device and version."""
    efforts = {}
    real = training.learner

    def learner(phase, **options):
        ours = real(phase)

        def one(model, state, shard, key, effort):
            efforts[phase.kind, key.device, key.version] = effort
            return ours.one(model, state, shard, key, effort)

        return ours._replace(one=one)

    monkeypatch.setattr(training, "learner", learner)
    return efforts


@pytest.mark.parametrize(("strategy", "share"), [(ft.fedprox(0.1), 0.5), (ft.fedavg(), 1.0)])
def test_partial_work_is_done_where_the_strategy_takes_it(strategy, share, tmp_path, monkeypatch):
    efforts = watched(monkeypatch)
    world = Virtual(federation(strategy, goal=4), digits(4, 0), 1, tmp_path, rules={"device-2": Rules(effort=0.5)})
    run = world.run()
    assert efforts["train", "device-2", 0] == share
    assert efforts["train", "device-0", 0] == 1.0
    assert run.history[0]["updates"] == 4


class Clock:
    """A clock by which whatever is done takes 100 seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 100.0
        return self.now


def test_a_slow_device_does_what_the_deadline_leaves_time_for(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "time", Clock())
    monkeypatch.setattr(Virtual, "kind", Agent)
    efforts = watched(monkeypatch)
    world = Virtual(federation(ft.fedprox(0.1), goal=4, patience=60.0), digits(4, 0), 2, tmp_path)
    world.run()
    assert efforts["train", "device-0", 0] == 1.0  # nothing is known yet
    assert efforts["train", "device-0", 1] == pytest.approx(0.8 * 0.6)


def test_what_it_took_to_fetch_is_not_left(tmp_path, monkeypatch):
    """The model comes 20 seconds after the assignment."""
    efforts = watched(monkeypatch)
    steady = Uneven(median=100.0, spread=0.0)
    world = Virtual(federation(ft.fedprox(0.1), goal=4, patience=60.0), digits(4, 0), 1, tmp_path, steady)
    agent = world.agents["device-0"]
    while not agent.bodies.coming:
        assert world.step()
    while agent.shelf.pending is None:
        late = next(entry for entry in world.mail if entry[0] == "device-0")
        world.mail.remove(late)
        agent.receive(late[1], 20.0)
    while world.service.engine.trained < 1:
        assert world.step()
    world.service.close()
    assert efforts["train", "device-0", 0] == pytest.approx(0.8 * 0.4)
    assert efforts["train", "device-1", 0] == pytest.approx(0.8 * 0.6)


def test_a_deadline_of_ones_own_that_would_shrink_is_refused():
    with pytest.raises(SpecError, match=r"pace\.slack is 1\.2 beside strategy\.partial: .* at least 1\.25"):
        federation(ft.fedprox(0.1), goal=4, slack=1.2)
    assert federation(ft.fedprox(0.1), goal=4, slack=1.25).pace.slack == 1.25


def test_rules_that_cannot_be_are_refused():
    with pytest.raises(SpecError, match=r"rules\.effort is 2"):
        Rules(effort=2)
