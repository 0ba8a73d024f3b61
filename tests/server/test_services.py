"""Several federations on one fleet: the models they would have made alone, one task at a time, whatever is killed."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

import fedthings as ft
from fate import Fate, Killed
from fedthings.device.rules import Rules
from fedthings.errors import StoreError
from fedthings.learn.digits import digits
from fedthings.messages import Ask, Bye, Hello, Refusal, Status
from fedthings.server.service import Service
from fedthings.server.status import status
from fedthings.server.store import Store
from fedthings.transport.lane import Lane
from fedthings.transport.memory import Hub
from fedthings.transport.transport import Delivery
from several import Several

ROUNDS = 4


def federation(name: str, seed: int, units: int = 12, **pace) -> ft.Federation:
    recipe = ft.Recipe(lr=0.2, batch=16, keep=0.2)
    task = ft.Task(model=ft.mlp(64, units, 10), loss="cross_entropy", normalise="fleet", recipe=recipe)
    return ft.Federation(
        task, ft.fedavgm(), ft.Pace(**{"goal": 4, "patience": 60.0} | pace), devices=4, seed=seed, name=name
    )


TWO = (federation("heat", 3), federation("light", 4, units=8))


@pytest.fixture(scope="module")
def alone() -> dict[str, ft.Run]:
    return {spec.name: ft.simulate(spec, digits(4, 0), ROUNDS) for spec in TWO}


def assert_same(runs: dict[str, ft.Run], alone: dict[str, ft.Run]) -> None:
    for name, run in runs.items():
        want = alone[name]
        assert np.array_equal(run.row, want.row), name
        same = ("version", "updates", "dropped", "loss", "metrics", "worst_decile", "bytes_up")
        assert [{k: line[k] for k in same} for line in run.history] == [
            {k: line[k] for k in same} for line in want.history
        ]


def uneven(name: str, ticket) -> float:
    return 0.5 + (ticket.version * 7 + len(name) + int(ticket.device[-1]) * 5) % 11 * 0.3


@pytest.mark.parametrize("seconds", [lambda name, ticket: 1.0, uneven], ids=["alike", "uneven"])
def test_each_model_is_the_one_it_would_have_made_alone(seconds, tmp_path, alone):
    world = Several(TWO, digits(4, 0), ROUNDS, tmp_path, seconds=seconds)
    assert_same(world.run(), alone)
    made = [service.history[-1]["time"] for service in world.services.services]
    assert max(made) < 1.5 * min(made)  # they took turns


def test_the_same_federation_twice_has_the_same_bodies(tmp_path):
    """Both offer bodies of the same SHA-256, one of which may be cleared while the other is still offered."""
    twins = (federation("one", 3, units=300), federation("two", 3, units=300))
    want = ft.simulate(twins[0], digits(4, 0), ROUNDS)
    runs = Several(twins, digits(4, 0), ROUNDS, tmp_path).run()
    assert np.array_equal(runs["one"].row, want.row) and np.array_equal(runs["two"].row, want.row)


def test_an_asynchronous_one_beside_a_synchronous_one(tmp_path, alone):
    eager = ft.Federation(
        TWO[1].task, ft.fedbuff(), ft.Pace(goal=2, concurrency=4, staleness=6, patience=60.0), seed=4, name="eager"
    )
    world = Several((TWO[0], eager), digits(4, 0), ROUNDS, tmp_path, seconds=uneven)
    runs = world.run()
    assert_same({"heat": runs["heat"]}, alone)
    assert runs["eager"].summary["rounds"] == ROUNDS


def test_rules_of_owners_keep_devices_out_of_one(tmp_path):
    """One device is in both, one in each only; each federation has its own state and model on the shelf."""
    specs = [structs.replace(spec, pace=ft.Pace(goal=2, patience=60.0), devices=2) for spec in TWO]
    fleet = digits(3, 0)
    a, b, c = fleet.names
    rules = {a: Rules(federations=("heat",)), c: Rules(federations=("light",))}
    world = Several(specs, fleet, ROUNDS, tmp_path, rules)
    runs = world.run()
    kept = {service.engine.federation.name: set(service.coordinator.last) for service in world.services.services}
    assert kept == {"heat": {a, b}, "light": {b, c}}
    assert all(line["updates"] == 2 for run in runs.values() for line in run.history)
    assert {path.name for path in (tmp_path / "devices" / b).iterdir()} == {"heat", "light"}
    assert not (tmp_path / "devices" / a / "light").exists()


def test_the_coordinator_is_killed_at_any_step(tmp_path, alone):
    for at in range(20, 400, 23):
        world = Several(TWO, digits(4, 0), ROUNDS, tmp_path / str(at), seconds=uneven)
        for step in range(100_000):
            if step == at:
                world.mail = type(world.mail)(m for m in world.mail if m[0] != "coordinator")
                for service in world.services.services:
                    service.close()
                world.serve()
            if all(service.done for service in world.services.services):
                break
            assert world.step()
        assert_same(world.result(), alone)


def test_the_coordinator_is_killed_between_what_two_journals_say(tmp_path, monkeypatch, alone):
    """Just before or just after each thing that is written down."""
    fate = Fate(monkeypatch, [(Store, name) for name in ("journal", "commit", "checkpoint")])

    def play(place: Path, moment: int) -> None:
        fate.begin(0)
        world, killed = Several(TWO, digits(4, 0), ROUNDS, place, seconds=uneven), False
        fate.begin(moment)
        while not all(service.done for service in world.services.services):
            try:
                assert world.step()
            except Killed:
                killed = True
                world.mail = type(world.mail)(m for m in world.mail if m[0] != "coordinator")
                world.serve()
                world.drain()
        assert killed == (moment != 0)
        assert_same(world.result(), alone)

    play(tmp_path / "calm", 0)
    points = fate.seen
    assert points > 100
    for moment in range(3, points - 1, 29):
        for sign in (1, -1):
            play(tmp_path / f"{moment}{sign}", sign * moment)


def test_devices_are_killed_and_leave(tmp_path, alone):
    world = Several(TWO, digits(4, 0), ROUNDS, tmp_path, seconds=uneven)
    for step in range(100_000):
        if step % 60 == 30:
            name = world.fleet.names[step // 60 % 4]
            world.hub.unlink(name)
            world.agenda = [entry for entry in world.agenda if entry[3].sender != name]
            world.join(name)
            world.drain()
        if all(service.done for service in world.services.services):
            break
        assert world.step()
    assert_same(world.result(), alone)


def test_each_wait_has_its_name_and_its_deadline(tmp_path):
    world = Several(TWO, digits(4, 0), ROUNDS, tmp_path, seconds=uneven)
    named = set()
    while not all(service.done for service in world.services.services):
        assert world.step()
        world.services.now = world.now
        for service, time in zip(world.services.services, world.services.times, strict=True):
            waits = [*service.coordinator.waits, *service.lent()]
            if service.coordinator.present and not service.done:  # for its first device it waits for ever
                assert any(wait.until < inf for wait in waits), waits
            named |= {wait.reason.split(":")[1] for wait in service.lent()}
            json.dumps(status(service, time))
    assert any("devices at work there" in reason for reason in named)
    world.result()


def test_what_arrives_goes_to_the_federation_it_is_for(tmp_path):
    world = Several(TWO, digits(4, 0), ROUNDS, tmp_path)
    while world.mail:
        assert world.step()
    heat, light = world.services.services
    world.services.receive(Delivery("device-0", Hello("x"), "unheard-of"), 0.0)
    assert heat.refusals == {"another federation": 1} and not light.refusals
    world.services.receive(Delivery("device-0", Bye(), "light-1"), 0.0)
    assert "device-0" in heat.coordinator.present and "device-0" not in light.coordinator.present
    world.services.receive(Delivery("device-1", Bye(), ""), 0.0)  # a will
    assert "device-1" not in heat.coordinator.present and "device-1" not in light.coordinator.present
    operator = world.hub.operator("me")
    for verb, federation in (("status", ""), ("pause", ""), ("pause", "light-1"), ("cancel", "old-1")):
        world.services.receive(Delivery("operator/me", Ask(verb), federation), 0.0)
    while world.mail:
        assert world.step()
    answers = [a.message for a in iter(lambda: operator.inbox.get(0), None) if isinstance(a, Delivery)]
    status_, refused, paused, wrong = [m for m in answers if isinstance(m, Status | Refusal)]
    assert [facts["federation"] for facts in status_.facts["federations"]] == ["heat", "light"]
    assert "name one with --federation, of heat, light" in refused.detail
    assert paused.facts["federation"] == "light" and paused.facts["state"] == "paused"
    assert wrong.reason == "another federation"
    assert not heat.coordinator.paused
    world.result()


def test_a_run_is_not_served_in_another_way_than_before(tmp_path):
    Several(TWO, digits(4, 0), ROUNDS, tmp_path).result()
    with pytest.raises(StoreError, match="serve it with the others, from the directory above"):
        Service(TWO[0], ROUNDS, tmp_path / "heat", Lane(Hub().coordinator(""), "heat-1"))
