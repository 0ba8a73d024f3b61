"""Chunks that are damaged, twice, in another order or never come, and bodies whose heads lie about their size."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fedthings.bodies import Report
from fedthings.errors import WireError
from fedthings.messages import Assignment, Chunk, Decline, Hello, Receipt, Want
from fedthings.protocol.events import Ticket
from fedthings.transport.chunks import Assembly, Source
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Arrival, Delivery, Linked
from fedthings.wire import pack_body, unpack_body
from virtual import Virtual

from .conftest import federation, fleet
from .villain import HONEST, ROUNDS, Villain, dropped, run


def halves(v: Villain, ticket: Ticket) -> Source:
    """Return a right report that is offered in several chunks."""
    return Source(pack_body(v.report(ticket)), 128)


def test_chunks_that_are_never_right_free_the_slot_at_once(tmp_path: Path) -> None:
    villain, result = run(tmp_path, lambda v, t: [Source(b"!" * 192, 64).offer("report", t)])
    assert villain.world.service.refusals == {"wrong digest": ROUNDS}
    assert dropped(result, "wrong digest") == ROUNDS
    receipts = [(m.kept, m.reason) for m in villain.answers if isinstance(m, Receipt) and m.reason != "enough"]
    assert receipts == [(False, "wrong digest")] * ROUNDS


class Careless(Villain):
    """Sends the chunks that are wanted damaged, or not at all, as often as `faults` says, and then as they are."""

    def __init__(self, world: Virtual, fault: str, times: int) -> None:
        super().__init__(world, lambda v, t: [])
        self.fault, self.times, self.source = fault, times, Source(b"?")

    def receive(self, arrival: Arrival, now: float) -> None:
        message = arrival.message if isinstance(arrival, Delivery) else None
        if isinstance(arrival, Linked):
            self.transport.send(COORDINATOR, Hello("boot"))
        elif isinstance(message, Assignment):
            if self.world.service.engine.spec.kind != "train":
                self.transport.send(COORDINATOR, Decline(message.ticket, "enough"))
                return
            self.source, self.ticket = halves(self, message.ticket), message.ticket
            self.transport.send(COORDINATOR, self.source.offer("report", message.ticket))
        elif isinstance(message, Want):
            chunks = list(self.source.answer(message))
            if self.times:
                self.times -= 1
                if self.fault == "damaged":
                    chunks[0] = Chunk(chunks[0].digest, chunks[0].start, b"?" * len(chunks[0].data))
                elif self.fault == "missing":
                    chunks.pop(0)
                elif self.fault == "twice":
                    chunks += chunks
                else:
                    chunks.reverse()
            for chunk in chunks:
                self.transport.send(COORDINATOR, chunk)
            if self.fault == "missing":  # as an agent does that hears nothing
                self.transport.send(COORDINATOR, self.source.offer("report", self.ticket))


@pytest.mark.parametrize("fault", ["damaged", "missing", "twice", "reversed"])
def test_a_report_whose_chunks_come_badly_comes_after_all(fault: str, tmp_path: Path) -> None:
    world = Virtual(federation(HONEST + 1), fleet(HONEST), ROUNDS, tmp_path)
    careless = Careless(world, fault, 2)
    world.agents["careless"] = careless  # type: ignore[assignment]
    result = world.run()
    assert [line["updates"] for line in result.history] == [HONEST + 1] * ROUNDS
    assert world.service.refusals == {}
    assert not list((tmp_path / "spool").iterdir())


LIES = {
    "a row of a terabyte": (b"\xd8\x55\x5b" + (1 << 40).to_bytes(8, "big"), "malformed"),
    "a row a little too long": (b"\xd8\x55\x59\x01\x00", "malformed"),
    "an array of 2**60 numbers": (b"\x9b" + (1 << 60).to_bytes(8, "big"), "malformed"),
    "a text without an end": (b"\x7f", "malformed"),
    "a tag that unpacks": (b"\xd9\x01\x04\x41x", "malformed"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_head_that_lies_about_a_size_allocates_nothing(case: str, tmp_path: Path) -> None:
    lie, reason = LIES[case]
    right = pack_body(Report(Ticket(0, 0, "villain", 0), {"x": np.zeros(3, "f4")}, np.ones(1, np.int64), {}))
    row = b"\xd8\x55\x4c" + bytes(12)
    assert row in right
    body = right.replace(row, lie)
    tracemalloc.start()
    with pytest.raises(WireError) as refused:
        unpack_body(body, Report)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.reason == reason and peak < 100_000
    villain, result = run(tmp_path, lambda v, t: [Source(body).offer("report", t, first=True)])
    assert villain.world.service.refusals == {reason: ROUNDS}
    assert dropped(result, reason) == ROUNDS


@pytest.mark.parametrize("size", [0, 1, 1 << 20])
def test_a_report_that_would_unpack_to_another_size_is_refused(size: int, tmp_path: Path) -> None:
    """What a report unpacks to is said by the task, and never by the report."""
    world = Virtual(federation(HONEST), fleet(HONEST), 1, tmp_path)
    engine, due = world.service.engine, world.service.engine._template
    for name, row in due.arrays.items():
        if row.size == size:
            continue
        arrays = {**due.arrays, name: np.zeros(size, row.dtype)}
        tracemalloc.start()
        with pytest.raises(WireError) as refused:
            engine.expect(Report(due.ticket, arrays, due.weight, due.metrics))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert refused.value.reason == "wrong dimension" and peak < 100_000
    world.service.close()


def test_an_offer_of_too_many_small_chunks_is_refused() -> None:
    body = Source(bytes(4 << 20), 512).offer("model")
    lying = type(body)("model", body.digest, 1 << 28, 1 << 28, 1)
    with pytest.raises(WireError, match="use larger ones"):
        Assembly(lying, 1 << 28)
