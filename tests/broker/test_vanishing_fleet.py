"""All device processes are killed in mid-version: status says so within the patience, and training goes on later."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest

import fedthings as ft
from fedthings.commands.control import page
from fedthings.learn.digits import digits
from fedthings.run import read
from fedthings.server.ask import ask
from processes import ENVIRONMENT, PYTHON, Processes

PATIENCE, ROUNDS = 2.0, 15
PACES = {
    "synchronous": ft.Pace(goal=3, patience=PATIENCE),
    "over-selected": ft.Pace(goal=2, concurrency=3, patience=PATIENCE, quorum=2),
    "FedBuff": ft.Pace(goal=2, concurrency=3, patience=PATIENCE, staleness=4),
}


def waits(world: Processes) -> list[str]:
    """Return what `fedthings status` says that is waited for; each has its deadline, within the patience."""
    found = [said for title, said in page(ask("status", world.out)) if title == "waits for"]
    for said in found:
        left = re.fullmatch(r".* \(at most (\d+) s more\)", said)
        assert left and int(left[1]) <= PATIENCE, said
    return found


@pytest.mark.parametrize("name", PACES)
def test_a_fleet_that_vanishes_and_comes_back(name: str, tmp_path: Path) -> None:
    recipe = ft.Recipe(lr=0.1, batch=10, epochs=10)
    task = ft.Task(model=ft.mlp(64, 64, 10), loss="cross_entropy", recipe=recipe)
    spec, fleet = ft.Federation(task, ft.fedbuff(), PACES[name], devices=3), digits(3, 0)
    with Processes(spec, fleet, ROUNDS, tmp_path, "amqtt") as world:
        world.start()
        while world.versions() < 3:
            time.sleep(0.01)
        for process in world.joined.values():
            process.kill()
        for process in world.joined.values():
            process.wait()
        gone, heard = time.monotonic(), waits(world)
        while not any(said.startswith("devices: 0 of 3 are there") for said in heard):
            assert time.monotonic() < gone + PATIENCE + 5, heard
            time.sleep(0.1)
            heard += waits(world)
        assert any(re.search(r"[123] devices? at work, [123] of them gone", said) for said in heard), heard
        made = world.versions()
        assert made < ROUNDS
        while time.monotonic() < gone + 2 * PATIENCE:  # it waits on, always with a deadline
            assert waits(world)
            time.sleep(0.2)
        shown = subprocess.run(
            [*PYTHON, "status", str(world.out)], capture_output=True, text=True, env=ENVIRONMENT, check=True
        ).stdout
        assert re.search(r"version \d+ .* reports, ([3-9]|\d\d) s ago", shown), shown
        assert "waits for   devices: 0 of 3 are there (at most" in shown and "0 present, 0 at work" in shown, shown
        assert world.versions() == made
        for device in fleet.names:
            world.join(device)
        assert world.wait(60)["reason"] == "done"
        assert [line["version"] for line in read(world.out).history] == list(range(1, ROUNDS + 1))
