"""SecAgg+ by its pure functions: sums exact in the ring whoever drops out, and what a device refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from conversation import SCOPE, STAGES, Conversation
from fedthings.errors import SpecError, WireError
from fedthings.messages import Neighbours, Shares, Unmask
from fedthings.privacy import secagg, signing
from fedthings.privacy.keys import private
from fedthings.privacy.secagg import SEALED, Scope, SecAgg
from fedthings.privacy.unmasking import secrets
from fedthings.protocol.events import Ticket
from secure import chi_square


def some(tickets: list[Ticket], share: float, by: int) -> list[Ticket]:
    """Every so many of `tickets`, so that `share` of them are chosen, other ones for each `by`."""
    step = max(1, round(1 / share)) if share < 0.5 else 1
    chosen = [t for i, t in enumerate(tickets) if (7 * i + 3 * by) % 10 < 10 * share] if len(tickets) >= 10 else []
    return chosen or tickets[by % len(tickets) :: step][: max(1, round(share * len(tickets)))]


def exact(world: Conversation) -> bool:
    total, due = world.sum(), world.due()
    return all(np.array_equal(total[name], due[name]) for name in due)


@pytest.mark.parametrize("bits", [16, 32])
def test_the_sum_is_exact(bits: int) -> None:
    world = Conversation(7, SecAgg(), bits=bits)
    world.run()
    assert len(world.reports) == 7 and exact(world)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("n", [3, 100])
def test_the_sum_is_exact_where_three_of_ten_drop_out_at_a_stage(n: int, stage: str) -> None:
    world = Conversation(n, SecAgg(min_batch=2, dropout=0.3))
    world.run({stage: some(world.tickets, 0.3, STAGES.index(stage))})
    left = n - round(0.3 * n)
    assert len(world.reports) == (n if stage == "unmask" else left)
    assert len(world.answers) == left and exact(world)


def test_the_sum_is_exact_where_a_tenth_drops_out_at_each_of_three_stages() -> None:
    world = Conversation(100, SecAgg(dropout=0.3))
    world.run({stage: some(world.tickets, 0.1, i) for i, stage in enumerate(STAGES[1:])})
    assert len(world.reports) == 80 and len(world.answers) == 70 and exact(world)


@pytest.mark.long
@pytest.mark.parametrize("stage", STAGES)
def test_the_sum_is_exact_of_two_thousand(stage: str) -> None:
    """Few numbers and no signatures, since it is the keys that take long."""
    world = Conversation(2000, SecAgg(dropout=0.3, neighbours=100), dim=16)
    world.signing = world.signing._replace(verify=lambda *_: True)
    world.run({stage: some(world.tickets, 0.3, STAGES.index(stage))})
    assert len(world.answers) == 1400 and exact(world)


def test_a_report_is_uniform_and_says_nothing_of_the_update() -> None:
    """Number 4: what the coordinator has of one report, of an update of zeros."""
    world = Conversation(4, SecAgg(), dim=1 << 16)
    world.plain["x"][:] = 0
    world.introduce()
    world.share()
    world.report()
    for arrays in world.reports.values():
        assert chi_square(np.bincount(arrays["x"].view(np.uint8), minlength=256)) > 1e-6
        bits = np.unpackbits(arrays["x"].view(np.uint8)).reshape(-1, 32).sum(axis=0)
        assert np.abs(bits / len(arrays["x"]) - 0.5).max() < 0.01
    rows = [arrays["x"].view(np.uint8) for arrays in world.reports.values()]
    assert max(abs(np.corrcoef(a, b)[0, 1]) for a in rows for b in rows if a is not b) < 0.02


def test_without_the_secret_of_one_device_nothing_is_unmasked() -> None:
    world = Conversation(5, SecAgg())
    world.run()
    shares = {ticket: answer.shares for ticket, answer in world.answers.items()}
    few = dict(list(shares.items())[: world.degree.threshold - 1])
    assert secrets(world.set, world.reports, few) == {}


# ------------------------------------------------------------------------ refusals


@pytest.fixture
def world() -> Conversation:
    made = Conversation(6, SecAgg(min_batch=4))
    made.introduce()
    made.share()
    made.report(gone=made.tickets[:1])
    return made


def refused(work: Any, *given: Any) -> str:
    with pytest.raises(WireError) as error:
        work(*given)
    return error.value.reason


def test_both_shares_of_one_device_are_never_given(world: Conversation) -> None:
    ticket = world.tickets[3]
    seat, ask = world.seats[ticket], world.ask(ticket)
    assert ask.gone == (0,)
    both = replace(ask, gone=(*ask.gone, ask.alive[0]))
    assert refused(secagg.unmask, seat, both) == "both shares"
    seat, answer = secagg.unmask(seat, ask)
    assert secagg.unmask(seat, ask) == (seat, answer)  # the same request, sent again
    other = replace(ask, alive=(0, *ask.alive[1:]), gone=(ask.alive[0],))  # who was in the sum is not any more
    assert refused(secagg.unmask, seat, other) == "second unmasking"


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"alive": (1, 2), "gone": (0, 3, 4)}, "set below the threshold"),
        ({"reports": 3}, "batch below the minimum"),
        ({"reports": 1 << 40}, ""),
        ({"alive": (1, 2, 3), "gone": ()}, "malformed"),
        ({"alive": (1, 1, 2, 3, 4)}, "malformed"),
        ({"alive": (1, 2, 3, 4, 5)}, "malformed"),
    ],
)
def test_an_unmasking_that_says_too_much(world: Conversation, change: dict[str, Any], reason: str) -> None:
    ticket = world.tickets[3]
    ask = replace(world.ask(ticket), **change)
    if reason:
        assert refused(secagg.unmask, world.seats[ticket], ask) == reason
    else:
        secagg.unmask(world.seats[ticket], ask)


def test_a_set_of_all_that_is_below_the_minimum() -> None:
    """Where all are neighbours a device sees for itself how many reports there are, whatever it is told."""
    world = Conversation(6, SecAgg(min_batch=5))
    world.introduce()
    world.share()
    world.report(gone=world.tickets[:2])
    ticket = world.tickets[3]
    ask = replace(world.ask(ticket), reports=6)
    assert refused(secagg.unmask, world.seats[ticket], ask) == "batch below the minimum"


def test_a_device_that_sent_no_shares_is_not_unmasked() -> None:
    world = Conversation(6, SecAgg())
    world.introduce()
    world.share(gone=world.tickets[:1])
    world.report()
    ticket = world.tickets[3]
    ask = world.ask(ticket)
    assert (ask.alive, ask.gone) == ((1, 2, 3, 4), ())
    assert refused(secagg.unmask, world.seats[ticket], replace(ask, gone=(0,))) == "malformed"


def neighbours_of(world: Conversation, **change: Any) -> Neighbours:
    return replace(world.neighbours(world.tickets[0]), **change)


def test_a_set_that_would_hide_too_little_gets_no_shares() -> None:
    world = Conversation(6, SecAgg(min_batch=4))
    world.introduce()
    seat, said = world.seats[world.tickets[0]], neighbours_of(world)
    give = (world.signing,)

    assert refused(secagg.share, seat, replace(said, members=3), *give) == "batch below the minimum"
    assert refused(secagg.share, seat, replace(said, members=200), *give) == "malformed"  # 38 are due
    assert refused(secagg.share, seat, replace(said, keys=said.keys[:4]), *give) == "malformed"
    assert refused(secagg.share, seat, replace(said, keys=(*said.keys[:4], said.keys[0])), *give) == "malformed"
    own = replace(said, keys=(*said.keys[:4], seat.keys))
    assert refused(secagg.share, seat, own, *give) == "malformed"


def test_keys_that_are_not_the_devices_get_no_shares() -> None:
    world = Conversation(6, SecAgg())
    world.introduce()
    seat, said = world.seats[world.tickets[0]], neighbours_of(world)
    give = (world.signing,)
    forged = [
        (replace(said.keys[0], mask=said.keys[1].mask), "wrong signature"),
        (replace(said.keys[0], signature=bytes(64)), "wrong signature"),
        (replace(said.keys[0], ticket=said.keys[0].ticket._replace(attempt=9)), "wrong signature"),
        (replace(said.keys[0], ticket=said.keys[0].ticket._replace(version=9)), "malformed"),
        (
            secagg.begin(world.spec, Scope("other", bytes(32)), said.keys[0].ticket, world.signing).keys,
            "wrong signature",
        ),
    ]
    for keys, reason in forged:
        assert refused(secagg.share, seat, replace(said, keys=(keys, *said.keys[1:])), *give) == reason
    none = signing.Signing(world.signing.public, world.signing.sign, lambda *_: False)  # not that device's identity
    assert refused(secagg.share, seat, said, none) == "wrong signature"


def test_secrets_are_shared_once() -> None:
    world = Conversation(6, SecAgg())
    world.introduce()
    seat = secagg.share(world.seats[world.tickets[0]], neighbours_of(world), world.signing)
    assert secagg.share(seat, neighbours_of(world), world.signing) == seat
    other = neighbours_of(world, keys=neighbours_of(world).keys[::-1])
    assert refused(secagg.share, seat, other, world.signing) == "second set"


def test_too_few_holders_and_other_shares_are_refused(world: Conversation) -> None:
    fresh = Conversation(6, SecAgg())
    fresh.introduce()
    seat = secagg.share(fresh.seats[fresh.tickets[0]], neighbours_of(fresh), fresh.signing)
    few = Shares(seat.ticket, (bytes(SEALED),) * 2 + (b"",) * 3)
    assert refused(secagg.receive, seat, few) == "set below the threshold"
    assert refused(secagg.receive, seat, Shares(seat.ticket, (bytes(SEALED),) * 4)) == "malformed"
    masked = world.seats[world.tickets[0]]
    other = Shares(masked.ticket, masked.received[::-1])
    assert refused(secagg.receive, masked, other) == "second set"


def test_shares_that_do_not_open_are_left_out_and_the_sum_is_exact() -> None:
    world = Conversation(6, SecAgg())
    world.introduce()
    world.share()
    liar, victim = world.tickets[1], world.tickets[4]
    number = world.near[victim].index(liar)
    received = list(world.seats[victim].received)
    received[number] = bytes(SEALED)
    world.seats[victim] = replace(world.seats[victim], received=tuple(received))
    world.report()
    world.unmask()
    assert world.answers[victim].shares[number] == b"" and exact(world)


def test_wrong_shares_are_seen() -> None:
    world = Conversation(6, SecAgg())
    world.introduce()
    world.share()
    world.report(gone=world.tickets[:1])
    world.unmask()
    shares = {ticket: answer.shares for ticket, answer in world.answers.items()}
    shares[world.tickets[1]] = shares[world.tickets[2]]
    with pytest.raises(WireError) as error:
        secrets(world.set, world.reports, shares)
    assert error.value.reason == "wrong shares"


def test_a_seal_opens_for_its_receiver_and_direction_only() -> None:
    world = Conversation(3, SecAgg())
    world.introduce()
    world.share()
    a, b, c = world.tickets
    sent = world.seats[a].sealed
    for holder, number, sealed in ((b, 0, sent[1]), (c, 0, sent[0]), (a, 0, sent[0])):
        seat = world.seats[holder]
        received = list(seat.received)
        received[number] = sealed
        assert secagg._opened(replace(seat, received=tuple(received)), private(seat.seal), number) == (b"", b"")


@pytest.mark.parametrize("field", [{"min_batch": 1}, {"corrupt": 0.9}, {"dropout": 0.0}, {"bits": 8}, {"patience": 0}])
def test_settings_that_cannot_be(field: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=f"secure.{next(iter(field))} is"):
        SecAgg(**field)


def test_a_request_for_another_scope_is_not_read() -> None:
    assert SCOPE.of("mask", Ticket(0, 1, "a", 0), Ticket(0, 1, "b", 0)) == SCOPE.of(
        "mask", Ticket(0, 1, "b", 0), Ticket(0, 1, "a", 0)
    )
    words = {
        scope.of(role, Ticket(0, version, "a", 0))
        for scope in (SCOPE, Scope("house-2", SCOPE.task), Scope(SCOPE.federation, bytes(32)))
        for role in ("mask", "shares", "own mask", "keys")
        for version in (1, 2)
    }
    assert len(words) == 24


def test_an_unmasking_before_there_are_shares_is_malformed() -> None:
    world = Conversation(3, SecAgg())
    world.introduce()
    seat = world.seats[world.tickets[0]]
    assert refused(secagg.unmask, seat, Unmask(seat.ticket, 3, (0, 1), ())) == "malformed"
