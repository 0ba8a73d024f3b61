"""What a long life brings: restarts in asynchronous runs, devices that die unseen, fleets that leave at the end."""

from __future__ import annotations

import numpy as np
import pytest

import fedthings as ft
from fedthings.device.rules import Rules
from fedthings.learn.digits import digits
from fedthings.protocol.coordinator import Coordinator
from fedthings.protocol.events import Advance, Arrived, Assign, Declined, Discard, Joined, Keep, Left, Stepped, Ticket
from fedthings.protocol.pace import Plan
from fedthings.simulation.world import Outcome, Work
from fedthings.transport.topics import COORDINATOR
from virtual import Virtual


def federation(devices: int, normalise: str = "none", **pace) -> ft.Federation:
    task = ft.Task(model=ft.mlp(64, 10), loss="cross_entropy", normalise=normalise)
    return ft.Federation(task, ft.fedavg(), ft.Pace(**pace), devices=devices)


class Slow:
    """Device-0 takes 500 seconds, the others one; device-2's reports never come where `dead`."""

    def __init__(self, dead: bool = False) -> None:
        self.dead = dead

    def outcome(self, ticket: Ticket, now: float, work: Work, until: float) -> Outcome:
        if self.dead and ticket.device == "device-2" and ticket.version > 2:
            return Outcome(None)
        return Outcome(now + (500.0 if ticket.device == "device-0" else 1.0))


def restarted(world: Virtual) -> None:
    """kill -9 of the coordinator, and its restart."""
    world.mail.clear()
    world.agenda = [entry for entry in world.agenda if entry[2] != COORDINATOR]
    world.service.close()
    world.serve()
    world.drain()


def test_an_asynchronous_run_survives_a_restart_while_a_slow_device_is_at_work(tmp_path):
    pace = {"goal": 1, "concurrency": 3, "patience": 900.0, "staleness": 1}
    world = Virtual(federation(3, **pace), digits(3, 0), 30, tmp_path, Slow())
    while world.service.engine.trained < 8:
        assert world.step()
    restarted(world)
    run = world.run()
    assert len(run.history) == 30
    assert sum(line["dropped"].get("stale", 0) for line in run.history) >= 1


def test_a_device_that_dies_while_the_coordinator_is_down_costs_one_patience(tmp_path):
    world = Virtual(federation(3, goal=3, patience=50.0, quorum=2), digits(3, 0), 8, tmp_path)
    while world.service.engine.trained < 3:
        assert world.step()
    world.agents.pop("device-1")
    world.hub._ends.pop("device-1")  # no will: the broker died with the coordinator
    restarted(world)
    run = world.run()
    waits = np.diff([line["time"] for line in run.history])
    assert sum(wait >= 50.0 for wait in waits) == 1


def test_a_run_ends_though_everybody_left_before_the_closing_evaluation(tmp_path):
    world = Virtual(federation(3, goal=3, patience=10.0), digits(3, 0), 2, tmp_path)
    leave = world.service.coordinator.on
    done = []

    def gone(event, now):
        if isinstance(event, Stepped) and event.version == 2 and not done:
            done.append(True)
            for name in world.fleet.names:
                leave(Left(name), now)
        return leave(event, now)

    world.service.coordinator.on = gone  # type: ignore[method-assign]
    run = world.run()
    assert run.summary["reason"] == "done"
    assert len(run.history) == 2


def test_statistics_that_cannot_be_used_end_the_federation_for_good(tmp_path, monkeypatch):
    from fedthings import engine

    monkeypatch.setattr(
        engine.fold,
        "refused",
        lambda fields, payload, weight: np.full(len(weight), "not finite", dtype=object),
    )
    world = Virtual(federation(2, "fleet", goal=2), digits(2, 0), 2, tmp_path)
    world.run()
    assert world.service.done
    assert "no device sent statistics" in world.service.failure
    again = Virtual(federation(2, "fleet", goal=2), digits(2, 0), 2, tmp_path)
    assert again.service.done
    assert again.service.failure == world.service.failure
    again.service.close()


def test_a_device_is_not_folded_twice_in_a_version():
    """Its report came after its will and before its next Hello: it has reported, and waits for the next version."""
    coordinator = Coordinator([Plan(ft.Pace(goal=3, concurrency=3), 2)])
    out = [c for name in "abc" for c in coordinator.on(Joined(name), 0.0)]
    tickets = {c.ticket.device: c.ticket for c in out if isinstance(c, Assign)}
    coordinator.on(Left("a"), 1.0)
    assert coordinator.on(Arrived(tickets["a"]), 2.0) == [Keep(tickets["a"], 0)]
    coordinator.on(Joined("a"), 3.0)
    out = coordinator.on(Declined(tickets["b"], "no"), 4.0)
    assert out == [Discard(tickets["b"], "no")]  # nobody else is free: `a` is not asked again
    assert Advance(0, 1) in coordinator.on(Arrived(tickets["c"]), 5.0)


@pytest.mark.parametrize("quorum", [1, 2])
def test_a_device_that_always_declines_is_asked_once_a_patience(quorum, tmp_path):
    things = digits(2, 0)
    world = Virtual(federation(2, goal=2, patience=10.0, quorum=quorum), things, 3, tmp_path)
    world.agents["device-1"].rules = Rules(max_parameters=1)
    for _ in range(400):
        if world.service.done or not world.step():
            break
    declined = sum(line["dropped"].get("owner: model too large", 0) for line in world.service.history)
    declined += world.service.engine.tally.dropped["owner: model too large"]
    assert declined <= 4 + 1 + world.now / 10.0  # once in each version and in the closing evaluation
    world.service.close()


def test_the_coordinator_forgets_what_is_over():
    coordinator = Coordinator([Plan(ft.Pace(goal=1, concurrency=2, staleness=5, patience=1e6), 4000)])
    slow, other = [c.ticket for name in "ab" for c in coordinator.on(Joined(name), 0.0) if isinstance(c, Assign)]
    for version in range(1, 1001):
        coordinator.on(Arrived(other), float(version))
        out = coordinator.on(Stepped(version), float(version))
        other = next(c.ticket for c in out if isinstance(c, Assign) and c.ticket.device == "b")
    assert len(coordinator.tasks._due) < 200
    assert len(coordinator.tasks) <= 2
    assert slow.version == 0
