"""A device that lies about its length is left out, though nobody sees its report; and the projections are seen once."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fedthings as ft
from fedthings.cli import main
from fedthings.device import report
from fedthings.errors import SpecError
from fedthings.server.leader import Leader
from fedthings.server.status import status
from fedthings.simulation.simulator import simulate
from fedthings.transport.topics import COORDINATOR
from secure import NAME, Secure, fleet, key_in

ROUNDS = 2


def federation(helper: str, devices: int, bits: int = 32, **fields) -> ft.Federation:
    task = ft.Task(model=ft.mlp(4, 9400, 2), loss="cross_entropy", recipe=ft.Recipe(lr=0.05, batch=8))
    settings = {
        "strategy": ft.fedavg(weight="equal"),
        "pace": ft.Pace(goal=devices, patience=1e6),
        "stages": (ft.clip(0.5),) if bits == 32 else (ft.clip(0.5), ft.rotate()),
        **fields,
    }
    return ft.Federation(task, secure=ft.two_servers(helper, bits=bits, norms=True), **settings)


@pytest.fixture
def villain(monkeypatch: pytest.MonkeyPatch) -> str:
    """The first device sends what it should, times 1,000."""
    honest = report.split

    def lying(arrays, helper, scope, ticket):
        if ticket.device == "device-0" and "x" in arrays:
            arrays["x"] *= arrays["x"].dtype.type(1000)
        return honest(arrays, helper, scope, ticket)

    monkeypatch.setattr(report, "split", lying)
    return "device-0"


@pytest.mark.parametrize("bits", [16, 32])
def test_honest_devices_are_in(tmp_path, bits):
    spec = federation(key_in(tmp_path / "helper"), 4, bits)
    served = Secure(spec, fleet(), ROUNDS, tmp_path).run()
    assert [line["dropped"] for line in served.history] == [{}] * ROUNDS
    assert np.array_equal(served.row, simulate(spec, fleet(), ROUNDS).row)


@pytest.mark.parametrize("bits", [16, 32])
def test_a_report_1000_times_too_long_is_left_out(tmp_path, villain, bits):
    things = fleet(5)
    assert villain in things.names
    spec = federation(key_in(tmp_path / "helper"), 5, bits)
    served = Secure(spec, things, ROUNDS, tmp_path).run()
    assert [line["dropped"] for line in served.history] == [{"norm beyond the bound": 1}] * ROUNDS
    assert [line["updates"] for line in served.history] == [4] * ROUNDS
    honest = simulate(spec, things, ROUNDS)  # with that device as it should be: about there, and not 1,000 away
    assert np.abs(served.row - honest.row).max() < 0.05


@pytest.mark.parametrize("who", [COORDINATOR, NAME])
def test_killed_while_norms_and_sums_are_asked_for(tmp_path, villain, who, monkeypatch):
    asked = []
    ask = Leader.ask
    monkeypatch.setattr(Leader, "ask", lambda self, service, norms: (asked.append(norms), ask(self, service, norms))[1])
    spec = federation(key_in(tmp_path / "helper"), 5)
    world = Secure(spec, fleet(5), ROUNDS, tmp_path)
    kills = {True: 0, False: 0}
    while not world.service.done:
        assert world.step(), status(world.service, world.now)
        settlement = world.service.settlement
        if settlement.fixed and kills[settlement.unchecked] < 6:
            kills[settlement.unchecked] += 1
            world.mail = type(world.mail)((to, arrival) for to, arrival in world.mail if to != who)
            if who == NAME:
                world.help()
            else:
                world.serve()
            world.drain()
    assert kills == {True: 6, False: 6} and set(asked) == {True, False}
    run = world.result()
    assert [line["dropped"] for line in run.history] == [{"norm beyond the bound": 1}] * ROUNDS


def test_a_helper_sums_nothing_that_was_not_checked(tmp_path, monkeypatch):
    """A leader that leaves the norms out, and one that asks for them twice with another draw."""
    ask = Leader.ask
    spec = federation(key_in(tmp_path / "helper"), 4)
    world = Secure(spec, fleet(), ROUNDS, tmp_path)
    monkeypatch.setattr(Leader, "ask", lambda self, service, norms: ask(self, service, False))
    leader = world.service.leader
    for _ in range(100):
        if leader.refusal:
            break
        world.step()
    (wait, *_) = status(world.service, world.now)["waiting"]
    assert wait["for"] == "helper: its norms of 4 reports for version 1; it says: norms first"
    monkeypatch.setattr(Leader, "ask", ask)
    leader.ask(world.service, True)
    while world.service.settlement.unchecked:
        world.step()
    leader._key = bytes(32)  # and so another draw
    world.service.settlement.unchecked = True
    leader.ask(world.service, True)
    excluded = {}
    for _ in range(100):
        excluded |= world.service.engine.tally.dropped
        world.step()
        if world.service.history:
            break
    assert world.service.history[0]["dropped"].keys() <= {"used already", "batch below the minimum"}
    assert world.service.history[0]["updates"] == 0


REFUSED = {
    "small": (
        {"task": ft.Task(model=ft.mlp(4, 5, 2), loss="cross_entropy")},
        "secure.norms is set for a model of 37 parameters",
    ),
    "weighted": ({"strategy": ft.fedavg()}, 'secure.norms is set with strategy.weight "samples"'),
}


@pytest.mark.parametrize("case", REFUSED)
def test_where_it_would_say_too_much_it_is_refused(tmp_path, case):
    fields, said = REFUSED[case]
    spec = federation(key_in(tmp_path / "helper"), 4)
    settings = {name: getattr(spec, name) for name in spec.__struct_fields__}
    with pytest.raises(SpecError) as error:
        ft.Federation(**{**settings, **fields})
    assert said in str(error.value)


def test_the_ledger_names_what_the_servers_see(tmp_path, capsys):
    spec = federation(key_in(tmp_path / "helper"), 4)
    plain = {name: getattr(spec, name) for name in spec.__struct_fields__} | {
        "secure": ft.two_servers(spec.secure.helper)
    }
    for name, one, seen in (("norms", spec, True), ("sums", ft.Federation(**plain), False)):
        ft.simulate(one, fleet(), 1, out=tmp_path / name)
        assert main(["privacy", str(tmp_path / name)]) == 0
        said = capsys.readouterr().out
        assert ("norms         both servers see the length of each report and 1,024 random projections" in said) == seen
        assert "epsilon       none is claimed" in said
        assert "sums          the coordinator sees those of at least 3 reports" in said
        assert main(["privacy", str(tmp_path / name), "--json"]) == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert found["epsilon"] is None and any("1,024" in sentence for sentence in found["seen"]) == seen
