"""A fleet that vanishes in mid-version is named within the patience, and training goes on when it comes back."""

from __future__ import annotations

import pytest

import fedthings as ft
from fedthings.commands.control import page
from fedthings.learn.digits import digits
from fedthings.server.status import status
from virtual import Virtual

PATIENCE = 8.0
PACES = {
    "synchronous": ft.Pace(goal=4, patience=PATIENCE),
    "over-selected": ft.Pace(goal=3, concurrency=4, patience=PATIENCE, quorum=2),
    "semi-synchronous": ft.Pace(goal=4, concurrency=3, patience=PATIENCE, staleness=2, period=1.5),
    "buffered": ft.Pace(goal=2, concurrency=4, patience=PATIENCE, staleness=4),
    "asynchronous": ft.Pace(goal=1, concurrency=4, patience=PATIENCE, staleness=8),
    "adaptive": ft.Pace(goal=4, patience=PATIENCE, slack=2.0),
}


def waits(world: Virtual) -> list[str]:
    """Return what `fedthings status` says it waits for."""
    return [said for title, said in page(status(world.service, world.now)) if title == "waits for"]


@pytest.mark.parametrize("name", PACES)
def test_a_fleet_that_vanishes_and_comes_back(name, tmp_path):
    task = ft.Task(model=ft.mlp(64, 10), loss="cross_entropy")
    spec = ft.Federation(task, ft.fedbuff(), PACES[name], devices=4)
    world = Virtual(spec, digits(4, 0), 12, tmp_path)
    while world.service.coordinator.version < 5:
        assert world.step()
    while world.mail:
        world.step()
    assert world.service.coordinator.tasks
    world.agenda.clear()  # what was on its way is lost with them
    for device in world.agents:
        world.hub.unlink(device)
    gone = world.now
    while world.mail:
        world.step()
    (said,) = waits(world)
    assert "4 of them gone" in said or "3 of them gone" in said  # at once, with the deadline
    while world.now < gone + PATIENCE and world.service.coordinator.tasks:
        assert world.step()
    while world.mail:
        world.step()
    assert world.now <= gone + PATIENCE
    for _ in range(4):  # it waits on, always with a deadline
        (said,) = waits(world)
        assert said.startswith("devices: 0 of ")
        assert f"at most {PATIENCE:.0f} s more" in said
        assert world.step()
    version = world.service.coordinator.version
    back = world.now
    for device in world.agents:
        world.hub.link(device)
    while world.service.coordinator.version == version and not world.service.done:
        assert world.step()
    assert world.now <= back + PATIENCE + 2.0
    run = world.run()
    assert run.summary["rounds"] == 12
    assert run.summary["reason"] == "done"
