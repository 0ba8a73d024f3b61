"""What reports cost the coordinator: 200 devices, each sending 1 MB, streamed into the fold.

The devices are one process with real MQTT connections, a few at a time reporting: the real protocol
(Hello, Assignment, Offer, Want, Chunk, Receipt) without the training.

python bench/server_memory.py [--devices 200] [--at-once 20]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import fedthings as ft
from fedthings.bodies import Report
from fedthings.federation import phases
from fedthings.identity.links import Links
from fedthings.identity.seal import DeviceSeal
from fedthings.messages import Announce, Assignment, Hello, Receipt, Want
from fedthings.phase import measures, schema
from fedthings.protocol.events import Ticket
from fedthings.transport.chunks import Source
from fedthings.transport.mqtt import MqttTransport
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Delivery, Seal
from fedthings.wire import pack_body
from processes import Processes, memory, until
from table import table

FEATURES, HIDDEN, CLASSES = 1000, 248, 8


class Device:
    """One end that answers each assignment with a report of random numbers, and fetches nothing."""

    def __init__(self, name: str, url: str, seal: Seal, template: Report, turn: threading.Semaphore) -> None:
        self.transport = MqttTransport(url, name, seal=seal)
        self.kept = 0
        self._template, self._turn = template, turn
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        source: Source | None = None
        while True:
            arrival = self.transport.inbox.get()
            if not isinstance(arrival, Delivery):
                continue
            message = arrival.message
            if isinstance(message, Announce) and not self.transport.federation:
                self.transport.federation = arrival.federation
                self.transport.send(COORDINATOR, Hello("bench"))
            elif isinstance(message, Assignment) and message.ticket.phase == 0 and source is None:
                self._turn.acquire()
                source = Source(self._report(message.ticket))
                self.transport.send(COORDINATOR, source.offer("report", message.ticket))
            elif isinstance(message, Want) and source is not None:
                for chunk in source.answer(message):
                    self.transport.send(COORDINATOR, chunk)
            elif isinstance(message, Receipt) and source is not None:
                self.kept += message.kept
                source = None
                self._turn.release()

    def _report(self, ticket: Ticket) -> bytes:
        """Return a report of the right shape: only random numbers give honest bytes."""
        arrays = {
            name: np.random.default_rng().normal(0, 0.01, row.shape).astype(row.dtype)
            for name, row in self._template.arrays.items()
        }
        return pack_body(Report(ticket, arrays, np.ones(1, np.int64), self._template.metrics))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=20)
    options = parser.parse_args()
    task = ft.Task(model=ft.mlp(FEATURES, HIDDEN, CLASSES), loss="cross_entropy", recipe=ft.Recipe(lr=0.1))
    pace = ft.Pace(goal=options.devices, patience=600.0)
    federation = ft.Federation(task=task, strategy=ft.fedavg(), pace=pace, devices=options.devices)
    phase = phases(federation)[0]
    arrays = {field.name: np.zeros(field.dim, field.dtype) for field in schema(phase)}
    template = Report(Ticket(0, 0, "device", 0), arrays, np.ones(1, np.int64), measures(phase))
    turn = threading.Semaphore(options.at_once)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name, Processes(Path(name), "mosquitto", federation, 1) as fleet:
        keys = fleet.keys()
        coordinator = fleet.serve()
        turns = [turn.acquire() for _ in range(options.at_once)]  # nobody reports before all are there
        devices = [
            Device(name, fleet.broker.url(name), DeviceSeal(key, Links(), fleet.pinned), template, turn)
            for name, key in keys.items()
        ]
        until(lambda: all(device.transport.federation for device in devices), "the announcement")
        time.sleep(2.0)
        before = memory(coordinator.pid)
        begun = time.perf_counter()
        for _ in turns:
            turn.release()
        until(lambda: sum(device.kept for device in devices) == options.devices, "the last receipt")
        seconds = time.perf_counter() - begun
        after = memory(coordinator.pid)
    raised = after["peak"] - before["rss"]
    size = len(pack_body(template)) / 1e6
    lines = [
        ["RSS before the first report", f"{before['rss']:.0f} MB", ""],
        ["peak RSS when all were folded and stepped", f"{after['peak']:.0f} MB", ""],
        [f"raised by {options.devices} reports of {size:.2f} MB", f"{raised:.0f} MB", "<= 60 MB"],
        ["time for all of them", f"{seconds:.1f} s", ""],
    ]
    print(f"{options.devices} connections to mosquitto, {options.at_once} reporting at once; load {load:.1f}.\n")
    table(["coordinator", "fedthings", "to reach"], lines)
    print("\nFlower 1.41, for comparison: 459 MB at 10 nodes with 1 MB, 1,490 MB with 20 MB.")


if __name__ == "__main__":
    main()
