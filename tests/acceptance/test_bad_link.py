"""A link of 20 kB/s and 300 ms that is cut every 3 seconds: an upload of 500 kB comes through, little of it twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

import fedthings as ft
from fedthings.errors import WireError
from fedthings.messages import Chunk
from fedthings.server.ask import ask
from fedthings.server.broker import mosquitto
from fedthings.simulation.links import LINKS
from fedthings.wire import unpack
from processes import Processes
from proxy import Proxy

BAD = replace(LINKS["lte_m"], up=160e3, down=160e3, round_trip=0.3, loss=0.0, payload=500)
HIDDEN = 1930  # 125,460 parameters


def published(said: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the payload of each PUBLISH on one connection, and how many of its bytes were said; the last may be cut."""
    at = 0
    while at < len(said):
        length, place = 0, at + 1
        while place < len(said):
            length |= (said[place] & 127) << 7 * (place - at - 1)
            place += 1
            if said[place - 1] < 128:
                break
        body = said[place : place + length]
        if said[at] >> 4 == 3 and len(body) > 2:
            skip = 2 + int.from_bytes(body[:2], "big") + 2 * bool(said[at] & 6)
            yield bytes(body[skip:]), length - skip
        at = place + length


def chunks(connections: list[bytearray]) -> tuple[int, int]:
    """Return the bytes of chunks that were said, whole or cut, and how many of them were said for the first time."""
    said, seen = 0, set()
    for connection in connections:
        for payload, length in published(bytes(connection)):
            if len(payload) < length:
                said += len(payload) * (length > 400)  # the beginning of a chunk, which will be said again
                continue
            try:
                message = unpack(payload)[1]
            except WireError:
                continue
            if isinstance(message, Chunk):
                said += len(message.data)
                seen |= set(range(message.start, message.start + len(message.data)))
    return said, len(seen)


@pytest.mark.long
@pytest.mark.skipif(not mosquitto(), reason="MOSQUITTO IS NOT INSTALLED: apt-get install mosquitto")
def test_an_upload_over_a_link_that_is_cut_every_3_seconds(tmp_path: Path) -> None:
    task = ft.Task(model=ft.mlp(54, HIDDEN, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.1))
    federation = ft.Federation(task, ft.fedavg(), ft.Pace(goal=1, patience=600.0), devices=1)
    fleet = ft.Fleet.from_arrays(*samples(), device=[0] * 40)
    with Processes(federation, fleet, 1, tmp_path / "run", "mosquitto") as world:
        world.serve()
        with Proxy(world.port, dict.fromkeys(world.names, BAD), seed=1, cut=3.0) as proxy:
            world.ports = proxy.ports
            begun = time.monotonic()
            world.join(world.names[0])
            time.sleep(3.0)
            while ask("status", world.out)["version"] < 1:
                assert time.monotonic() - begun < 300, (tmp_path / "run" / "serve.log").read_text()
                time.sleep(0.5)
            took, (said, new) = time.monotonic() - begun, chunks(proxy.said)
            cuts = proxy.cuts
    print(f"{new} bytes up in {took:.0f} s with the model down, {cuts} cuts, {said / new - 1:.1%} said twice")
    assert new >= 500_000
    assert said <= 1.15 * new


def samples():
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 54)).astype(np.float32), rng.integers(0, 10, 40)
