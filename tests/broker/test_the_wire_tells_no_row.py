"""All bytes between devices and broker of a whole run, searched for the devices' rows, in every encoding there is."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import cbor2
import numpy as np
import pytest

import fedthings as ft
from fedthings.bodies import Report
from fedthings.learn.digits import digits
from fedthings.protocol.events import Ticket
from fedthings.wire import pack_body
from processes import Processes

FLOATS = ("<f4", ">f4", "<f8", ">f8", "<f2", ">f2")
WHOLE = ("<i4", ">i4", "<i2", ">i2", "i1", "<i8", ">i8")


def encodings(row: np.ndarray) -> list[bytes]:
    """Return the row `(n,)` as numbers of each kind, as sixteenths, as CBOR and JSON, and as a line of CSV."""
    found = [values.astype(kind).tobytes() for values in (row, 16 * row) for kind in FLOATS]
    found += [(16 * row).astype(kind).tobytes() for kind in WHOLE]
    floats, whole = row.tolist(), (16 * row).astype(int).tolist()
    found += [cbor2.dumps(values)[2:] for values in (floats, whole)]
    found += [json.dumps(values)[1:-1].encode() for values in (floats, whole)]
    found += [",".join(f"{value:g}" for value in values).encode() for values in (floats, whole)]
    return found


class Tap:
    """`port` leads to the broker at `beyond`; `heard` holds all that went through it, a way of a connection each."""

    def __init__(self, beyond: int) -> None:
        self.heard: list[bytearray] = []
        self._open: list[socket.socket] = []
        self._beyond, self._listener = beyond, socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near = self._listener.accept()[0]
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._beyond))
            self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                self.heard.append(said := bytearray())
                threading.Thread(target=self._carry, args=(one, other, said), daemon=True).start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket, said: bytearray) -> None:
        try:
            while data := one.recv(1 << 16):
                said += data
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the other way ends too

    def close(self) -> None:
        for end in (self._listener, *self._open):
            end.close()


def found(rows: np.ndarray, said: bytes) -> int:
    """Return how many of `rows` are in `said`, whole or their middle half, in some encoding."""
    middle = slice(rows.shape[1] // 4, 3 * rows.shape[1] // 4)
    parts = [[part for part in (row, row[middle]) if len(np.unique(part)) > 6] for row in rows]  # zeros say nothing
    return sum(any(code in said for part in some for code in encodings(part)) for some in parts)


@pytest.mark.parametrize("stages", [(), (ft.clip(1.0), ft.int4())], ids=["plain", "compressed"])
def test_no_row_of_a_device_is_on_the_wire(stages: tuple, tmp_path: Path) -> None:
    fleet = digits(3, 0)
    task = ft.Task(
        model=ft.mlp(64, 16, 10), loss="cross_entropy", normalise="fleet", recipe=ft.Recipe(lr=0.3, batch=1, epochs=1)
    )
    spec = ft.Federation(task, stages=stages, pace=ft.Pace(goal=3, patience=60.0), devices=3)
    with Processes(spec, fleet, 3, tmp_path, "amqtt") as world:
        world.serve()
        tap = Tap(world.port)
        world.ports = dict.fromkeys(world.names, tap.port)
        for name in world.names:
            world.join(name)
        world.wait()
        tap.close()
    said = b"\n".join(map(bytes, tap.heard))
    assert len(said) > 3 * 3 * 2000 and b"fed.toml" not in said
    rows = np.concatenate([shard.X[:40] for shard in fleet.cohort(fleet.names, [0.0] * len(fleet))])
    assert found(rows, said) == 0


@pytest.mark.parametrize("kind", range(5))
def test_a_row_that_is_on_the_wire_is_found(kind: int) -> None:
    row = digits(3, 0).cohort(["device-0"], [0.0])[0].X[7]
    body = pack_body(Report(Ticket(0, 0, "device-0", 0), {"x": row}, np.ones(1, np.int64), {}))
    texts = [
        body,
        cbor2.dumps(row.tolist()),
        json.dumps({"X": row.tolist()}).encode(),
        (16 * row).astype("u1").tobytes(),
    ]
    texts.append(("5," + ",".join(f"{value:g}" for value in row)).encode())
    assert found(row[None], b"before" + texts[kind] + b"behind") == 1
