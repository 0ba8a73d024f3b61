"""Bad input to gateways and from them: refused with its reason, nothing large allocated, and the model is the same."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from msgspec.structs import replace

import fedthings as ft
from fedthings.bodies import Subtotal
from fedthings.errors import WireError
from fedthings.learn.digits import digits
from fedthings.messages import Hello, Offer, Relay, Verdict
from fedthings.protocol.events import Ticket
from fedthings.subtotal import TICKETS, merge, most_bytes, sum_up, verify
from fedthings.transport.chunks import Source
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Delivery
from fedthings.wire import pack, pack_body
from gateways import Tree
from virtual import NAME


def federation(n: int = 4) -> ft.Federation:
    task = ft.Task(model=ft.mlp(64, 6, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.2, batch=16))
    return ft.Federation(task, ft.fedavg(), ft.Pace(goal=n, patience=60.0), devices=n, seed=3)


@pytest.fixture
def tree(tmp_path) -> Tree:
    """A version is under way: all four devices are at work, behind one gateway."""
    tree = Tree(federation(), digits(4, 0), 3, tmp_path, {"west": ""}, allowed=lambda name: name != "stranger")
    while len(tree.service.coordinator.tasks) < 4 or tree.mail:
        assert tree.step()
    return tree


def told(tree: Tree, hub: str, name: str) -> list:
    """Deliver all that is under way at once, and return what `name` at `hub` has got."""
    while tree.mail:
        place, arrival = tree.mail.popleft()
        where, _, address = place.rpartition("/")
        (tree.hubs[where] if where else tree.hub).deliver(address, arrival)
        if place != (f"{hub}/{name}" if hub else name):
            tree.drain()
    inbox = tree.end(hub, name).inbox
    found = []
    while (arrival := inbox.get(0)) is not None:
        if isinstance(arrival, Delivery):
            found.append(arrival.message)
    return found


def finish(tree: Tree) -> None:
    """The rest is as if nothing had been."""
    while not tree.service.done:
        assert tree.step()
    assert np.array_equal(tree.result().row, ft.simulate(federation(), digits(4, 0), 3).row)


def test_a_device_of_another_federation_is_refused_at_the_gateway(tree):
    tree.hubs["west"].device("guest")
    tree.hubs["west"].inject("guest", COORDINATOR, pack(Hello("x"), "other-1"))
    refusals = [m for m in told(tree, "west", "guest") if type(m).__name__ == "Refusal"]
    assert [m.reason for m in refusals] == ["another federation"]
    assert "other-1; this gateway is of fed" in refusals[0].detail
    assert tree.gateways["west"].refusals == {"another federation": 1}
    assert "guest" not in tree.service.coordinator.present
    finish(tree)


@pytest.mark.parametrize(
    ("sender", "device", "federation", "reason"),
    [
        ("west", "guest", "other-1", "another federation"),
        ("west", "stranger", NAME, "unknown device"),
        ("west", "west", NAME, "unexpected"),
        ("device-0", "device-1", NAME, "unknown gateway"),
    ],
)
def test_what_may_not_be_relayed_is_refused_with_its_reason(tree, sender, device, federation, reason):
    data = pack(Hello("x"), federation)
    tree.hub.inject(sender, COORDINATOR, pack(Relay(device, data), NAME))
    told(tree, "", "west")
    assert tree.service.refusals == {reason: 1}
    assert device not in tree.service.routes or device == "device-1"
    assert tree.service.routes.get("device-1") == "west"
    finish(tree)


@pytest.mark.parametrize("data", [b"", b"\x9b" + b"\xff" * 8, pack(Offer("report", b"d" * 32, 1, 1, 1), NAME)])
def test_a_relay_of_nonsense_is_refused(tree, data):
    tree.hub.inject("west", COORDINATOR, pack(Relay("device-1", data), NAME))
    told(tree, "", "west")
    assert sum(tree.service.refusals.values()) == 1
    finish(tree)


def subtotal(tree: Tree, *tickets: Ticket) -> Subtotal:
    """Return a sum of nothing, with as many zeros as are due."""
    partial, template = tree.service.engine.partial, tree.service.engine._template
    return Subtotal(
        tickets,
        ("",) * len(tickets),
        {f.name: np.zeros(f.dim, np.int64) for f in partial.fields},
        np.array([len(tickets)], np.int64),
        {name: np.zeros_like(row) for name, row in template.metrics.items()},
        {},
    )


def offer(tree: Tree, body: Subtotal, who: str = "west") -> list:
    source = Source(pack_body(body), 1 << 18)
    tree.hub.inject(who, COORDINATOR, pack(source.offer("subtotal", first=source.count == 1), NAME))
    return told(tree, "", who)


def test_a_sum_with_tickets_that_there_are_not_is_not_merged(tree):
    mine = tree.service.coordinator.tasks["device-0"][0]
    ghost = Ticket(0, 0, "device-1", 7)
    verdicts = [m for m in offer(tree, subtotal(tree, mine, ghost)) if isinstance(m, Verdict)]
    (verdict,) = verdicts
    assert not verdict.merged
    assert [(r.ticket, r.kept, r.reason) for r in verdict.out] == [(ghost, False, "late")]
    assert tree.service.coordinator.open(mine)
    finish(tree)


def broken(body: Subtotal) -> list[tuple[str, Subtotal]]:
    x, one = body.arrays["x"], body.tickets[0]
    big = np.full_like(x, np.iinfo(np.int64).min)
    metrics = body.metrics
    return [
        ("wrong dimension", replace(body, arrays={"x": x[:-1]})),
        ("wrong dimension", replace(body, metrics={k: v[:-1] for k, v in metrics.items()})),
        ("wrong type", replace(body, arrays={"x": x.astype(np.float32)})),
        ("wrong type", replace(body, weight=np.ones(2, np.int64))),
        ("wrong arrays", replace(body, arrays={})),
        ("wrong arrays", replace(body, arrays={"x": x, "y": x})),
        ("wrong arrays", replace(body, values={"loss": np.zeros(2)})),
        ("wrong arrays", replace(body, values={"speed": np.zeros(1)})),
        ("out of range", replace(body, arrays={"x": big})),
        ("out of range", replace(body, weight=np.array([0]))),
        ("out of range", replace(body, weight=np.array([1 << 17]))),
        ("out of range", replace(body, metrics={k: v - 1 for k, v in metrics.items()})),
        ("out of range", replace(body, reasons=("not finite",))),
        ("malformed", replace(body, reasons=())),
        ("malformed", replace(body, tickets=(), reasons=())),
        ("malformed", replace(body, tickets=(one, one), reasons=("", ""), weight=np.array([2]))),
    ]


def test_a_sum_that_cannot_be_right_is_refused_with_its_reason(tree):
    body = subtotal(tree, tree.service.coordinator.tasks["device-0"][0])
    for reason, wrong in broken(body):
        before = tree.service.refusals[reason]
        assert not any(isinstance(m, Verdict) for m in offer(tree, wrong)), reason
        assert tree.service.refusals[reason] == before + 1, (reason, tree.service.refusals)
    assert not list((tree.directory / "subtotals").iterdir())
    assert tree.service.engine.partial.sums.count == 0
    finish(tree)


def test_a_sum_is_offered_by_a_gateway_only(tree):
    tree.hub.device("guest")
    offer(tree, subtotal(tree, tree.service.coordinator.tasks["device-0"][0]), "guest")
    assert sum(tree.service.refusals.values()) == 1
    finish(tree)


@pytest.mark.parametrize("size", [1 << 24, 1 << 62])
def test_an_offer_that_is_too_large_allocates_nothing(tree, size):
    wanted = Offer("subtotal", b"d" * 32, size, -(-size // (1 << 18)), 1 << 18)
    tracemalloc.start()
    tree.hub.inject("west", COORDINATOR, pack(wanted, NAME))
    told(tree, "", "west")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tree.service.refusals == {"too large": 1}
    assert peak < 2_000_000
    finish(tree)


def test_sums_of_sums_are_free_of_order_byte_for_byte(tree):
    engine = tree.service.engine
    rng = np.random.default_rng(1)
    dim = engine.partial.fields[0].dim
    reports = [
        replace(
            engine._template,
            ticket=Ticket(0, 0, f"device-{i}", 0),
            arrays={"x": rng.normal(0, 0.1, dim).astype(np.float32) if i != 5 else np.full(dim, np.nan, np.float32)},
            weight=np.array([i + 1]),
        )
        for i in range(9)
    ]
    whole = pack_body(sum_up(engine.partial, reports))
    for cut in (1, 4, 8):
        parts = [sum_up(engine.partial, reports[cut:]), *reversed(reports[:cut])]
        assert pack_body(sum_up(engine.partial, parts)) == whole
    body = sum_up(engine.partial, reports)
    assert body.reasons.count("not finite") == 1
    verify(body, engine.partial, engine._template)
    merge(engine.partial, body, 0)
    assert engine.partial.tally.dropped == {"not finite": 1}
    assert engine.partial.sums.counts == {0: 8}
    assert most_bytes(engine.partial, engine._template) > 8 * dim
    with pytest.raises(WireError, match="several versions"):
        verify(replace(body, tickets=(Ticket(0, 1, "a", 0), *body.tickets[1:])), engine.partial, engine._template)
    many = tuple(Ticket(0, 0, f"d{i}", 0) for i in range(TICKETS + 1))
    with pytest.raises(WireError, match="malformed"):
        verify(replace(body, tickets=many, reasons=("",) * len(many)), engine.partial, engine._template)
