"""The hub in memory keeps the promises of the transport, one message at a time."""

from __future__ import annotations

from fedthings.messages import Announce, Ask, Bye, Chunk, Hello, Pause, Status
from fedthings.transport.memory import Hub, MemoryTransport
from fedthings.transport.transport import Arrival, Delivery, Inbox, Linked, Refused, Transport, Unlinked

SAYS = Announce("boot", "fed", "running", 0, 1)


def arrivals(end: MemoryTransport) -> list[Arrival]:
    found = []
    while (arrival := end.inbox.get(0)) is not None:
        found.append(arrival)
    return found


def test_it_has_the_face_of_a_transport() -> None:
    end: Transport = Hub().device("a")
    assert end.linked


def test_messages_go_both_ways_and_are_counted() -> None:
    hub = Hub()
    coordinator, device = hub.coordinator("fed"), hub.device("a", "fed")
    assert device.send("coordinator", Hello("x"))
    assert arrivals(coordinator) == [Linked(), Delivery("a", Hello("x"), "fed")]
    assert coordinator.send("a", Pause("wait"))
    assert coordinator.send("nobody", Pause("wait"))
    assert arrivals(device) == [Linked(), Delivery("coordinator", Pause("wait"), "fed")]
    assert device.bytes_sent == coordinator.bytes_received > 0


def test_an_operator_is_answered() -> None:
    hub = Hub()
    coordinator, operator = hub.coordinator("fed"), hub.operator("cli")
    operator.send("coordinator", Ask("status"))
    _, asked = arrivals(coordinator)
    assert isinstance(asked, Delivery)
    coordinator.send(asked.sender, Status({"devices": 3}))
    assert arrivals(operator)[-1] == Delivery("coordinator", Status({"devices": 3}), "fed")


def test_announcements_wait_for_late_devices() -> None:
    hub = Hub()
    coordinator = hub.coordinator("fed")
    early = hub.device("early")
    coordinator.announce(SAYS)
    late = hub.device("late")
    for end in (early, late):
        assert arrivals(end) == [Linked(), Delivery("coordinator", SAYS, "fed")]
    hub.forget()
    assert arrivals(hub.device("later")) == [Linked()]


def test_a_lost_link_drops_what_is_sent_and_speaks_the_will() -> None:
    hub = Hub()
    coordinator, device = hub.coordinator("fed"), hub.device("a")
    hub.unlink("a", "cable cut")
    assert not device.send("coordinator", Hello("x"))
    coordinator.send("a", Pause("lost"))
    assert arrivals(coordinator) == [Linked(), Delivery("a", Bye(), "")]
    hub.link("a")
    assert arrivals(device) == [Linked(), Unlinked("cable cut"), Linked()]


def test_blobs_come_where_they_are() -> None:
    hub = Hub()
    coordinator, device = hub.coordinator("fed"), hub.device("a")
    digest = b"d" * 32
    coordinator.publish_blob(0, Chunk(digest, 0, b"zero"))
    coordinator.publish_blob(2, Chunk(digest, 8, b"two"))
    arrivals(device)
    assert device.want_blob(digest, (2, 1, 0))
    chunks = [Chunk(digest, 8, b"two"), Chunk(digest, 0, b"zero")]
    assert arrivals(device) == [Delivery("coordinator", chunk, "fed") for chunk in chunks]
    coordinator.clear_blob(digest, 3)
    device.want_blob(digest, (0, 1, 2))
    assert arrivals(device) == []


def test_what_cannot_be_read_is_refused_by_name() -> None:
    hub = Hub()
    coordinator = hub.coordinator("fed")
    hub.inject("a", "coordinator", b"\xff")
    _, refused = arrivals(coordinator)
    assert isinstance(refused, Refused)
    assert (refused.sender, refused.error.reason) == ("a", "malformed")


def test_a_driver_decides_when_things_arrive() -> None:
    under_way: list[tuple[str, Arrival]] = []
    hub = Hub(post=lambda address, arrival: under_way.append((address, arrival)))
    coordinator, device = hub.coordinator("fed"), hub.device("a")
    device.send("coordinator", Hello("1"))
    device.send("coordinator", Hello("2"))
    assert arrivals(coordinator) == []
    for address, arrival in reversed(under_way):
        hub.deliver(address, arrival)
    boots = [a.message.boot for a in arrivals(coordinator) if isinstance(a, Delivery) and isinstance(a.message, Hello)]
    assert boots == ["2", "1"]
    hub.unlink("a")
    device.close()
    hub.deliver("a", Linked())
    assert Linked() in arrivals(device) and not device.linked


def test_closing_says_bye() -> None:
    hub = Hub()
    coordinator, device = hub.coordinator("fed"), hub.device("a", "fed")
    device.close()
    assert arrivals(coordinator)[-1] == Delivery("a", Bye(), "fed")
    assert not device.send("coordinator", Hello("x"))


def test_several_arrivals_at_once_stay_in_order_and_none_is_lost() -> None:
    inbox = Inbox()
    assert inbox.several(0, 4) == []
    for reason in "abcdef":
        inbox.put(Unlinked(reason))
    assert inbox.several(0, 4) == [Unlinked(reason) for reason in "abcd"]
    assert inbox.several(None, 4) == [Unlinked("e"), Unlinked("f")]
