"""A model told by what differs from one that is not held, or damaged, or wrongly told: nobody trains on that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

import fedthings as ft
from fedthings import down
from fedthings.bodies import Change
from fedthings.compress import delta
from fedthings.device import bodies as module
from fedthings.device.agent import Agent
from fedthings.device.shelf import Held
from fedthings.learn.digits import digits
from fedthings.messages import Assignment
from fedthings.wire import pack_body
from gateways import Tree
from virtual import NAME, Virtual

DEVICES, ROUNDS = 4, 6
WHO = "device-1"


def federation(goal: int = DEVICES) -> ft.Federation:
    task = ft.Task(model=ft.mlp(64, 16, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.2, batch=16))
    pace = ft.Pace(goal=goal, patience=1e6)
    return ft.Federation(task, ft.fedavg(), pace, down=ft.delta(8, 64), seed=3, devices=DEVICES)


def fleet() -> ft.Fleet:
    return digits(DEVICES, 0)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What each device has fetched for its models, in order: "whole" or "delta"."""
    found: dict[str, list[str]] = {}
    model = module.Bodies.model

    def noted(self, offer, phase):
        said = self.read(offer, Change)
        found.setdefault(self._shelf.directory.name, []).append("delta" if said.base else "whole")
        return model(self, offer, phase)

    monkeypatch.setattr(module.Bodies, "model", noted)
    return found


def until(world: Virtual, version: int) -> None:
    while world.service.coordinator.version < version:
        assert world.step()


def same(world: Virtual) -> None:
    """The run ends in the simulator's model, and its history counts what devices are offered."""
    served, simulated = world.run(), ft.simulate(federation(), fleet(), ROUNDS)
    np.testing.assert_array_equal(served.row, simulated.row)
    assert served.history == simulated.history


def test_a_device_fetches_the_whole_once(tmp_path: Path, fetched: dict[str, list[str]]) -> None:
    world = Virtual(federation(), fleet(), ROUNDS, tmp_path)
    same(world)
    assert fetched[WHO] == ["whole"] + ["delta"] * ROUNDS  # the last of them for the closing evaluation


def fresh(world: Virtual) -> None:
    """Start the device again, with nothing that it had."""
    world.agents[WHO] = Agent(WHO, world.fleet.shard(WHO), world.hub.device(WHO, NAME), world.directory / "new" / WHO)


def damaged(world: Virtual) -> None:
    """Damage the model that the device holds."""
    shelf = world.agents[WHO].shelf
    assert shelf.held is not None
    shelf.held = Held(shelf.held.ticket, shelf.held.body[:-100] + bytes(100))


def older(world: Virtual) -> None:
    """Let the device hold a model that it takes for another."""
    shelf = world.agents[WHO].shelf
    assert shelf.held is not None
    body = pack_body(down.body(world.service.engine, 1))
    assert body != shelf.held.body
    shelf.held = Held(shelf.held.ticket, body)


def nothing(world: Virtual) -> None:
    """Let the device hold none."""
    world.agents[WHO].shelf.held = None


@pytest.mark.parametrize("what", [fresh, damaged, older, nothing])
def test_a_base_that_is_not_held(
    what: Callable[[Virtual], None], tmp_path: Path, fetched: dict[str, list[str]]
) -> None:
    world = Virtual(federation(), fleet(), ROUNDS, tmp_path)
    until(world, 3)
    assert fetched[WHO] == ["whole", "delta", "delta"]
    fetched[WHO].clear()
    what(world)
    same(world)
    assert "whole" in fetched[WHO]
    assert fetched[WHO][-1] == "delta"  # it holds the next one again


@pytest.mark.parametrize("fault", ["flipped", "cut short", "another model", "bytes that are none"])
def test_a_difference_that_does_not_make_the_model(fault: str, tmp_path: Path, monkeypatch, fetched) -> None:
    """It is as it was offered, and still wrong: all of the model is fetched, by every device, and no other is used."""
    honest = delta.change

    def change(body: bytes, base: bytes = b"") -> Change:
        said = honest(body, base)
        if not base:
            return said
        match fault:
            case "flipped":
                return replace(said, difference=said.difference ^ (np.arange(len(said.difference)) == 40).astype("u1"))
            case "cut short":
                return replace(said, difference=said.difference[:-1])
            case "another model":
                return replace(honest(body[:-9] + bytes(9), base), digest=said.digest)
        return replace(said, difference=said.difference[:0])

    world = Virtual(federation(), fleet(), ROUNDS, tmp_path)
    monkeypatch.setattr("fedthings.engine.delta.change", change)
    served = world.run()
    monkeypatch.undo()
    np.testing.assert_array_equal(served.row, ft.simulate(federation(), fleet(), ROUNDS).row)
    assert [line["updates"] for line in served.history] == [DEVICES] * ROUNDS


def test_a_restart_with_its_directory_holds_what_it_held(tmp_path: Path, fetched: dict[str, list[str]]) -> None:
    world = Virtual(federation(), fleet(), ROUNDS, tmp_path)
    until(world, 3)
    world.mail = type(world.mail)((to, arrival) for to, arrival in world.mail if to != WHO)
    fetched[WHO].clear()
    world.join(WHO)
    same(world)
    assert set(fetched[WHO]) == {"delta"}


@pytest.mark.parametrize("under", [{"west": ""}, {"top": "", "west": "top", "east": "top"}], ids=["one", "stacked"])
def test_behind_gateways(under: dict[str, str], tmp_path: Path, fetched: dict[str, list[str]]) -> None:
    """A gateway fetches what differs once for all; one of its devices that holds nothing gets all of the model."""
    tree = Tree(federation(), fleet(), ROUNDS, tmp_path, under)
    until(tree, 3)
    for name in tree.agents:
        assert fetched[name][0] == "whole" and set(fetched[name][1:]) == {"delta"}
    fetched[WHO].clear()
    tree.agents[WHO].shelf.held = None
    while tree.service.coordinator.version < 5:
        assert tree.step()
        if "whole" not in fetched[WHO]:
            tree.agents[WHO].shelf.held = None
    served = tree.run()
    np.testing.assert_array_equal(served.row, ft.simulate(federation(), fleet(), ROUNDS).row)
    assert "whole" in fetched[WHO] and fetched[WHO][-1] == "delta"
    assert all(tree.gateways[name].merged for name in under)


def test_who_holds_the_base_is_offered_no_more_than_it_needs(tmp_path: Path, monkeypatch) -> None:
    """The first chunk of all of the model does not travel beside the difference."""
    said: list[Assignment] = []
    assigned = Agent._assigned

    def noted(self, job, now):
        said.append(job)
        assigned(self, job, now)

    monkeypatch.setattr(Agent, "_assigned", noted)
    same(Virtual(federation(), fleet(), ROUNDS, tmp_path))
    told = [job for job in said if job.delta is not None]
    assert len(told) == DEVICES * ROUNDS
    assert all(job.model.first is None and job.delta.size < job.model.size for job in told)
