"""Messages that cannot be: each is counted with its reason and answered, and the model is that of the honest."""

from __future__ import annotations

from pathlib import Path

import cbor2
import numpy as np
import pytest

import fedthings as ft
from fedthings.messages import Ask, Bye, Chunk, Decline, Hello, Offer, Receipt, Refusal, Want
from fedthings.protocol.events import Ticket
from fedthings.server.status import status
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Arrival, Delivery
from fedthings.vector import keyed
from fedthings.wire import LIMIT, pack, pack_body
from virtual import NAME, Virtual

from .conftest import federation, fleet
from .villain import HONEST, ROUNDS, WHO, Villain, dropped, offered, run


def plain(**fields: object) -> bytes:
    """Return a message with these fields, right or wrong."""
    return cbor2.dumps({"v": 1, "f": NAME, **fields})


def of_the_task(v: Villain) -> bytes:
    return v.world.service.bodies.task(v.world.service.engine).digest


MESSAGES = {
    "nothing": (lambda v, t: b"", "malformed"),
    "garbage": (lambda v, t: keyed("garbage").bytes(100), "malformed"),
    "truncated": (lambda v, t: pack(Decline(t, "no"), NAME)[:-3], "malformed"),
    "bytes behind": (lambda v, t: pack(Hello("b"), NAME) + b"\0", "malformed"),
    "too large": (lambda v, t: b"\0" * (LIMIT + 1), "too large"),
    "a lying head": (lambda v, t: b"\xbb" + b"\xff" * 8, "malformed"),
    "deep": (lambda v, t: b"\x81" * 5000, "malformed"),
    "no map": (lambda v, t: cbor2.dumps([1, 2]), "malformed"),
    "a field's type": (lambda v, t: plain(t="hello", boot=7), "malformed"),
    "a ticket's type": (lambda v, t: plain(t="decline", ticket="mine", reason=""), "malformed"),
    "a field missing": (lambda v, t: plain(t="want", digest=b"\0" * 32), "malformed"),
    "a field too many": (lambda v, t: plain(t="hello", boot="b", code="import os"), "malformed"),
    "a negative number": (lambda v, t: plain(t="want", digest=b"\0" * 32, starts=[-1]), "malformed"),
    "a short digest": (lambda v, t: plain(t="want", digest=b"\0", starts=[0]), "malformed"),
    "version 2": (lambda v, t: cbor2.dumps({"v": 2, "t": "hello", "f": NAME, "boot": "b"}), "unknown version"),
    "no version": (lambda v, t: cbor2.dumps({"t": "hello", "f": NAME, "boot": "b"}), "malformed"),
    "unknown type": (lambda v, t: plain(t="attack"), "unknown message"),
    "a body": (lambda v, t: pack_body(v.report(t)), "malformed"),
    "the coordinator's": (lambda v, t: Receipt(t, True), "unexpected"),
    "the operator's": (lambda v, t: Ask("cancel"), "unexpected"),
    "another federation": (lambda v, t: pack(Hello("b"), "other"), "another federation"),
    "another's farewell": (lambda v, t: pack(Bye(), "other"), "another federation"),
    "another's report": (lambda v, t: offered(v.report(t), t._replace(device="device-0")), "not your ticket"),
    "another's refusal": (lambda v, t: Decline(t._replace(device="device-0"), "no"), "not your ticket"),
    "an old version": (lambda v, t: offered(v.report(t), t._replace(version=0, attempt=9)), "late"),
    "a later version": (lambda v, t: offered(v.report(t), t._replace(version=99)), "late"),
    "another phase": (lambda v, t: offered(v.report(t), t._replace(phase=7)), "late"),
    "a model": (lambda v, t: offered(v.report(t), t, what="model"), "malformed"),
    "no ticket": (lambda v, t: offered(v.report(t), t, ticket=None), "malformed"),
    "wants what is not there": (lambda v, t: Want(b"\0" * 32, (0,)), "not here"),
    "wants a chunk too many": (lambda v, t: Want(of_the_task(v), (1 << 20,)), "malformed"),
    "wants too much": (lambda v, t: Want(of_the_task(v), (0,) * 9999), "malformed"),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_is_refused_with_its_reason(case: str, tmp_path: Path) -> None:
    made, reason = MESSAGES[case]
    villain, result = run(tmp_path, lambda v, t: [made(v, t)])
    assert status(villain.world.service, 0.0)["refused"] == {reason: ROUNDS}
    if reason == "late":
        assert sum(isinstance(m, Receipt) and m.reason == "late" for m in villain.answers) == ROUNDS
    else:
        assert sum(isinstance(m, Refusal) and m.reason == reason and bool(m.detail) for m in villain.answers) == ROUNDS
    assert dropped(result, "deadline") == ROUNDS  # it never did its task


OFFERS = {
    "larger than any report": (lambda o: {"size": 1 << 40, "count": 1 << 24, "chunk": 1 << 16}, "too large"),
    "a count that lies": (lambda o: {"count": 5}, "malformed"),
    "chunks of nothing": (lambda o: {"chunk": 0}, "malformed"),
    "a size that lies": (lambda o: {"size": o.size - 1}, "malformed"),
    "a first chunk too long": (lambda o: {"first": o.first + b"\0"}, "malformed"),
    "a digest that lies": (
        lambda o: {"digest": b"\1" * 32, "size": 64, "chunk": 64, "first": b"!" * 64},
        "wrong digest",
    ),
}


@pytest.mark.parametrize("case", OFFERS)
def test_an_offer_that_lies_frees_its_slot_at_once(case: str, tmp_path: Path) -> None:
    lies, reason = OFFERS[case]

    def says(v: Villain, t: Ticket) -> list[Offer]:
        right = offered(v.report(t), t)
        return [offered(v.report(t), t, **lies(right))]

    villain, result = run(tmp_path, says)
    assert villain.world.service.refusals == {reason: ROUNDS}
    assert dropped(result, reason) == ROUNDS
    assert result.summary["seconds"] < 10  # no deadline was waited for
    receipts = [(m.kept, m.reason) for m in villain.answers if isinstance(m, Receipt) and m.reason != "enough"]
    assert receipts == [(False, reason)] * ROUNDS
    assert [m.reason for m in villain.answers if isinstance(m, Refusal)] == [reason] * ROUNDS


def test_who_is_not_on_the_list_is_not_heard(tmp_path: Path) -> None:
    world = Virtual(federation(HONEST), fleet(HONEST), ROUNDS, tmp_path, allowed=lambda name: name != WHO)
    villain = world.agents[WHO] = Villain(world, lambda v, t: [])  # type: ignore[assignment]
    world.hub.inject(COORDINATOR, COORDINATOR, pack(Hello("b"), NAME))  # nor is the coordinator a device
    world.hub.inject(WHO, COORDINATOR, pack(Bye(), NAME))
    result = world.run()
    assert np.array_equal(result.row, ft.simulate(federation(HONEST), fleet(HONEST), ROUNDS).row)
    assert world.service.refusals["unknown device"] >= 3
    assert next(m for m in villain.answers if isinstance(m, Refusal)).detail.endswith("`fedthings enrol villain`")


def test_an_operator_who_asks_for_what_is_not(tmp_path: Path) -> None:
    world = Virtual(federation(HONEST), fleet(HONEST), ROUNDS, tmp_path)
    operator = world.hub.operator("cli", NAME)
    operator.send(COORDINATOR, Ask("dance"))
    operator.send(COORDINATOR, Hello("b"))
    world.run()
    assert world.service.refusals == {"unexpected": 2}
    answers = []
    while (arrival := operator.inbox.get(0)) is not None:
        answers += [m] if isinstance(m := getattr(arrival, "message", None), Refusal) else []
    assert answers[0].detail.endswith("an operator asks one of status, pause, resume, cancel, reload")


def test_a_reason_is_kept_short_and_clean(tmp_path: Path) -> None:
    _, result = run(tmp_path, lambda v, t: [Decline(t, "\x1b[2J" + "no\n" * 100)])
    assert dropped(result, "[2J" + ("no" * 100)[:61]) == ROUNDS


class Muddled(Virtual):
    """Every chunk comes twice and in another order, each after one that is too short and one of no body."""

    def post(self, address: str, arrival: Arrival) -> None:
        if isinstance(arrival, Delivery) and isinstance(arrival.message, Chunk) and address == COORDINATOR:
            chunk = arrival.message
            short, foreign = Chunk(chunk.digest, chunk.start, b"short"), Chunk(b"\0" * 32, 0, b"")
            for message in (chunk, chunk, Chunk(chunk.digest, 1 << 40, b""), foreign, short):
                self.mail.appendleft((address, arrival._replace(message=message)))
        else:
            super().post(address, arrival)


def test_chunks_in_any_order_and_of_any_length(tmp_path: Path) -> None:
    world = Muddled(federation(HONEST, "fleet"), fleet(HONEST), ROUNDS, tmp_path, chunk=64)
    for agent in world.agents.values():
        agent.upload.chunk = 64
    result = world.run()
    assert np.array_equal(result.row, ft.simulate(federation(HONEST, "fleet"), fleet(HONEST), ROUNDS).row)
    assert set(world.service.refusals) == {"malformed"}
    assert [line["updates"] for line in result.history] == [HONEST] * ROUNDS


def test_a_flood_of_garbage(tmp_path: Path) -> None:
    """Random bytes, and every kind of message with a byte or two changed."""
    rng = keyed("flood")

    def mutated(data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(len(changed))] = rng.integers(256)
        return bytes(changed)

    def says(v: Villain, t: Ticket) -> list[bytes]:
        bad = offered(v.report(t, weight=np.zeros(1, np.int64)), t)  # what comes through unchanged is left out too
        right = [bad, Want(of_the_task(v), (0,)), Decline(t, "no"), Hello("b"), Chunk(b"\0" * 32, 0, b"")]
        right = [pack(message, NAME) for message in right]
        return [rng.bytes(rng.integers(200)) for _ in range(300)] + [
            mutated(right[rng.integers(len(right))]) for _ in range(700)
        ]

    villain, _ = run(tmp_path, says)
    refused = status(villain.world.service, 0.0)["refused"]
    assert sum(refused.values()) > 2000
    assert len(refused) < 12
