"""Real brokers on real sockets: each test runs with mosquitto and with amqtt."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedthings.server.broker import Broker, Kind, mosquitto
from fedthings.transport.mqtt import MqttTransport
from fedthings.transport.transport import Arrival

PASSWORDS = {"a": "", "b": "p:/@? ü", "c": ""}


@pytest.fixture(scope="session", params=["mosquitto", "amqtt"])
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param == "mosquitto" and not mosquitto() and os.environ.get("CI") != "true":
        pytest.skip("MOSQUITTO IS MISSING: half of the broker tests do not run; apt install mosquitto")
    found: Kind = request.param
    return found


@pytest.fixture(scope="session")
def broker(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that all tests share which do not stop it."""
    with Broker.start(tmp_path_factory.mktemp(kind), passwords=PASSWORDS, prefer=kind) as running:
        yield running


Join = Callable[..., MqttTransport]


@pytest.fixture
def join(broker: Broker) -> Iterator[Join]:
    """Make an end of the conversation; all are closed after the test."""
    ends: list[MqttTransport] = []

    def make(address: str, federation: str = "fed", at: Broker = broker, **settings: object) -> MqttTransport:
        user = "coordinator" if address.startswith("operator/") else address
        end = MqttTransport(at.url(user), address, federation, **{"backoff": (0.1, 0.3)} | settings)  # type: ignore
        ends.append(end)
        return end

    yield make
    for end in reversed(ends):
        end.close()


def until(end: MqttTransport, kind: type, seconds: float = 5.0, message: type = object) -> Arrival:
    """Return the next arrival of this kind (and message); fail where none comes."""
    stop = time.monotonic() + seconds
    while (left := stop - time.monotonic()) > 0:
        arrival = end.inbox.get(left)
        if arrival is not None and isinstance(arrival, kind) and isinstance(getattr(arrival, "message", None), message):
            return arrival
    pytest.fail(f"no {kind.__name__} {message.__name__} within {seconds} seconds")


def quiet(end: MqttTransport, seconds: float = 0.3) -> list[Arrival]:
    """Return all that arrives within `seconds`."""
    found = []
    stop = time.monotonic() + seconds
    while (left := stop - time.monotonic()) > 0:
        arrival = end.inbox.get(left)
        if arrival is not None:
            found.append(arrival)
    return found


def log(directory: Path) -> str:
    return (directory / "broker.log").read_text()
