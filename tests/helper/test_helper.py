"""The helper alone: what it gives a share for, what it refuses, and what it still knows after it was killed."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from fedthings.bodies import Batch, Sealed, Share
from fedthings.errors import SpecError, StoreError
from fedthings.helper.helper import KEY_FILE, Helper
from fedthings.helper.rules import Rules
from fedthings.helper.store import FILE, Store
from fedthings.identity.keys import held, spelled
from fedthings.messages import Announce, Hello, Offer, Refusal, Verdict, Want
from fedthings.privacy import keys, shares
from fedthings.privacy.shares import Channel, Scope
from fedthings.protocol.events import Ticket
from fedthings.spelling import read
from fedthings.transport.chunks import Assembly, Source
from fedthings.transport.memory import Hub
from fedthings.transport.transport import Delivery
from fedthings.vector import keyed
from fedthings.wire import pack_body, unpack_body

FEDERATION, LEADER = "house-1", bytes(range(1, 33))
DIM, EXACT = 50, 6


class World:
    """A helper, and a leader that says what a test wants."""

    def __init__(self, directory: Path, rules: Rules | None = None) -> None:
        self.directory, self.rules = directory, rules
        directory.mkdir(exist_ok=True)
        self.hub = Hub()
        self.leader = self.hub.coordinator(FEDERATION)
        self.start()
        self.leader.announce(Announce("boot", "house", "running", 0, 0))
        self.drain()

    def start(self) -> None:
        """Start the helper, or start it again."""
        self.helper = Helper(self.directory, self.hub.device("helper"), self.rules)
        self.scope = Scope(FEDERATION, bytes(32), 3, False, 32, DIM, EXACT)

    def reports(self, n: int, version: int = 0, public: bytes | None = None) -> list[tuple[Ticket, dict[str, Any]]]:
        """Return n reports of nothing: what a device sends, and so the mask as the leader has it."""
        found = []
        for i in range(n):
            ticket = Ticket(1, version, f"device-{i}", 0)
            nothing = {"x": np.zeros(DIM, np.uint32), "exact": np.zeros(EXACT, np.uint64)}
            found.append((ticket, shares.split(nothing, public or self.helper.public, self.scope, ticket)))
        return found

    def batch(
        self, reports: list[tuple[Ticket, dict[str, Any]]], scope: Scope | None = None, sums: tuple[int, ...] = ()
    ) -> Batch:
        """Return what a leader asks for these reports."""
        scope = scope or self.scope
        tickets = tuple(ticket for ticket, _ in reports)
        hashes = [shares.digest(sent) for _, sent in reports]
        seeds = [sent["seed"].tobytes() for _, sent in reports]
        arrays = {
            "shares": np.frombuffer(b"".join(hashes), np.uint8),
            "seeds": np.frombuffer(b"".join(seeds), np.uint8),
        }
        digest = shares.commitment(scope, tickets, hashes, seeds, sums=sums)
        return Batch(
            digest, scope.task, tickets, arrays, scope.bits, scope.dim, scope.exact, scope.min_batch, sums=sums
        )

    def ask(self, batch: Batch, key: bytes = LEADER, about: str = "batch") -> Any:
        """Send `batch` and return the first answer: a Share, or what is said instead of one."""
        channel = Channel(key, self.helper.public)
        data = channel.close(pack_body(batch), shares.about(about, FEDERATION))
        source = Source(pack_body(Sealed(keys.public_of(key), data)))
        self.leader.send("helper", source.offer("batch", first=source.count == 1))
        (answer,) = [said for said in self.drain() if not isinstance(said, Hello)]
        if isinstance(answer, Want):
            for chunk in source.answer(answer):
                self.leader.send("helper", chunk)
            (answer, *_) = self.drain()
        if not isinstance(answer, Offer):
            return answer
        assembly = Assembly(answer, 1 << 20)
        while not assembly.done:
            for want in assembly.wants():
                self.leader.send("helper", want)
            for chunk in self.drain():
                assembly.add(chunk)
        sealed = unpack_body(assembly.data, Sealed)
        return unpack_body(channel.open(sealed.data, shares.about("share", FEDERATION)), Share)

    def drain(self) -> list[Any]:
        """Let the helper read, and return what it says."""
        while (arrival := self.helper.transport.inbox.get(0)) is not None:
            self.helper.receive(arrival, 0.0)
        said = []
        while (arrival := self.leader.inbox.get(0)) is not None:
            if isinstance(arrival, Delivery):
                said.append(arrival.message)
        return said


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "helper")


def adds_up(reports: list[tuple[Ticket, dict[str, Any]]], share: Share) -> bool:
    """Whether the leader's shares of reports of nothing and the helper's come to nothing."""
    return all(
        not (np.sum([sent[name] for _, sent in reports], axis=0, dtype=row.dtype) + row).any()
        for name, row in share.arrays.items()
    )


def test_the_share_is_the_sum_of_the_masks(world: World) -> None:
    reports = world.reports(5)
    share = world.ask(world.batch(reports))
    assert isinstance(share, Share) and adds_up(reports, share)


def test_the_same_batch_has_the_same_answer_also_after_a_kill(world: World) -> None:
    reports = world.reports(5)
    batch = world.batch(reports)
    first = world.ask(batch)
    assert adds_up(reports, world.ask(batch))
    world.start()  # the other one is not closed: it was killed
    again = world.ask(batch)
    assert again.digest == first.digest and adds_up(reports, again)


def test_killed_before_it_was_durable_nothing_is_used(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> Path:
        raise Killed

    reports = world.reports(4)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", die)
        with pytest.raises(Killed):
            world.ask(world.batch(reports))
    world.start()
    assert adds_up(reports[:3], world.ask(world.batch(reports[:3])))


def test_a_report_is_used_once(world: World) -> None:
    reports = world.reports(5)
    world.ask(world.batch(reports[:3]))
    world.start()
    verdict = world.ask(world.batch(reports))  # an overlapping set
    assert isinstance(verdict, Verdict) and not verdict.merged
    assert [(receipt.ticket, receipt.reason) for receipt in verdict.out] == [
        (ticket, "used already") for ticket, _ in reports[:3]
    ]
    more = world.reports(8)[5:]
    assert adds_up(reports[3:] + more, world.ask(world.batch(reports[3:] + more)))  # the refusal used up nothing


def test_a_seed_under_another_ticket_is_malformed(world: World) -> None:
    """A leader that asks for a report twice, the second time under a name that is not used yet."""
    reports = world.reports(3)
    world.ask(world.batch(reports))
    renamed = [(ticket._replace(attempt=1), sent) for ticket, sent in reports]
    verdict = world.ask(world.batch(renamed))
    assert {receipt.reason for receipt in verdict.out} == {"malformed seed"} and len(verdict.out) == 3


def test_a_batch_below_the_minimum_is_refused_by_the_federations_or_the_owners(tmp_path: Path) -> None:
    world = World(tmp_path / "a")
    assert world.ask(world.batch(world.reports(2))).reason == "batch below the minimum"
    strict = World(tmp_path / "b", Rules(min_batch=6))
    assert strict.ask(strict.batch(strict.reports(5))).reason == "batch below the minimum"
    assert isinstance(strict.ask(strict.batch(strict.reports(6))), Share)


def test_each_of_several_sums_is_of_enough_reports(world: World) -> None:
    reports = world.reports(7)
    for sums in ((2, 5), (5, 2), (6, 1)):
        assert world.ask(world.batch(reports, sums=sums)).reason == "batch below the minimum"
    for sums in ((3, 3), (4, 4), (7, 0, 0)):
        answer = world.ask(world.batch(reports, sums=sums))
        assert getattr(answer, "reason", "") in ("malformed", "batch below the minimum")
    share = world.ask(world.batch(reports, sums=(3, 4)))
    first, second = share.arrays["x"].reshape(2, DIM)
    for row, some in ((first, reports[:3]), (second, reports[3:])):
        assert not (np.sum([sent["x"] for _, sent in some], axis=0, dtype=np.uint32) + row).any()
    total = np.sum([sent["exact"] for _, sent in reports], axis=0, dtype=np.uint64)
    assert not (total + share.arrays["exact"]).any()


def test_a_set_in_other_sums_is_another_set(world: World) -> None:
    reports = world.reports(6)
    batch = world.batch(reports, sums=(3, 3))
    assert world.ask(replace(batch, sums=())).reason == "different sets"
    assert isinstance(world.ask(batch), Share)
    assert {receipt.reason for receipt in world.ask(world.batch(reports)).out} == {"used already"}


def test_a_leader_that_asks_for_less_than_the_devices_agreed_to_has_no_seed(tmp_path: Path) -> None:
    world = World(tmp_path / "a", Rules(min_batch=2))
    reports = world.reports(2)
    verdict = world.ask(world.batch(reports, world.scope._replace(min_batch=2)))
    assert {receipt.reason for receipt in verdict.out} == {"malformed seed"}


def test_one_ticket_twice_is_not_two_reports(world: World) -> None:
    reports = world.reports(2)
    answer = world.ask(world.batch([*reports, reports[0]]))
    assert isinstance(answer, Refusal) and answer.reason == "malformed"


def test_leader_and_helper_must_mean_the_same_set(world: World) -> None:
    reports = world.reports(5)
    batch = replace(world.batch(reports), digest=world.batch(reports[:4]).digest)
    assert world.ask(batch).reason == "different sets"
    assert isinstance(world.ask(world.batch(reports)), Share)


def test_seeds_for_another_helper_or_damaged_are_named(world: World) -> None:
    good = world.reports(5)
    foreign = World(world.directory.parent / "other").helper.public
    bad = world.reports(7, public=foreign)[5:]
    damaged = world.reports(8)[7]
    damaged[1]["seed"] = damaged[1]["seed"] ^ np.uint8(1)
    verdict = world.ask(world.batch([*good, *bad, damaged]))
    assert [receipt.ticket.device for receipt in verdict.out] == ["device-5", "device-6", "device-7"]
    assert {receipt.reason for receipt in verdict.out} == {"malformed seed"}
    assert adds_up(good, world.ask(world.batch(good)))


def test_a_share_that_is_not_the_devices_is_named(world: World) -> None:
    """The leader may not put another share in the place of the one that the seed was sealed with."""
    reports = world.reports(4)
    reports[1][1]["x"] = reports[1][1]["x"] + np.uint32(1)
    verdict = world.ask(world.batch(reports))
    assert [receipt.ticket.device for receipt in verdict.out] == ["device-1"]


def test_who_leads_is_pinned(world: World) -> None:
    reports = world.reports(6)
    world.ask(world.batch(reports[:3]))
    world.start()
    answer = world.ask(world.batch(reports[3:]), key=bytes(range(2, 34)))
    assert isinstance(answer, Refusal) and answer.reason == "another leader"


def test_the_owners_rules(tmp_path: Path) -> None:
    other = World(tmp_path / "a", Rules(federations=("garden",)))
    assert other.ask(other.batch(other.reports(3))).reason == "not this federation"
    known = Rules(leaders=(spelled(keys.public_of(LEADER)),))
    world = World(tmp_path / "b", known)
    assert world.ask(world.batch(world.reports(3)), key=bytes(range(2, 34))).reason == "unknown leader"
    assert isinstance(world.ask(world.batch(world.reports(3))), Share)


def test_a_question_for_another_purpose_is_not_read(world: World) -> None:
    answer = world.ask(world.batch(world.reports(3)), about="share")
    assert isinstance(answer, Refusal) and answer.reason == "wrong key"


@pytest.mark.parametrize(
    "fields", [{"bits": 8}, {"dim": 1 << 40}, {"exact": 0}, {"arrays": {}}, {"arrays": {"shares": np.zeros(3)}}]
)
def test_a_batch_that_cannot_be_is_refused(world: World, fields: dict[str, Any]) -> None:
    answer = world.ask(replace(world.batch(world.reports(3)), **fields))
    assert isinstance(answer, Refusal) and answer.reason == "malformed"


def test_garbage_for_a_batch_is_refused(world: World) -> None:
    source = Source(keyed("garbage").bytes(500))
    world.leader.send("helper", source.offer("batch", first=True))
    (answer,) = world.drain()
    assert isinstance(answer, Refusal) and answer.reason == "malformed"


def test_it_says_hello_where_it_has_helped_before(world: World) -> None:
    world.ask(world.batch(world.reports(3)))
    world.start()
    assert [type(message) for message in world.drain()] == [Hello]


def test_answers_of_earlier_batches_go(world: World) -> None:
    for version in range(3):
        world.ask(world.batch(world.reports(3, version)))
    assert len(list((world.directory / "answers").iterdir())) == 1


def test_a_damaged_state_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database, and long enough to be looked at" * 100)
    with pytest.raises(StoreError, match=r"the helper's state in .* cannot be kept"):
        Store(tmp_path)
    (tmp_path / KEY_FILE).write_bytes(b"short")
    with pytest.raises(StoreError, match="is damaged: it has 5 bytes"):
        held(tmp_path / KEY_FILE)


def test_what_is_used_is_in_the_database_before_the_answer(world: World) -> None:
    world.ask(world.batch(world.reports(4)))
    with sqlite3.connect(world.directory / FILE) as db:
        assert db.execute("SELECT count(*) FROM reports").fetchone() == (4,)


def test_rules_are_read_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('min_batch = 10\nfederations = ["house"]\n')
    assert read(str(file), Rules, "the rules") == Rules(min_batch=10, federations=("house",))
    file.write_text("min_bach = 10\n")
    with pytest.raises(SpecError, match="did you mean `min_batch`"):
        read(str(file), Rules, "the rules")
    with pytest.raises(SpecError, match="cannot be read"):
        read(str(tmp_path / "none.toml"), Rules, "the rules")
    file.write_text('leaders = ["abc"]\n')
    with pytest.raises(SpecError, match=r"rules\.leaders\[0\] is 'abc'"):
        read(str(file), Rules, "the rules")
