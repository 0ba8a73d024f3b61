"""A device can publish only as itself and read only what is its own: at a live mosquitto, files and plugin."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedthings.cli import main
from fedthings.device.identity import trust
from fedthings.errors import TransportError
from fedthings.identity import passwords, tokens
from fedthings.identity.keys import public_of
from fedthings.messages import Hello, Message, Pause
from fedthings.server import certificates, devices
from fedthings.server.broker import _free, mosquitto
from fedthings.server.roll import Roll
from fedthings.server.store import Store
from fedthings.transport.mqtt import MqttTransport
from fedthings.transport.transport import Delivery

PLUGINS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/lib64", "/usr/local/lib")
WORDS = {"kitchen": "kitchen's word", "hall": "hall's word"}


@pytest.fixture(params=["file", "dynsec", "tls"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A mosquitto with the rights that `fedthings devices acl` has written; returns its URL, without a user."""
    plugin = next((p for d in PLUGINS if (p := Path(d) / "mosquitto_dynamic_security.so").exists()), None)
    program = mosquitto()
    if not program or (request.param == "dynsec" and plugin is None):
        if os.environ.get("CI") == "true":
            pytest.fail("mosquitto and its dynamic security plugin are missing")
        pytest.skip("MOSQUITTO, OR ITS PLUGIN, IS MISSING: apt install mosquitto")
    run = tmp_path / "run"
    for number, (name, word) in enumerate(WORDS.items()):
        (file,) = devices.enrol(run, [name])
        store = Store(run)
        public = public_of(bytes([number]) * 32)
        Roll(store).enrol(name, tokens.presented(tokens.read(file), name, public, passwords.hashed(word)))
        store.close()
    port = _free("127.0.0.1")
    kind = "dynsec" if request.param == "dynsec" else "file"
    assert main(["devices", "--out", str(run), "acl", "--format", kind]) == 0
    lines = [f"listener {port} 127.0.0.1", "allow_anonymous false"]
    if kind == "dynsec":
        path = run / "dynamic-security.json"
        assert path.stat().st_mode & 0o777 == 0o600 and "word" not in path.read_text().replace("password", "")
        lines = ["per_listener_settings false", f"plugin {plugin}", f"plugin_opt_config_file {path}", *lines]
    else:
        lines += [f"password_file {run / 'broker.passwords'}", f"acl_file {run / 'broker.access'}"]
    if request.param == "tls":
        certificates.make(run)
        text = certificates.configuration(run).read_text()
        lines = text.replace("listener 8883", f"listener {port} 127.0.0.1").splitlines()
    if os.geteuid() == 0:
        lines.append("user root")
    (tmp_path / "conf").write_text("\n".join(lines) + "\n")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([program, "-c", str(tmp_path / "conf")], stdout=log, stderr=log)
    try:
        scheme = "mqtts" if request.param == "tls" else "mqtt"
        yield f"{scheme}://{{}}@127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


class Reader(MqttTransport):
    """An end that reads `more` topics than are its own, and publishes where it is told."""

    more = ""

    def _listens(self) -> list[str]:
        return [self.more] if self.more else super()._listens()

    def _is_ours(self, topic: str) -> bool:
        return True

    def publish(self, topic: str, message: Message, retain: bool = False) -> bool:
        return self._publish(topic, message, "fed", retain)  # type: ignore[arg-type]


@pytest.fixture
def link(url: str, tmp_path: Path) -> Iterator[object]:
    ends: list[Reader] = []
    words = json.loads((tmp_path / "run" / "broker.json").read_text())["passwords"] | WORDS
    tls = trust((tmp_path / "run/tls/ca.pem").read_text()) if url.startswith("mqtts") else None

    def make(user: str, address: str = "", more: str = "") -> Reader:
        kind = type("Reading", (Reader,), {"more": more})
        login = f"{user}:{words[user].replace(' ', '%20')}"
        end = kind(url.format(login), address or user, "fed", tls=tls, timeout=3.0)
        ends.append(end)
        return end

    for _ in range(100):
        try:
            make("coordinator").close()
            break
        except TransportError:
            time.sleep(0.05)
    yield make
    for end in ends:
        end.close()


def heard(end: MqttTransport, seconds: float = 0.6) -> list[tuple[str, Message]]:
    stop = time.monotonic() + seconds
    found = []
    while (left := stop - time.monotonic()) > 0:
        arrival = end.inbox.get(left)
        if isinstance(arrival, Delivery):
            found.append((arrival.sender, arrival.message))
    return found


def test_a_device_speaks_as_itself_and_reads_its_own(link: object, tmp_path: Path) -> None:
    coordinator = link("coordinator")  # type: ignore[operator]
    kitchen, hall = link("kitchen"), link("hall")  # type: ignore[operator]
    heard(coordinator)
    assert kitchen.send("coordinator", Hello("mine"))
    assert heard(coordinator) == [("kitchen", Hello("mine"))]
    for topic in (
        "ft/from/hall",
        "ft/to/hall",
        "ft/announce/fed",
        "ft/blob/0011/0",
        "ft/ask/cli",
        "other/from/kitchen",
    ):
        kitchen.publish(topic, Hello("not mine"))
    assert [m for _, m in heard(coordinator) if isinstance(m, Hello)] == []
    assert heard(hall) == []
    coordinator.send("hall", Pause("for hall"))
    assert heard(hall) == [("coordinator", Pause("for hall"))] and heard(kitchen, 0.1) == []


@pytest.mark.parametrize("topic", ["ft/to/hall", "ft/to/+", "ft/from/hall", "ft/from/+", "#", "ft/#", "ft/ask/+"])
def test_what_is_anothers_cannot_be_read(link: object, topic: str) -> None:
    coordinator, hall = link("coordinator"), link("hall")  # type: ignore[operator]
    try:
        spy = link("kitchen", more=topic)  # type: ignore[operator]
    except TransportError as error:  # the broker refuses to subscribe, or the link stands and brings nothing
        assert "does not let this user read its topics" in str(error)
        return
    coordinator.send("hall", Pause("a secret"))
    hall.send("coordinator", Hello("another"))
    assert [m for _, m in heard(spy) if m in (Pause("a secret"), Hello("another"))] == []


def test_a_wrong_password_and_a_stranger(url: str, link: object, tmp_path: Path) -> None:
    tls = trust((tmp_path / "run/tls/ca.pem").read_text()) if url.startswith("mqtts") else None
    for login in ("kitchen:wrong", "nobody:word", "kitchen:hall's%20word"):
        with pytest.raises(TransportError, match="refuses"):
            MqttTransport(url.format(login), "kitchen", tls=tls, timeout=3.0)
