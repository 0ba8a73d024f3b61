"""A device with several brokers: it falls back on the next, says so with the time, and comes back to the first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedthings.errors import SpecError, TransportError
from fedthings.messages import Hello
from fedthings.server.broker import Broker, Kind
from fedthings.transport.mqtt import MqttTransport
from fedthings.transport.transport import Delivery, Linked, Unlinked

from .conftest import until

NOBODY = "mqtt://a@127.0.0.1:1"
QUICK = {"backoff": (0.1, 0.3), "next_after": 0.5, "go_back": 0.4}


@pytest.fixture
def two(kind: Kind, tmp_path: Path) -> Iterator[list[Broker]]:
    brokers = [Broker.start(tmp_path / name, passwords={"a": ""}, prefer=kind) for name in ("first", "second")]
    yield brokers
    for broker in brokers:
        broker.stop()


def test_it_falls_back_on_the_second_and_comes_back_to_the_first(two, kind, tmp_path) -> None:
    first, second = two
    end = MqttTransport([first.url("a"), second.url("a")], "a", **QUICK)
    other = MqttTransport(second.url(), "coordinator", "fed")
    try:
        assert end.inbox.get(2) == Linked() and end.broker.port == first.port
        lost = time.monotonic()
        first.stop()
        said = until(end, Unlinked)
        assert f"after 0.5 seconds 127.0.0.1:{second.port} is tried" in said.reason  # type: ignore[union-attr]
        until(end, Linked)
        assert time.monotonic() - lost > 0.4
        assert end.broker.port == second.port
        assert end.send("coordinator", Hello("x"))
        until(other, Delivery, message=Hello)
        two[0] = Broker.start(tmp_path / "first", prefer=kind)  # at the same port
        said = until(end, Unlinked)
        until(end, Linked)
        assert end.broker.port == first.port
    finally:
        end.close()
        other.close()


def test_what_is_said_when_another_broker_takes_over(two) -> None:
    first, second = two
    end = MqttTransport([first.url("a"), second.url("a")], "a", **QUICK)
    try:
        first.stop()
        told = []
        while not any("out of reach" in text for text in told):
            arrival = until(end, Unlinked)
            told.append(arrival.reason)  # type: ignore[union-attr]
        assert told[-1].startswith(f"127.0.0.1:{first.port} was out of reach for ")
        assert told[-1].endswith(f"seconds, now 127.0.0.1:{second.port}")
    finally:
        end.close()


def test_a_first_broker_that_is_not_there_at_the_start(two) -> None:
    """The second is tried at once; and the first, which never comes, is looked for without leaving the second."""
    end = MqttTransport([NOBODY, two[1].url("a")], "a", **QUICK)
    try:
        assert end.inbox.get(2) != Linked()  # why it is not the first
        until(end, Linked)
        assert end.broker.port == two[1].port
        time.sleep(1.0)
        assert end.inbox.get(0) is None and end.linked
    finally:
        end.close()


def test_a_second_broker_that_is_not_there(two) -> None:
    """When the first is lost, the second is tried in vain, and the first again: it is found when it is back."""
    first = two[0]
    end = MqttTransport([first.url("a"), NOBODY], "a", **QUICK)
    try:
        assert end.inbox.get(2) == Linked()
        first.stop()
        told = [until(end, Unlinked).reason for _ in range(5)]  # type: ignore[union-attr]
        assert any("127.0.0.1:1 was out of reach for " in text for text in told)
        two[0] = Broker.start(first.access.directory, prefer=first.kind)
        until(end, Linked)
        assert end.broker.port == first.port
    finally:
        end.close()


def test_a_first_broker_that_listens_and_refuses_is_left_again_at_once(two) -> None:
    """It is there again for a look, and does not let the device in: the second goes on serving it."""
    refused = f"mqtt://a:wrong@127.0.0.1:{two[0].port}"
    end = MqttTransport([refused, two[1].url("a")], "a", **QUICK)
    try:
        until(end, Linked)
        until(end, Unlinked)  # it has gone back to the first
        begun = time.monotonic()
        until(end, Linked)
        assert time.monotonic() - begun < 3 and end.broker.port == two[1].port
    finally:
        end.close()


def test_none_is_there_and_each_is_named() -> None:
    with pytest.raises(TransportError) as told:
        MqttTransport([NOBODY, "mqtt://127.0.0.1:2"], "a", **QUICK)
    assert "no link to the broker at 127.0.0.1:1: nothing listens there" in str(told.value)
    assert "nor to that at 127.0.0.1:2: nothing listens there" in str(told.value)


def test_one_that_is_no_url_is_refused_at_the_start() -> None:
    with pytest.raises(SpecError, match="the broker's URL is 'http://b'"):
        MqttTransport(["mqtt://a", "http://b"], "a")


def test_the_same_broker_twice_is_one() -> None:
    with pytest.raises(TransportError, match=r"127\.0\.0\.1:1") as told:
        MqttTransport([NOBODY, NOBODY], "a", **QUICK)
    assert "nor to that" not in str(told.value)
