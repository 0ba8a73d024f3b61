"""How fast the coordinator takes reports in: 200 reports of 1 MB, beside the broker alone carrying as many bytes.

The broker alone: each device publishes the chunks of its report at once, and one subscriber in a process of its own
acknowledges and drops them. The coordinator: the same devices and chunks, with offers, wants, SHA-256, the spool, the
fold and the receipts. Both by turns, the median of the ratios of neighbours counts.

python bench/fold_of_reports.py [--reports 200] [--repeats 3] [--profile FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import signal
import tempfile
import time
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from statistics import median

import numpy as np

import fedthings as ft
import light
from fedthings.bodies import Report
from fedthings.federation import phases
from fedthings.messages import Announce, Assignment, Envelope, Hello, Receipt, Want
from fedthings.phase import measures, schema
from fedthings.protocol.events import Ticket
from fedthings.transport.chunks import CHUNK, Assembly, Source
from fedthings.wire import pack_body
from light import Connection, Device
from processes import Processes, cpu, memory
from table import table

FEATURES, HIDDEN, CLASSES = 1000, 248, 8


def federation(devices: int) -> ft.Federation:
    """Return a federation whose reports have 1 MB."""
    task = ft.Task(model=ft.mlp(FEATURES, HIDDEN, CLASSES), loss="cross_entropy", recipe=ft.Recipe(lr=0.1))
    return ft.Federation(task, ft.fedavg(), ft.Pace(goal=devices, patience=600.0), devices=devices)


def body(ticket: Ticket, spec: ft.Federation) -> bytes:
    """Return a report of random numbers: only they give honest bytes."""
    phase = phases(spec)[0]
    arrays = {
        field.name: np.random.default_rng().normal(0, 0.01, field.dim).astype(field.dtype) for field in schema(phase)
    }
    return pack_body(Report(ticket, arrays, np.ones(1, np.int64), measures(phase)))


class Crowd:
    """Devices that answer their first assignment to train with a report, when they are let go."""

    def __init__(self, fleet: Processes, keys: dict[str, bytes], spec: ft.Federation) -> None:
        self.devices = light.crowd(keys, fleet.pinned, self.hear)
        self.kept = 0
        self.assigned, self.folded = asyncio.Event(), asyncio.Event()
        self._jobs: list[tuple[Device, Ticket]] = []
        self._spec = spec

    def hear(self, device: Device, message: Envelope) -> None:
        """Answer as an agent would that has trained already."""
        if isinstance(message, Announce) and device.source is None:
            device.send(Hello("bench"))
        elif isinstance(message, Assignment) and device.source is None:
            device.source = Source(body(message.ticket, self._spec))
            self._jobs.append((device, message.ticket))
            if len(self._jobs) == len(self.devices):
                self.assigned.set()
        elif isinstance(message, Want) and device.source is not None:
            for chunk in device.source.answer(message):
                device.send(chunk)
        elif isinstance(message, Receipt):
            self.kept += message.kept
            if self.kept == len(self.devices):
                self.folded.set()

    def go(self) -> None:
        """Let all offer their reports."""
        for device, ticket in self._jobs:
            assert device.source is not None
            device.send(device.source.offer("report", ticket))


async def folded(devices: int, profile: str) -> tuple[float, float, float]:
    """Return the seconds until the last receipt, the coordinator's processor seconds, and its peak RSS in MB."""
    spec = federation(devices)
    with tempfile.TemporaryDirectory() as name, Processes(Path(name), "mosquitto", spec, 1) as fleet:
        keys = fleet.keys()
        coordinator = fleet.serve(profile=profile)
        crowd = Crowd(fleet, keys, spec)
        await light.link_all(crowd.devices, fleet.broker.url)
        await asyncio.wait_for(crowd.assigned.wait(), 120)
        await asyncio.sleep(1.0)
        used, begun = cpu(coordinator.pid), time.perf_counter()
        crowd.go()
        await asyncio.wait_for(crowd.folded.wait(), 120)
        took, used = time.perf_counter() - begun, cpu(coordinator.pid) - used
        peak = memory(coordinator.pid)["peak"]
        if profile:  # it is written when the process ends in order
            coordinator.send_signal(signal.SIGINT)
            coordinator.wait(60)
        return took, used, peak


async def carried(devices: int) -> float:
    """Return the seconds in which the broker alone carries as many chunks to one subscriber."""
    spec = federation(devices)
    with tempfile.TemporaryDirectory() as name, Processes(Path(name), "mosquitto", spec, 1) as fleet:
        source = Source(body(Ticket(0, 0, "device100", 0), spec))
        near, far = multiprocessing.get_context("spawn").Pipe()
        count = devices * source.count
        drain = multiprocessing.get_context("spawn").Process(target=_drain, args=(fleet.broker.url(), count, far))
        drain.start()
        crowd = [Device(name, lambda device, message: None) for name in fleet.names]
        await light.link_all(crowd, fleet.broker.url)
        await asyncio.to_thread(near.recv)
        begun = time.perf_counter()
        for device in crowd:
            for index in range(source.count):
                device.send(source.chunk(index))
        await asyncio.to_thread(near.recv)
        took = time.perf_counter() - begun
        drain.join(10)
        return took


def _drain(url: str, count: int, pipe: Pipe) -> None:
    """Subscribe to what devices say, and say when there was so much of it."""

    async def run() -> None:
        done, left = asyncio.Event(), count

        def came(topic: str, payload: bytes) -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set()

        await Connection.link("drain", url, ["ft/from/+"], came)
        pipe.send("listening")
        await done.wait()
        pipe.send("done")

    asyncio.run(run())


def spooled(reports: int) -> float:
    """Return the seconds in which this process alone writes and checks as many bodies, chunk by chunk."""
    source = Source(body(Ticket(0, 0, "device100", 0), federation(reports)))
    offer, chunks = source.offer("report"), [source.chunk(index) for index in range(source.count)]
    with tempfile.TemporaryDirectory() as name:
        begun = time.perf_counter()
        for report in range(reports):
            assembly = Assembly(offer, source.size, Path(name) / str(report))
            for chunk in chunks:
                assembly.wants()
                assembly.add(chunk)
            assert assembly.done
        return time.perf_counter() - begun


def main() -> None:
    """Measure by turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", default="", help="a file for cProfile of the coordinator's main thread")
    options = parser.parse_args()
    light.open_files()
    load, runs = os.getloadavg()[0], []
    for _ in range(options.repeats):
        alone = asyncio.run(carried(options.reports))
        runs.append((alone, *asyncio.run(folded(options.reports, options.profile)), spooled(options.reports)))
    alone, took, used, peak, spool = (median(column) for column in zip(*runs, strict=True))
    ratio = median(run[1] / run[0] for run in runs)
    every = ", ".join(f"{run[1] / run[0]:.2f}" for run in runs)
    apart = median((run[1] - run[4]) / run[0] for run in runs)
    size = len(body(Ticket(0, 0, "device100", 0), federation(options.reports))) / 1e6
    print(f"{options.reports} reports of {size:.2f} MB in chunks of {CHUNK >> 10} KiB, mosquitto; load {load:.1f}.\n")
    lines = [
        ["the broker alone carries them", f"{alone:.2f} s", ""],
        ["the coordinator has folded them", f"{took:.2f} s", ""],
        ["ratio, median of neighbours", f"{ratio:.2f} ({every})", "<= 2"],
        ["the same, spooling and SHA-256 taken off", f"{apart:.2f}", ""],
        ["of it: the coordinator's processor time", f"{used:.2f} s", ""],
        ["spooling and SHA-256 alone, in another process", f"{spool:.2f} s", ""],
        ["the coordinator's peak RSS", f"{peak:.0f} MB", ""],
    ]
    table(["what", "fedthings", "to reach"], lines)


if __name__ == "__main__":
    main()
