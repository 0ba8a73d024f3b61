"""The embedded broker: it dies with its parent, keeps its place, and lets each user do only its own."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from fedthings.errors import SpecError, StoreError, TransportError
from fedthings.identity.passwords import hashed, matches
from fedthings.messages import Hello, Pause
from fedthings.server.broker import Broker, Kind
from fedthings.transport.link import Address, Link
from fedthings.transport.mqtt import MqttTransport
from fedthings.transport.transport import Delivery, Linked
from fedthings.wire import pack

from .conftest import Join, log, quiet, until


def gone(pids: list[int], seconds: float = 3.0) -> bool:
    """Whether all these processes have ended within `seconds`."""
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        if not any(psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE for p in pids):
            return True
        time.sleep(0.02)
    return False


def family(pid: int) -> list[int]:
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


PARENT = """
import sys, time
from fedthings.server.broker import Broker
broker = Broker.start(sys.argv[1], prefer=sys.argv[2])
print(broker.pid, flush=True)
time.sleep(60)
"""


def test_no_process_is_left_when_the_parent_is_killed(kind: Kind, tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), kind], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pids = family(int(parent.stdout.readline()))
    assert len(pids) == (2 if kind == "mosquitto" else 1)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    assert gone(pids)


def test_no_process_is_left_when_a_fork_of_the_parent_holds_the_pipe(kind: Kind, tmp_path: Path) -> None:
    script = PARENT.replace("print(", "import os\nchild = os.fork()\nif child: print(child, ", 1)
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), kind], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    fork, holder = map(int, parent.stdout.readline().split())
    pids = family(holder)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    try:
        assert gone(pids)
    finally:
        os.kill(fork, signal.SIGKILL)
        parent.communicate()


def test_mosquitto_dies_with_the_process_that_holds_it(kind: Kind, tmp_path: Path) -> None:
    ended = threading.Event()
    broker = Broker.start(tmp_path, prefer=kind, on_end=ended.set)
    pids = family(broker.pid)
    os.kill(broker.pid, signal.SIGKILL)
    assert gone(pids)
    assert ended.wait(10)
    assert not broker.alive
    with pytest.raises(TransportError, match=r"broker\.log"):
        broker.admit({"new": ""})
    broker.stop()


def test_it_outlives_the_thread_that_started_it(kind: Kind, tmp_path: Path) -> None:
    started: list[Broker] = []
    thread = threading.Thread(target=lambda: started.append(Broker.start(tmp_path, prefer=kind)))
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert started[0].alive
    started[0].stop()
    assert not started[0].alive


def test_the_place_and_the_passwords_stay_and_are_private(kind: Kind, tmp_path: Path) -> None:
    with Broker.start(tmp_path, passwords={"a": "", "b": "given"}, prefer=kind) as broker:
        urls = [broker.url(name) for name in ("coordinator", "a", "b")]
        assert urls[2] == f"mqtt://b:given@127.0.0.1:{broker.port}"
        for pid in family(broker.pid):
            command = " ".join(psutil.Process(pid).cmdline())
            assert not any(password in command for password in broker.access.passwords.values())
    for path in (tmp_path / name for name in ("broker.json", "broker.passwords", "broker.access", "broker.log")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    with Broker.start(tmp_path, passwords={"a": "", "b": "", "c": ""}, prefer=kind) as again:
        assert [again.url(name) for name in ("coordinator", "a", "b")] == urls
        assert again.url("c", host="fleet.example").endswith(f"@fleet.example:{again.port}")
    assert not any(password in log(tmp_path) for password in again.access.passwords.values())
    with Broker.start(tmp_path, prefer=kind) as same:
        assert same.access.passwords == again.access.passwords
        written = (tmp_path / "broker.passwords").stat().st_mtime_ns
        same.admit({"a": "", "b": "", "c": ""})
        assert (tmp_path / "broker.passwords").stat().st_mtime_ns == written  # nothing has changed
    with Broker.start(tmp_path, passwords={"c": ""}, prefer=kind) as fewer:
        assert fewer.access.passwords.keys() == {"coordinator", "c"}


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(TransportError, match=f"port {port} is taken"):
            Broker.start(tmp_path, port=port)


def test_what_cannot_be_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be called 'a/b'"):
        Broker.start(tmp_path, passwords={"a/b": ""})
    with pytest.raises(TransportError, match="none of this machine"):
        Broker.start(tmp_path, host="no-such-host.invalid")
    (tmp_path / "broker.json").write_text("[]")
    with pytest.raises(StoreError, match=r"broker\.json cannot be read"):
        Broker.start(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        Broker.start(tmp_path / "file")


def test_hashes() -> None:
    line = hashed("secret")
    assert matches("secret", line) and not matches("Secret", line) and not matches("secret", "$7$x")
    assert line != hashed("secret")


# ------------------------------------------------------------------------ who may what


def test_users_come_and_go_while_it_runs(broker: Broker, join: Join) -> None:
    join("a")
    before = {name: "" for name in broker.access.passwords if name != "coordinator"}
    broker.admit(before | {"new": ""})
    wait_for(lambda: join("new"))
    broker.admit(before)
    url = broker.url("a").replace("//a:", "//new:")

    def refused() -> None:
        with pytest.raises(TransportError, match="refuses"):
            MqttTransport(url, "new").close()

    wait_for(refused, pytest.fail.Exception)
    join("b")


def wait_for(action: Callable[[], object], error: type[BaseException] = TransportError, seconds: float = 3.0) -> None:
    """Try `action` until it does not raise `error`: a reload takes the broker a moment."""
    stop = time.monotonic() + seconds
    while True:
        try:
            action()
            return
        except error:
            if time.monotonic() > stop:
                raise
            time.sleep(0.05)


class Raw:
    """A client that says what it likes."""

    def __init__(self, url: str, reads: list[str], will: tuple[str, bytes] | None = None) -> None:
        self.came: list[str] = []
        self.stood = threading.Event()
        self.link = Link(
            Address.parse(url),
            "raw",
            reads=reads,
            will=will,
            stands=self.stood.set,
            came=lambda topic, payload: self.came.append(topic),
            keepalive=60,
            timeout=2.0,
            tls=None,
        )
        self.thread = threading.Thread(target=self.link.run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.link.cut()
        self.thread.join(3)
        self.link.free()


FORBIDDEN = [
    "ft/from/b",
    "ft/to/b",
    "ft/to/a",
    "ft/announce/fed",
    "ft/blob/00/1",
    "ft/answer/x",
    "ft/ask/x",
    "other",
]


def test_a_device_cannot_speak_as_another(broker: Broker, join: Join) -> None:
    coordinator, other = join("coordinator"), join("b")
    until(other, Linked)
    raw = Raw(broker.url("a"), ["ft/to/a"])
    assert raw.stood.wait(3)
    for topic in FORBIDDEN:
        raw.link.publish(topic, pack(Hello("forged"), "fed"), retain=True)
    raw.link.publish("ft/from/a", pack(Hello("honest"), "fed"), retain=False)
    assert until(coordinator, Delivery) == Delivery("a", Hello("honest"), "fed")
    raw.close()
    heard = [a for a in quiet(coordinator) + quiet(other) if isinstance(a, Delivery)]
    assert heard == []


def test_a_device_cannot_hear_for_another(broker: Broker, join: Join) -> None:
    coordinator, other = join("coordinator"), join("b")
    for reads in (["ft/to/b"], ["ft/to/+"], ["#"], ["ft/#"], ["ft/from/+"], ["+/+/b"]):
        raw = Raw(broker.url("a"), reads)
        raw.stood.wait(0.3)  # amqtt refuses the subscription, mosquitto delivers nothing
        coordinator.send("b", Pause("secret"))
        until(other, Delivery, message=Pause)
        other.send("coordinator", Hello("secret"))
        until(coordinator, Delivery, message=Hello)
        time.sleep(0.05)
        raw.close()
        assert [topic for topic in raw.came if not topic.startswith("ft/announce/")] == [], reads


def test_a_device_cannot_speak_as_another_by_dying(broker: Broker, join: Join) -> None:
    coordinator = join("coordinator")
    raw = Raw(broker.url("a"), ["ft/to/a"], will=("ft/from/b", pack(Hello("forged"), "fed")))
    raw.stood.wait(0.5)
    raw.close()
    assert [a for a in quiet(coordinator, 0.5) if isinstance(a, Delivery)] == []
