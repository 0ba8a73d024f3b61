"""What an end believes: who has said it, to whom, and that it was not said before; also after either was killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedthings.errors import StoreError, WireError
from fedthings.identity.keys import held, key_id, public_of
from fedthings.identity.links import BLOCK, Links
from fedthings.identity.seal import CoordinatorSeal, DeviceSeal, Known
from fedthings.identity.tokens import made, presented
from fedthings.messages import Announce, Ask, Bye, Chunk, Hello, Message, Pause, Refusal
from fedthings.wire import pack

FED = "fed-1"
UP, DOWN, SAID = "ft/from/kitchen", "ft/to/kitchen", f"ft/announce/{FED}"
ANNOUNCE = Announce("boot", "fed", "running", 0, 0)
HELLO, PAUSE = Hello("b"), Pause("rest")


class Pair:
    """A coordinator and a device that have heard each other; each can be started anew, with what is on its disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.keys = {name: held(directory / name) for name in ("coordinator", "kitchen", "hall")}
        self.coordinator, self.device = self.lead(), self.join("kitchen")
        self.greet()

    def lead(self) -> CoordinatorSeal:
        known = Known({name: public_of(self.keys[name]) for name in ("kitchen", "hall")})
        self.coordinator = CoordinatorSeal(self.keys["coordinator"], Links(self.directory / "coordinator.links"), known)
        self.coordinator.link()
        return self.coordinator

    def join(self, name: str) -> DeviceSeal:
        public = public_of(self.keys["coordinator"])
        device = DeviceSeal(self.keys[name], Links(self.directory / f"{name}.links"), {key_id(public): public})
        device.link()
        if name == "kitchen":
            self.device = device
        return device

    def greet(self) -> None:
        self.announcement = self.coordinator.close(SAID, ANNOUNCE, FED)
        assert self.device.open(SAID, self.announcement) == (FED, ANNOUNCE)
        assert self.up(HELLO) == (FED, HELLO)
        assert self.down(PAUSE) == (FED, PAUSE)

    def up(self, message: Message) -> tuple[str, Message]:
        return self.coordinator.open(UP, self.device.close(UP, message, FED))  # type: ignore[arg-type]

    def down(self, message: Message) -> tuple[str, Message]:
        return self.device.open(DOWN, self.coordinator.close(DOWN, message, FED))  # type: ignore[arg-type]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def refused(reason: str, open_: Callable[[str, bytes], object], topic: str, data: bytes) -> None:
    with pytest.raises(WireError) as error:
        open_(topic, data)
    assert error.value.reason == reason


def test_a_message_is_taken_once(pair: Pair) -> None:
    first, second = pair.device.close(UP, HELLO, FED), pair.device.close(UP, HELLO, FED)
    pair.coordinator.open(UP, second)
    refused("replayed message", pair.coordinator.open, UP, second)
    refused("replayed message", pair.coordinator.open, UP, first)  # it was on its way for too long
    assert pair.up(HELLO)
    data = pair.coordinator.close(DOWN, PAUSE, FED)
    pair.device.open(DOWN, data)
    refused("replayed message", pair.device.open, DOWN, data)


def test_nothing_said_before_a_restart_is_taken_after_it(pair: Pair) -> None:
    """Whichever end was killed: neither had written anything down since its link was made."""
    up, down = pair.device.close(UP, HELLO, FED), pair.coordinator.close(DOWN, PAUSE, FED)
    pair.join("kitchen")
    pair.device.open(SAID, pair.announcement)
    refused("replayed message", pair.device.open, DOWN, down)
    assert pair.up(HELLO) and pair.down(PAUSE)
    refused("replayed message", pair.coordinator.open, UP, up)

    up, down, before = pair.device.close(UP, HELLO, FED), pair.coordinator.close(DOWN, PAUSE, FED), pair.announcement
    pair.lead()
    refused("replayed message", pair.coordinator.open, UP, up)  # though it has never heard of this device
    refused("replayed message", pair.coordinator.open, UP, pair.device.close(UP, HELLO, FED))  # says it to the old link
    pair.greet()
    assert pair.down(PAUSE)
    refused("replayed message", pair.device.open, SAID, before)
    refused("replayed message", pair.coordinator.open, UP, up)


def test_numbers_of_links_only_grow(tmp_path: Path) -> None:
    seen = []
    for _ in range(4):
        links = Links(tmp_path / "links")
        seen += [links.new() for _ in range(BLOCK + 3)]
    assert seen == sorted(set(seen)) and (tmp_path / "links").stat().st_mode & 0o777 == 0o600
    (tmp_path / "links").write_text("many\n")
    with pytest.raises(StoreError, match="cannot be read"):
        Links(tmp_path / "links")


def test_a_will_counts_once_and_for_its_link_only(pair: Pair) -> None:
    pair.device.link()
    will = pair.device.close(UP, Bye(), "", will=True)
    refused("replayed message", pair.coordinator.open, UP, will)  # nothing was heard of this link
    assert pair.up(HELLO) and pair.up(HELLO)
    late = pair.device.close(UP, HELLO, FED)
    assert pair.coordinator.open(UP, will) == ("", Bye())
    refused("replayed message", pair.coordinator.open, UP, will)
    refused("replayed message", pair.coordinator.open, UP, late)  # whose link is over
    pair.device.link()
    assert pair.up(HELLO)
    refused("replayed message", pair.coordinator.open, UP, will)
    bye = pair.device.close(UP, Bye(), FED)
    assert pair.coordinator.open(UP, bye) == (FED, Bye())
    refused("replayed message", pair.coordinator.open, UP, bye)
    assert pair.up(HELLO)  # it has left one of several federations


def test_an_announcement_is_heard_at_every_link_until_another_replaces_it(pair: Pair) -> None:
    for _ in range(3):
        pair.device.link()
        assert pair.device.open(SAID, pair.announcement) == (FED, ANNOUNCE)
        assert pair.up(HELLO)
    newer = pair.coordinator.close(SAID, Announce("boot", "fed", "finished", 0, 9), FED)
    pair.device.open(SAID, newer)
    refused("replayed message", pair.device.open, SAID, pair.announcement)


def test_another_topic_federation_or_root(pair: Pair) -> None:
    """Someone else's topic: a broker that lets a device write where it may not is not enough."""
    hall = pair.join("hall")
    hall.open(SAID, pair.announcement)
    refused("wrong key", pair.coordinator.open, UP, hall.close(UP, HELLO, FED))
    data = pair.device.close(UP, HELLO, FED)
    refused("wrong signature", pair.coordinator.open, "other/from/kitchen", data)
    refused("wrong key", pair.coordinator.open, "ft/from/hall", data)
    assert pair.coordinator.open(UP, data)
    told = pair.coordinator.close(DOWN, PAUSE, FED)
    refused("wrong signature", pair.device.open, "ft/to/hall", told)
    forged = told.replace(FED.encode(), b"fed-2")
    refused("wrong signature", pair.device.open, DOWN, forged)


def test_who_is_not_enrolled_or_was_revoked(pair: Pair) -> None:
    message = pair.device.close(UP, HELLO, FED)
    kitchen = public_of(pair.keys["kitchen"])
    pair.coordinator.known = Known({})
    refused("unknown device", pair.coordinator.open, UP, message)
    pair.coordinator.known = Known({}, frozenset({key_id(kitchen)}))
    refused("revoked key", pair.coordinator.open, UP, message)
    refused("not signed", pair.coordinator.open, UP, pack(HELLO, FED))
    assert pair.device.open(DOWN, pair.coordinator.close(DOWN, Refusal("revoked key"), FED))  # it is told nevertheless


def test_the_coordinator_is_known_by_the_pinned_key(pair: Pair) -> None:
    other = CoordinatorSeal(bytes(32), Links())
    other.link()
    refused("wrong coordinator key", pair.device.open, SAID, other.close(SAID, ANNOUNCE, FED))
    refused("not signed", pair.device.open, SAID, pack(ANNOUNCE, FED))


def test_chunks_and_operators_are_not_signed(pair: Pair) -> None:
    chunk = Chunk(bytes(32), 0, b"data")
    assert pair.device.close(UP, chunk, FED) == pack(chunk, FED) and pair.up(chunk) == (FED, chunk)
    assert pair.coordinator.open("ft/ask/cli", pack(Ask("status"), "")) == ("", Ask("status"))


def test_an_enrolment_is_signed_with_the_key_that_it_brings(pair: Pair) -> None:
    token = made(public_of(pair.keys["coordinator"]), 0.0)
    enrol = presented(token, "cellar", public_of(bytes(32)), "$7$")
    cellar = DeviceSeal(bytes(32), Links(), {})
    assert pair.coordinator.open("ft/from/cellar", cellar.close("ft/from/cellar", enrol, "")) == ("", enrol)
    refused("wrong signature", pair.coordinator.open, UP, pair.device.close(UP, enrol, ""))
