"""A broker that is not there, refuses, or vanishes: one message, exit 4; what has begun goes on when it is back."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedthings as ft
from fedthings.server import devices
from fedthings.server.broker import Broker
from fedthings.transport.mqtt import MqttTransport
from processes import Processes

from .conftest import Command, contents, federation, fleet

ROUNDS = 40


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return fleet(1).write(tmp_path / "data")["device-0"]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker.start(tmp_path_factory.mktemp("broker"), passwords={"kitchen": "secret"}) as running:
        yield running


@pytest.fixture
def silent() -> Iterator[int]:
    """Return a port on which somebody listens and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("mqtt://127.0.0.1:1", 4, "no link to the broker at 127.0.0.1:1: nothing listens there; is the broker running"),
        (
            "mqtt://no-such-host.invalid",
            4,
            "at no-such-host.invalid:1883: there is no host of this name: check",
        ),
        (
            "http://127.0.0.1",
            2,
            "the broker's URL is 'http://127.0.0.1': use mqtt://user:password@host:1883 or mqtts://",
        ),
        ("mqtt://a:secret@127.0.0.1:99999", 2, "the broker's URL is not one (Port out of range 0-65535): use mqtt://"),
        ("127.0.0.1", 2, "use mqtt://user:password@host:1883 or mqtts://"),
    ],
)
def test_that_is_not_there(
    url: str, code: int, said: str, fed: Path, shard: Path, tmp_path: Path, command: Command
) -> None:
    (token,) = devices.enrol(tmp_path / "other", ["kitchen"])
    for words in (
        ("join", "--broker", url, "--token", token, "--data", shard, "--state", tmp_path / "state"),
        ("serve", fed, "--broker", url, "--out", tmp_path / "run"),
    ):
        ended = command(*words)
        assert ended.code == code
        assert said in ended.err
        assert "secret" not in ended.err


@pytest.mark.parametrize(
    ("name", "password", "said"),
    [
        ("kitchen", "wrong", "it refuses the user `kitchen` or the password: ask for a token"),
        ("garage", "secret", "it refuses the user `garage` or the password"),
        ("kitchen", "", "it refuses the user `token-"),
    ],
)
def test_that_refuses_the_password(
    name: str, password: str, said: str, broker: Broker, shard: Path, tmp_path: Path, command: Command
) -> None:
    key = tmp_path / "key"
    key.write_text(password)
    (token,) = devices.enrol(tmp_path / "run", [name])
    words = ("join", "--broker", f"mqtt://127.0.0.1:{broker.port}", "--token", token, "--data", shard)
    ended = command(*words, "--password-file", key, "--state", tmp_path / "state")
    assert ended.code == 4
    assert said in ended.err
    ended = command(*words, "--password-file", tmp_path / "none", "--state", tmp_path / "state")
    assert ended.code == 3
    assert f"the password file {tmp_path / 'none'} cannot be read" in ended.err


def test_that_is_none(silent: int) -> None:
    said = r"no link to the broker at 127\.0\.0\.1:\d+: no answer within 0\.3 seconds; is it an MQTT broker\?"
    with pytest.raises(ft.TransportError, match=said):
        MqttTransport(f"mqtt://127.0.0.1:{silent}", "kitchen", timeout=0.3)


def test_a_port_that_is_taken(silent: int, fed: Path, tmp_path: Path, command: Command) -> None:
    before = {"federation.toml": fed.read_bytes()}
    ended = command("serve", fed, "--out", tmp_path / "run", "--port", silent)
    assert ended.code == 4
    assert f"port {silent} is taken on 127.0.0.1" in ended.err
    assert "stop what listens there, or name another with --port" in ended.err
    assert {name: data for name, data in contents(tmp_path / "run").items() if name in before} == before
    ended = command("serve", fed, "--out", tmp_path / "run", "--host", "no-such-host.invalid")
    assert ended.code == 4
    assert "host 'no-such-host.invalid' is none of this machine's" in ended.err


def test_that_vanishes_in_mid_run(tmp_path: Path) -> None:
    """A broker that is not ours is stopped for a while: the run goes on, and ends in the simulator's model."""
    spec, data = federation(3), fleet(3)
    with Processes(spec, data, ROUNDS, tmp_path, "") as world:
        world.words = {name: f"word of {name}" for name in world.names}
        broker = Broker.start(world.out, passwords=world.words)
        try:
            world.broker = broker.url()
            world.start()
            while world.versions() < 3:
                time.sleep(0.005)
            broker.stop()
            while "no link to the broker" not in (log := (tmp_path / "serve.log").read_text()):
                time.sleep(0.02)
            assert "waiting for it to come back" in log
            made = world.versions()
            assert made < ROUNDS
            broker = Broker.start(world.out)
            world.wait(60)
        finally:
            broker.stop()
        assert "linked to the broker again" in (tmp_path / "serve.log").read_text()
        ft.simulate(spec, data, ROUNDS).save(tmp_path / "simulated")
        for name in ("model.safetensors", "federation.toml"):
            assert (world.out / name).read_bytes() == (tmp_path / "simulated" / name).read_bytes()
