"""The transport over real brokers: it delivers, links again, keeps quiet, and tells what is wrong."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fedthings.errors import SpecError, TransportError
from fedthings.messages import Announce, Ask, Bye, Chunk, Hello, Pause, Status, Want
from fedthings.server.broker import Broker, Kind
from fedthings.transport.chunks import Assembly, Source
from fedthings.transport.link import Address
from fedthings.transport.mqtt import MqttTransport
from fedthings.transport.transport import Delivery, Linked, Refused, Transport, Unlinked

from .conftest import Join, quiet, until

SAYS = Announce("boot", "fed", "running", 0, 1)


def test_messages_go_both_ways_and_are_counted(join: Join) -> None:
    coordinator: Transport = join("coordinator", "both")
    device = join("a", "both")
    assert device.inbox.get(2) == Linked()
    assert device.send("coordinator", Hello("x"))
    assert coordinator.inbox.get(2) == Linked()
    assert coordinator.inbox.get(2) == Delivery("a", Hello("x"), "both")
    assert coordinator.send("a", Pause("wait"))
    assert device.inbox.get(2) == Delivery("coordinator", Pause("wait"), "both")
    assert device.bytes_sent == coordinator.bytes_received > 0
    assert not coordinator.send("no/device", Pause("wait"))


def test_a_late_device_hears_what_is_announced(join: Join) -> None:
    coordinator = join("coordinator")
    coordinator.announce(SAYS)
    assert until(join("a", ""), Delivery) == Delivery("coordinator", SAYS, "fed")
    coordinator.announce(Announce("boot", "fed", "finished", 0, 2))
    device = join("b", "fed")
    late = until(device, Delivery)
    if late == Delivery("coordinator", SAYS, "fed"):  # what is announced anew is on its way to the broker yet
        late = until(device, Delivery)
    assert isinstance(late, Delivery) and isinstance(late.message, Announce) and late.message.version == 2


def test_an_operator_is_answered(join: Join) -> None:
    coordinator, operator = join("coordinator"), join("operator/cli-1")
    operator.send("coordinator", Ask("status"))
    asked = until(coordinator, Delivery)
    assert isinstance(asked, Delivery) and asked.sender == "operator/cli-1"
    coordinator.send(asked.sender, Status({"devices": 3}))
    assert until(operator, Delivery) == Delivery("coordinator", Status({"devices": 3}), "fed")


def test_a_body_goes_up_in_chunks(join: Join) -> None:
    coordinator, device = join("coordinator"), join("a")
    body = os.urandom(1_000_003)
    source = Source(body)
    device.send("coordinator", source.offer("report"))
    offered = until(coordinator, Delivery)
    assert isinstance(offered, Delivery)
    assembly = Assembly(offered.message, 1 << 24)  # type: ignore[arg-type]
    (first,) = assembly.wants()
    coordinator.send("a", first)
    while not assembly.done:
        want = until(device, Delivery, message=Want)
        for chunk in source.answer(want.message):  # type: ignore[union-attr, arg-type]
            assert device.send("coordinator", chunk)
        more: list[Want] = []
        while not more and not assembly.done:
            assembly.add(until(coordinator, Delivery, message=Chunk).message)  # type: ignore[union-attr, arg-type]
            more = assembly.wants()
        for want in more:
            coordinator.send("a", want)
    assert assembly.data == body


def test_retained_chunks_are_fetched_by_name(join: Join) -> None:
    coordinator, device = join("coordinator"), join("a")
    body = os.urandom(64 * 5120)
    source = Source(body, 5120)
    assert all(coordinator.publish_blob(i, source.chunk(i)) for i in range(64))
    time.sleep(0.3)  # two connections: the broker may read the device's first
    assembly = Assembly(source.offer("model", retained=True), 1 << 24, window=16)
    while not assembly.done:
        for want in assembly.wants():
            assert device.want_blob(source.digest, tuple(start // 5120 for start in want.starts))
        arrival = until(device, Delivery, message=Chunk)
        assembly.add(arrival.message)  # type: ignore[union-attr, arg-type]
    assert assembly.data == body
    coordinator.publish_blob(3, source.chunk(3))
    assert quiet(device) == []  # nothing is subscribed to any more
    assert coordinator.clear_blob(source.digest, 64)
    time.sleep(0.3)
    device.want_blob(source.digest, (0, 63))
    assert quiet(device) == []


def test_what_cannot_be_read_is_refused_by_name(join: Join) -> None:
    coordinator, device = join("coordinator"), join("a")
    assert device._link is not None
    device._link.publish("ft/from/a", b"\xffgarbage", False)
    refused = until(coordinator, Refused)
    assert isinstance(refused, Refused) and (refused.sender, refused.error.reason) == ("a", "malformed")
    device.send("coordinator", Hello("still here"))
    assert until(coordinator, Delivery) == Delivery("a", Hello("still here"), "fed")


def test_what_is_too_much_for_the_queue_is_dropped_and_said_to_be(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator, device = join("coordinator"), join("a")
    monkeypatch.setattr("fedthings.transport.link.QUEUE", 1000)
    assert not device.send("coordinator", Chunk(b"d" * 32, 0, bytes(2000)))
    assert device.send("coordinator", Hello("small"))
    assert until(coordinator, Delivery) == Delivery("a", Hello("small"), "fed")


# ------------------------------------------------------------------ coming and going


def test_a_quiet_link_is_kept_alive(join: Join) -> None:
    device = join("a", "quiet", keepalive=1)
    assert device.inbox.get(1) == Linked()
    assert quiet(device, 2.2) == [] and device.linked


def test_closing_says_bye_once_and_ends_quickly(join: Join) -> None:
    coordinator, device = join("coordinator"), join("a")
    before = time.monotonic()
    device.close()
    assert time.monotonic() - before < 1.0
    assert not device.linked and not device.send("coordinator", Hello("x"))
    assert not any(thread.name == "mqtt a" for thread in threading.enumerate())
    byes = [a for a in quiet(coordinator, 0.5) if isinstance(a, Delivery)]
    assert byes == [Delivery("a", Bye(), "fed")]
    device.close()


def test_the_broker_speaks_the_will_of_a_killed_device(join: Join, broker: Broker) -> None:
    coordinator = join("coordinator")
    script = "import sys, time; from fedthings.transport.mqtt import MqttTransport\n"
    script += "end = MqttTransport(sys.stdin.readline().strip(), 'a'); print('linked', flush=True); time.sleep(60)"
    device = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert device.stdin and device.stdout
    device.stdin.write(broker.url("a") + "\n")
    device.stdin.flush()
    assert device.stdout.readline() == "linked\n"
    device.send_signal(signal.SIGKILL)
    assert until(coordinator, Delivery, message=Bye) == Delivery("a", Bye(), "")
    device.communicate()


def test_a_cut_link_is_told_and_mended(join: Join) -> None:
    coordinator, device = join("coordinator"), join("a")
    assert device._link is not None
    device._link.cut()
    assert until(device, Unlinked) == Unlinked("the link is lost")
    assert until(device, Linked)
    device.send("coordinator", Hello("again"))
    assert until(coordinator, Delivery, message=Hello) == Delivery("a", Hello("again"), "fed")
    coordinator.send("a", Pause("heard"))
    assert until(device, Delivery, message=Pause) == Delivery("coordinator", Pause("heard"), "fed")


def test_a_broker_that_restarts_is_found_again(kind: Kind, tmp_path: Path, join: Join) -> None:
    first = Broker.start(tmp_path, passwords={"a": ""}, prefer=kind)
    coordinator, device = join("coordinator", at=first), join("a", at=first)
    first.stop()
    reason = until(device, Unlinked)
    assert until(coordinator, Unlinked) and isinstance(reason, Unlinked)
    assert not device.send("coordinator", Hello("lost"))
    with Broker.start(tmp_path, prefer=kind) as second:
        assert (second.port, second.url("a")) == (first.port, first.url("a"))
        until(device, Linked)
        until(coordinator, Linked)
        device.send("coordinator", Hello("back"))
        assert until(coordinator, Delivery, message=Hello) == Delivery("a", Hello("back"), "fed")
        coordinator.send("a", Pause("heard"))
        assert until(device, Delivery, message=Pause) == Delivery("coordinator", Pause("heard"), "fed")
        device.close()
        coordinator.close()


# --------------------------------------------------------------------- what is wrong


def test_a_wrong_password_is_told_with_the_remedy(broker: Broker) -> None:
    good = broker.url("a")
    for url in (
        good.replace("//a:", "//a:x"),
        good.replace("//a:", "//nobody:"),
        f"mqtt://127.0.0.1:{broker.port}",
    ):
        with pytest.raises(TransportError, match=r"refuses .* ask for a token") as told:
            MqttTransport(url, "a")
        assert str(Address.parse(good).password) not in str(told.value)


def test_a_broker_that_is_not_there_is_told_with_the_remedy() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(TransportError, match=f"127.0.0.1:{port}.*is the broker running"):
        MqttTransport(f"mqtt://127.0.0.1:{port}", "a")


def test_a_host_without_a_name_is_told() -> None:
    with pytest.raises(TransportError, match="no host of this name"):
        MqttTransport("mqtt://no-such-host.invalid", "a", timeout=3)


def test_something_that_never_answers_is_told() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(TransportError, match=r"no answer within 0\.5 seconds"):
            MqttTransport(f"mqtt://127.0.0.1:{mute.getsockname()[1]}", "a", timeout=0.5)


# paho leaves the socket of a failed handshake to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tls_where_there_is_none_is_told(broker: Broker) -> None:
    with pytest.raises(TransportError):
        MqttTransport(f"mqtts://127.0.0.1:{broker.port}", "a", timeout=2)


@pytest.mark.parametrize("url", ["", "localhost", "http://x", "mqtt://", "mqtt://h:port", "mqtt://u:secret@h:1/x"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(SpecError, match="mqtt://user:password@host:1883") as told:
        MqttTransport(url, "a")
    assert "secret" not in str(told.value)


def test_urls_are_unquoted() -> None:
    assert Address.parse("mqtts://a:p%3A%2F@h") == Address("h", 8883, "a", "p:/", True)
    assert Address.parse("mqtt://h:99") == Address("h", 99, None, None, False)
