"""The truth test: 20 device processes behind slow links take the time and the bytes that a world of such links says."""

from __future__ import annotations

import socket
import threading
import time
from statistics import fmean

import pytest
from msgspec.structs import replace

from fedthings.server.broker import mosquitto
from proxy import Proxy
from truth import DEVICES, SETTINGS, VILLAGE, compare

LARGE = 20_000
"""Bytes of a body beside which 2 % are enough for the envelopes."""


@pytest.mark.long
@pytest.mark.skipif(not mosquitto(), reason="MOSQUITTO IS NOT INSTALLED: apt-get install mosquitto")
@pytest.mark.parametrize("name", SETTINGS)
def test_a_world_tells_the_time_and_the_bytes_of_real_devices(name, tmp_path):
    setting = SETTINGS[name]
    found = compare(setting, tmp_path / "run")
    print(name, found)
    measured, simulated = fmean(found.measured), fmean(found.simulated)
    assert found.floor <= 0.05 * measured, "the premise: links are at least 95 % of the time"
    assert simulated == pytest.approx(measured, rel=0.1)
    assert found.said == pytest.approx(found.served, rel=0.02)
    if setting.pace.staleness == 0:  # otherwise reports are on their way when a version is made
        assert found.same
        assert found.moved == pytest.approx(found.carried, rel=0.02)
        for one, other in zip(found.simulated, found.measured, strict=True):
            assert one == pytest.approx(other, rel=0.1)
        if found.said.down > LARGE * DEVICES * len(found.simulated):  # beside a small body the envelopes are more
            assert found.said == pytest.approx(found.carried, rel=0.02)


# ------------------------------------------------------------------- the proxy itself


def echo(door: socket.socket) -> None:
    """Send back to one connection what it sends."""
    near, _ = door.accept()
    with near:
        while data := near.recv(1 << 16):
            near.sendall(data)


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_the_proxy_carries_all_bytes_in_order_and_no_faster_than_its_link(loss):
    link = replace(VILLAGE, up=1e6, down=2e6, round_trip=0.1, loss=loss, payload=500)
    data = bytes(range(256)) * 100
    with socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=echo, args=(door,), daemon=True).start()
        with Proxy(door.getsockname()[1], {"d": link}, seed=3, jitter=0.02) as proxy:
            begun = time.monotonic()
            with socket.create_connection(("127.0.0.1", proxy.ports["d"]), 10) as near:
                near.sendall(data)
                found = bytearray()
                while len(found) < len(data):
                    found += near.recv(1 << 16)
            took = time.monotonic() - begun
            assert found == data
            assert proxy.carried == (len(data), len(data))
    assert took >= 0.1 + 8 * len(data) / 1e6 / (1 - loss / 2)
