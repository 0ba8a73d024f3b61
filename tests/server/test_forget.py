"""Forgetting a device: what is removed, what stays and is said, and when it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fedthings as ft
from fedthings.cli import main
from fedthings.errors import StoreError
from fedthings.learn.digits import digits
from fedthings.lifeline import alone
from fedthings.protocol.events import Ticket
from fedthings.server import devices
from fedthings.server.access import Access
from fedthings.server.forget import forget
from fedthings.server.place import Place
from fedthings.server.store import Store
from fedthings.simulation.world import Outcome, Work
from fedthings.transport.topics import COORDINATOR
from gateways import Tree
from secure import Secure, fleet, key_in
from secure import federation as hidden
from virtual import Virtual

TASK = ft.Task(model=ft.mlp(64, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.3, batch=16))


def federation(**more) -> ft.Federation:
    return ft.Federation(TASK, ft.fedavg(weight="equal"), more.pop("pace", ft.Pace(goal=3)), devices=3, **more)


def served(spec: ft.Federation, out: Path, rounds: int = 4) -> Virtual:
    """Return a fleet that is let in, and not yet run."""
    devices.enrol(out, [f"device-{i}" for i in range(3)])
    return Virtual(spec, digits(3, 0), rounds, out)


def state(out: Path) -> bytes:
    return b"".join(path.read_bytes() for path in out.glob("state.sqlite*"))


class Slow:
    """Device-0 takes 500 seconds, the others one."""

    def outcome(self, ticket: Ticket, now: float, work: Work, until: float) -> Outcome:
        return Outcome(now + (500.0 if ticket.device == "device-0" else 1.0))


def test_what_is_stored_is_removed_and_what_stays_is_said(tmp_path, capsys):
    served(federation(), tmp_path).run()
    access = Access(tmp_path)
    access.admit({"device-1": "secret", "device-2": "other"})
    access.write()
    (tmp_path / "spool" / "1-9-device-1-0.cbor").write_bytes(b"late")
    (tmp_path / "spool" / "1-9-device-1-2.cbor.part").write_bytes(b"begun")
    (tmp_path / "spool" / "1-9-device-11-0.cbor").write_bytes(b"of another")
    assert main(["devices", "--out", str(tmp_path), "forget", "device-1"]) == 0
    told = capsys.readouterr().out
    assert "its reports are in versions 1 to 4: sums of many" in told and "no privacy is claimed" in told
    assert "its name, and when it reported, stay in the coordinator's state" in told

    assert [device["name"] for device in devices.listed(tmp_path)] == ["device-0", "device-2"]
    assert {path.name for path in (tmp_path / "tokens").iterdir()} == {"device-0.token", "device-2.token"}
    assert "device-1" not in (tmp_path / "broker.json").read_text() + (tmp_path / "broker.access").read_text()
    assert [path.name for path in (tmp_path / "spool").iterdir()] == ["1-9-device-11-0.cbor"]
    store = Store(tmp_path)
    assert [store.versions(f"device-{i}") for i in range(3)] == [[1, 2, 3, 4], [], [1, 2, 3, 4]]
    store.close()
    again = Virtual(federation(), digits(3, 0), 4, tmp_path)  # the state is whole, and it is over
    assert again.service.done and len(again.service.history) == 4


def test_the_reports_themselves_leave_the_state_and_its_free_pages(tmp_path):
    """Where it has ended, a report in the journal goes too, and an old one from where SQLite had deleted it."""
    world = served(federation(), tmp_path)
    world.run()
    store = Store(tmp_path)
    marks = [f"mark of device-{i}".encode() for i in range(2)]
    for i, mark in enumerate(marks):
        store.journal(9.0, ["Arrived", [0, 3, f"device-{i}", 7]], mark * 300)
    store.commit()
    store.close()
    assert all(mark in state(tmp_path) for mark in marks)
    forget(tmp_path, "device-1")
    assert marks[1] not in state(tmp_path) and marks[0] in state(tmp_path)


def test_a_report_in_a_set_that_is_being_made_defers_it(tmp_path):
    spec = federation()
    world = served(spec, tmp_path)
    while world.service.engine.trained < 2 or world.service.coordinator.kept != 1:
        assert world.step()
    (name,) = {ticket.device for ticket in world.service.parts}
    other = next(device for device in world.fleet.names if device != name)
    world.service.close()
    with pytest.raises(StoreError, match=rf"report of {name} is in the set of version 3.*start `fedthings serve`"):
        forget(tmp_path, name)
    assert len(devices.listed(tmp_path)) == 3  # nothing was removed
    (found,) = forget(tmp_path, other)
    assert found.versions == [1, 2]
    again = Virtual(spec, digits(3, 0), 4, tmp_path)
    assert again.service.coordinator.kept == 1 and again.service.engine.trained == 2


def test_the_ledger_is_told_where_privacy_is_claimed(tmp_path, capsys):
    claim = ft.central_dp(epsilon=8, delta=1e-5)
    spec = federation(pace=ft.Pace(goal=1, separation=1, cap=1), stages=(ft.clip(0.5),), privacy=claim)
    run = served(spec, tmp_path, rounds=3).run()
    assert main(["devices", "--out", str(tmp_path), "forget", "device-2", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["stays"]
    assert len(found["versions"]) == 1  # the cap
    assert found["privacy"]["epsilon"] == pytest.approx(run.summary["privacy"]["epsilon"])
    assert any("as epsilon 8.000 at delta 1e-05 allows" in sentence for sentence in found["said"])


def test_a_report_that_counts_for_nothing_is_in_no_version(tmp_path):
    world = served(federation(), tmp_path)
    world.agents["device-1"].shard.X[:] = float("nan")
    world.run()
    assert Store(tmp_path).versions("device-1") == [] and Store(tmp_path).versions("device-0") == [1, 2, 3, 4]
    (found,) = forget(tmp_path, "device-1")
    assert found.said[0] == "none of its reports is in a model"


def test_it_is_the_same_after_a_death_at_any_moment(tmp_path):
    spec = federation(pace=ft.Pace(goal=2, concurrency=3, staleness=1))
    whole = served(spec, tmp_path / "whole")
    whole.run()
    world = served(spec, tmp_path / "killed")
    for number in range(1, 10_000):
        if world.service.done or not world.step():
            break
        if number % 5 == 0 and number < 60:  # what was under way to the coordinator is lost with it
            world.mail.clear()
            world.agenda = [entry for entry in world.agenda if entry[2] != COORDINATOR]
            world.service.close()
            world.serve()
            world.drain()
    world.result()
    stores = Store(tmp_path / "whole"), Store(tmp_path / "killed")
    for store in stores:
        found = [store.versions(f"device-{i}") for i in range(3)]
        assert sum(map(len, found)) == sum(line["updates"] for line in store.history()) == 8


def test_reports_that_a_gateway_has_summed_count_and_defer_too(tmp_path):
    spec = federation(pace=ft.Pace(goal=3, patience=900.0))
    devices.enrol(tmp_path, [f"device-{i}" for i in range(3)])
    tree = Tree(spec, digits(3, 0), 3, tmp_path, {"g": ""}, homes={"device-0": ""}, world=Slow())
    while tree.service.engine.trained < 2 or {t.device for t in tree.service.parts} != {"device-1", "device-2"}:
        if not tree.step():
            break
    assert {t.device for t in tree.service.parts} == {"device-1", "device-2"}, "the gateway's sum was never first"
    tree.service.close()
    with pytest.raises(StoreError, match="report of device-2 is in the set of version 3"):
        forget(tmp_path, "device-2")
    assert Store(tmp_path).versions("device-2") == [1, 2]


def test_of_several_federations_it_is_forgotten_in_all(tmp_path):
    devices.enrol(tmp_path, [f"device-{i}" for i in range(3)])
    for name in ("heat", "light"):
        world = Virtual(federation(name=name), digits(3, 0), 2, tmp_path / name)
        world.service.store.know({device["name"]: device["password"] for device in devices.listed(tmp_path)})
        world.run()
        Place(f"{name}-1", "mqtt://localhost", "ft").write(tmp_path / name)
    Place("", "mqtt://localhost", "ft").write(tmp_path)
    with pytest.raises(StoreError, match="shares its devices with other federations"):
        forget(tmp_path / "heat", "device-0")
    found = forget(tmp_path, "device-0")
    assert [(stays.federation, stays.versions) for stays in found] == [("heat", [1, 2]), ("light", [1, 2])]
    for where in (tmp_path, tmp_path / "heat", tmp_path / "light"):
        assert [device["name"] for device in devices.listed(where)] == ["device-1", "device-2"]


def test_one_that_was_removed_before_is_known_by_its_reports(tmp_path):
    served(federation(), tmp_path).run()
    with devices.opened(tmp_path) as roll:
        roll.remove(["device-1"])
    (found,) = forget(tmp_path, "device-1")
    assert found.versions == [1, 2, 3, 4]


def test_in_secure_mode_it_is_known_too(tmp_path):
    spec = hidden(key_in(tmp_path / "helper"), 8, pace=ft.Pace(goal=4, concurrency=8, staleness=3, patience=50.0))
    run = Secure(spec, fleet(8), 6, tmp_path).run()
    counts = [len(store.versions(f"device-{i}")) for store in [Store(tmp_path / "run")] for i in range(8)]
    assert sum(counts) == sum(line["updates"] for line in run.history)


def test_bad_input(tmp_path):
    with pytest.raises(StoreError, match="holds no state of a federation: name the directory of a served run"):
        forget(tmp_path / "none", "kitchen")
    ft.simulate(federation(), digits(3, 0), 1, out=tmp_path / "simulated")
    with pytest.raises(StoreError, match="holds no state of a federation"):
        forget(tmp_path / "simulated", "device-0")
    devices.enrol(tmp_path / "run", ["hall"])
    with pytest.raises(StoreError, match=r"nothing is stored of a device 'kitchen' in .*, whose list has hall"):
        forget(tmp_path / "run", "kitchen")
    with (
        alone(tmp_path / "run", "the run directory"),
        pytest.raises(StoreError, match=r"hall cannot be forgotten while .* in use by process .*remove hall` puts it"),
    ):
        forget(tmp_path / "run", "hall")
    (found,) = forget(tmp_path / "run", "hall")
    assert found.said == ["it was let in, and nothing was served yet"] and devices.listed(tmp_path / "run") == []
