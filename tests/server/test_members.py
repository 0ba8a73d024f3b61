"""SecAgg+ in virtual time: the simulator's model bit for bit, whoever drops out when; and what the coordinator has."""

from __future__ import annotations

from collections import deque
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import fedthings as ft
from fedthings.messages import Keys, Shares, Unmask, Unmasked
from fedthings.privacy import secagg, signing
from fedthings.privacy.secagg import Scope, SecAgg
from fedthings.privacy.signing import Signing
from fedthings.protocol.events import Ticket
from fedthings.server.status import status
from fedthings.simulation.simulator import simulate
from fedthings.simulation.work import Counted
from fedthings.simulation.world import Outcome, Steady
from fedthings.transport.memory import Hub
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Delivery
from hiding import federation
from secure import chi_square, fleet
from virtual import Virtual

ROUNDS = 4
SAME = ("updates", "dropped", "loss", "metrics", "worst_decile", "bytes_up", "bytes_down")


@pytest.mark.parametrize(
    "secure, fields",
    [
        ({}, {}),
        ({"bits": 16}, {"stages": (ft.clip(1.0), ft.rotate())}),
        ({"neighbours": 2}, {"strategy": ft.fedavg(weight="equal"), "down": ft.int8(64)}),
    ],
    ids=["32 bits", "16 bits, turned", "two neighbours"],
)
def test_the_model_is_the_simulators_bit_for_bit(
    tmp_path: Path, secure: dict[str, Any], fields: dict[str, Any]
) -> None:
    spec = federation(6, secure, **fields)
    simulated = simulate(spec, fleet(6), ROUNDS, out=tmp_path / "simulated", trace=True)
    with (tmp_path / "trace").open("w") as trace:
        served = Virtual(spec, fleet(6), ROUNDS, tmp_path / "run", trace=trace).run()
    assert np.array_equal(served.row, simulated.row)
    for line, other in zip(served.history, simulated.history, strict=True):
        assert {k: line[k] for k in SAME} == {k: other[k] for k in SAME}
    assert (tmp_path / "trace").read_text() == (tmp_path / "simulated" / "trace.jsonl").read_text()
    assert served.history[-1]["updates"] == 6


def test_the_model_is_the_plain_one_within_rounding() -> None:
    hidden = federation()
    plain = ft.Federation(**{f: getattr(hidden, f) for f in hidden.__struct_fields__ if f != "secure"})
    a, b = simulate(hidden, fleet(), ROUNDS), simulate(plain, fleet(), ROUNDS)
    assert 0 < np.abs(a.row - b.row).max() < 1e-3 * np.abs(b.row).max()


class Without(NamedTuple):
    """Every report takes five seconds, but in version 2 of the training that of one device never comes."""

    device: str = ""

    def outcome(self, ticket: Ticket, now: float, work: Counted, until: float = inf) -> Outcome:
        lost = ticket.device == self.device and (ticket.phase, ticket.version) == (1, 2)
        return Outcome(None) if lost else Outcome(now + 5.0)

    changes = Steady().changes


class Dropping(Virtual):
    """One device says no message of a `kind` at the first attempt at version 2 of the training."""

    def __init__(self, kind: type | None, device: str, *given: Any, **options: Any) -> None:
        self.silent, self.victim = kind, device
        super().__init__(*given, world=Without(device if kind is None else ""), **options)

    def post(self, address: str, arrival: Any) -> None:
        message = arrival.message if isinstance(arrival, Delivery) else None
        if (
            self.silent is not None
            and isinstance(arrival, Delivery)
            and arrival.sender == self.victim
            and isinstance(message, self.silent)
            and message.ticket == (1, 2, self.victim, 0)
        ):
            return
        super().post(address, arrival)


@pytest.mark.parametrize("kind", [Keys, Shares, None, Unmasked], ids=["keys", "shares", "report", "unmasking"])
def test_a_device_that_drops_out_is_left_out_and_the_sum_is_exact(tmp_path: Path, kind: type | None) -> None:
    spec = federation(5, {"patience": 2.0})
    things = fleet(5)
    device = things.names[1]
    served = Dropping(kind, device, spec, things, ROUNDS, tmp_path).run()
    simulated = simulate(spec, things, ROUNDS, world=Without("" if kind is Unmasked else device))
    assert np.array_equal(served.row, simulated.row)
    reason = {Keys: "no keys in time", Shares: "no shares in time", None: "deadline"}.get(kind)
    assert [line["updates"] for line in served.history] == [5, 5, 5 if reason is None else 4, 5]
    assert served.history[2]["dropped"] == ({} if reason is None else {reason: 1})


def test_too_many_that_drop_out_leave_the_version_without_reports(tmp_path: Path) -> None:
    spec = federation(4, {"patience": 2.0, "min_batch": 4})
    run = Dropping(Shares, fleet().names[0], spec, fleet(), ROUNDS, tmp_path).run()
    simulated = simulate(spec, fleet(), ROUNDS, world=Without(fleet().names[0]))
    assert [line["updates"] for line in simulated.history] == [4, 4, 0, 4]
    assert simulated.history[2]["dropped"] == {"deadline": 1, "batch below the minimum": 3}
    assert [line["updates"] for line in run.history] == [4] * 4  # before anything is masked it can be tried again
    assert run.history[2]["dropped"] == {"no shares in time": 1, "batch below the minimum": 3}


def test_without_enough_shares_the_version_is_made_without_reports(tmp_path: Path) -> None:
    spec = federation(4, {"patience": 30.0})
    world = Virtual(spec, fleet(), ROUNDS, tmp_path)
    while world.service.engine.trained < 1:
        assert world.step()
    while not world.service.settlement.fixed:
        assert world.step()
    for name in fleet().names[:2]:
        world.hub.sleep(name)
    (first, *_) = status(world.service, world.now)["waiting"]
    assert first["for"] == "devices: their shares of 4 reports for version 2" and 0 < first["seconds"] <= 30.0
    while world.service.engine.trained < 2:
        assert world.step()
    for name in fleet().names[:2]:
        world.hub.link(name)
    run = world.run()
    assert [line["updates"] for line in run.history] == [4, 0, 4, 4]
    assert run.history[1]["dropped"] == {"no answer from the devices": 4}


def test_a_committee_that_waits_says_for_what(tmp_path: Path) -> None:
    world = Dropping(Keys, fleet().names[0], federation(4, {"patience": 9.0}), fleet(), ROUNDS, tmp_path)
    while not (world.service.engine.trained == 2 and len(world.service.members.committee.heard) == 3):
        assert world.step()
    waits = [wait["for"] for wait in status(world.service, world.now)["waiting"]]
    assert waits[0] == "keys of 1 of 4 devices of version 3"
    world.run()


def test_what_the_coordinator_stores_of_reports_is_uniform(tmp_path: Path) -> None:
    task = ft.Task(model=ft.mlp(4, 9400, 2), loss="cross_entropy", recipe=ft.Recipe(lr=0.05))
    world = Virtual(federation(4, task=task), fleet(), 1, tmp_path)
    while not world.service.settlement.fixed:
        assert world.step()
    for ticket in world.service.settlement.fixed:
        report = world.service.spool.read(ticket)
        assert set(report.arrays) == {"x", "exact"} and not report.metrics and report.weight.tolist() == [1]
        assert (report.arrays["exact"] > 2**32).mean() > 0.9  # counts, weights and losses are small numbers
        assert chi_square(np.bincount(report.arrays["x"].view(np.uint8), minlength=256)) > 1e-6


def test_no_message_of_a_whole_run_has_a_training_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[bytes] = []
    inject = Hub.inject
    monkeypatch.setattr(Hub, "inject", lambda self, *words: (said.append(words[2]), inject(self, *words))[1])
    things = fleet()
    run = Virtual(federation(), things, ROUNDS, tmp_path).run()
    passed = b"".join(said)
    assert run.row.tobytes() in passed
    for name in things.names:
        for row in things.shard(name).X:
            for kind in ("<f4", ">f4", "<f8", ">f8", "<f2"):
                assert row.astype(kind).tobytes() not in passed


# ------------------------------------------------------------------------ refusals


class Villain:
    """A device at the hub that says what a test wants, among three that do as they should."""

    def __init__(self, tmp_path: Path) -> None:
        self.world = Virtual(federation(4, {"patience": 2.0}), fleet(), 1, tmp_path, world=Steady(5.0))
        self.name = fleet().names[0]

    def until(self, holds: Any) -> None:
        while not holds():
            assert self.world.step()

    def says(self, message: Any) -> None:
        """Say `message` in the device's name, and let everything follow that is not on its way yet."""
        self.world.hub._ends[self.name].send(COORDINATOR, message)
        while self.world.mail:
            self.world.step()

    @property
    def refusals(self) -> dict[str, int]:
        return dict(self.world.service.refusals)


def test_other_keys_for_the_same_ticket_end_the_task(tmp_path: Path) -> None:
    villain = Villain(tmp_path)
    members = villain.world.service.members
    villain.until(lambda: len(members.keys) == 4)
    ticket = next(ticket for ticket in members.keys if ticket.device == villain.name)
    keys = secagg.begin(SecAgg(), Scope("fed", bytes(32)), ticket, signing.own()).keys
    villain.says(keys)
    assert villain.refusals["second set"] == 1 and not villain.world.service.coordinator.open(ticket)
    villain.world.run()


def test_keys_without_the_devices_signature_are_refused(tmp_path: Path) -> None:
    villain = Villain(tmp_path)
    villain.world.mail = deque((to, said) for to, said in villain.world.mail if to != villain.name)
    service = villain.world.service
    villain.until(lambda: any(villain.name == name for name in service.coordinator.tasks))
    ticket = service.coordinator.tasks[villain.name][0]
    villain.says(secagg.begin(SecAgg(), Scope("fed", bytes(32)), ticket, signing.own()).keys)  # of another task
    assert villain.refusals["wrong signature"] == 1


class Enrolled(Virtual):
    """Each device signs with the key that it has enrolled with, but for `liar`, who signs with another."""

    def __init__(self, *given: Any, liar: str = "") -> None:
        self.liar, names = liar, fleet().names
        self.private = {name: sha256(name.encode()).digest() for name in names}
        self.public = {name: signing.by(key).public for name, key in self.private.items()}
        super().__init__(*given, verify=signing.of(self.public.get))

    def signing(self, name: str) -> Signing:
        return signing.own() if name == self.liar else signing.by(self.private[name])


def test_keys_are_signed_by_the_identities_that_are_enrolled(tmp_path: Path) -> None:
    world = Enrolled(federation(), fleet(), ROUNDS, tmp_path)
    run = world.run()
    assert {ticket.device: keys.identity for ticket, keys in world.service.members.keys.items()} == world.public
    assert np.array_equal(run.row, simulate(federation(), fleet(), ROUNDS).row)


def test_a_key_that_is_not_enrolled_is_not_passed_on(tmp_path: Path) -> None:
    liar = fleet().names[2]
    world = Enrolled(federation(), fleet(), 2, tmp_path, liar=liar)
    run = world.run()
    assert world.service.refusals["wrong signature"] >= 3  # in each phase
    assert [line["updates"] for line in run.history] == [3, 3]
    assert all(keys.ticket.device != liar for agent in world.agents.values() for keys in agent.member._seat.neighbours)


def test_a_ticket_of_another_device_is_refused(tmp_path: Path) -> None:
    villain = Villain(tmp_path)
    members = villain.world.service.members
    villain.until(lambda: len(members.keys) == 4)
    other = next(keys for ticket, keys in members.keys.items() if ticket.device != villain.name)
    villain.says(other)
    assert villain.refusals == {"not your ticket": 1}


def test_a_device_answers_one_unmasking(tmp_path: Path) -> None:
    villain = Villain(tmp_path)
    world = villain.world
    villain.until(lambda: world.service.settlement.fixed)
    villain.until(lambda: world.service.members._answers)
    agent = world.agents[villain.name]
    seat = agent.member._seat
    assert seat is not None and seat.unmask is not None
    told: list[str] = []
    agent.on_news = told.append
    other = Unmask(seat.ticket, 4, seat.unmask.alive[1:], seat.unmask.alive[:1])
    world.hub._ends[COORDINATOR].send(villain.name, other)
    while world.mail:
        world.step()
    assert any("second unmasking" in text for text in told)


def test_a_sleeper_declines(tmp_path: Path) -> None:
    world = Virtual(federation(), fleet(), 1, tmp_path)
    told: list[str] = []
    agent = world.join(fleet().names[0], every=60.0)
    agent.on_news = told.append
    for _ in range(60):
        world.step()
    assert any("awake: join without --wake" in text for text in told)
