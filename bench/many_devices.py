"""Many devices on one coordinator: thousands of connections that train a tiny model, and thousands that are idle.

All devices are in this process (bench/light.py), with real connections to mosquitto and the real protocol: Hello,
Assignment, the task's body, training, Offer, Receipt. They train as one cohort, so the tool is not what is measured.

python bench/many_devices.py [--devices 2000] [--versions 8] [--idle 10000] [--profile FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np

import fedthings as ft
import light
from fedthings.bodies import Model, Report, Work
from fedthings.learn.data import Shard
from fedthings.messages import Announce, Assignment, Envelope, Farewell, Hello, Receipt
from fedthings.phase import Phase, learner, stage
from fedthings.protocol.events import Ticket
from fedthings.spelling import decode
from fedthings.transport.chunks import Source
from fedthings.vector import Key
from fedthings.wire import pack_body, unpack_body
from light import Device
from processes import Processes, cpu, memory
from table import table

FEATURES, HIDDEN, CLASSES, SAMPLES = 16, 8, 4, 16


class Crowd:
    """Devices that train together whatever has been assigned to them in the meantime."""

    def __init__(self, fleet: Processes, keys: dict[str, bytes]) -> None:
        self.devices = light.crowd(keys, fleet.pinned, self.hear)
        self.hellos: list[float] = []  # seconds from Hello to the first answer
        self.receipts: list[float] = []  # seconds from Offer to Receipt
        self.kept = 0
        self.ended = asyncio.Event()
        self._random = np.random.default_rng(0)
        self._shards = {name: self._shard() for name in keys}
        self._phases: dict[bytes, Phase] = {}
        self._due: list[tuple[Device, Ticket, Phase, bytes]] = []

    def hear(self, device: Device, message: Envelope) -> None:
        """Answer as an agent would."""
        now = time.perf_counter()
        if isinstance(message, Announce):
            device.since = now
            device.send(Hello("bench"))
        elif isinstance(message, Assignment):
            if message.ticket.version == 0:
                self.hellos.append(now - device.since)
            self._fetch(device, message)
        elif isinstance(message, Receipt):
            self.receipts.append(now - device.since)
            self.kept += message.kept
            assert message.kept and not message.reason, message
        elif isinstance(message, Farewell):
            self.ended.set()

    def _fetch(self, device: Device, job: Assignment) -> None:
        def task(body: bytes) -> None:
            if job.task.digest not in self._phases:
                self._phases[job.task.digest] = decode(unpack_body(body, Work).spec, Phase)
            device.fetch(job.model, model)

        def model(body: bytes) -> None:
            if not self._due:
                asyncio.get_running_loop().call_soon(self._train)
            self._due.append((device, job.ticket, self._phases[job.task.digest], body))

        seen: set[bytes] = vars(device).setdefault("seen", set())  # a device fetches a task once
        if job.task.digest in seen:
            task(b"")
        else:
            seen.add(job.task.digest)
            device.fetch(job.task, task)

    def _train(self) -> None:
        due, self._due = self._due, []
        groups = defaultdict(list)
        for device, ticket, phase, body in due:
            groups[ticket.phase, ticket.version].append((device, ticket, phase, body))
        for group in groups.values():
            phase, body = group[0][2], group[0][3]
            model = unpack_body(body, Model).arrays
            ours, chain = learner(phase), stage(phase)
            keys = [Key(phase.seed, ticket.device, ticket.version, ticket.attempt) for _, ticket, *_ in group]
            shards = [self._shards[ticket.device] for _, ticket, *_ in group]
            fit, _ = ours.many(model, [ours.init() for _ in group], shards, keys, [1.0] * len(group))
            rows, _ = chain.encode(fit.report, [chain.init() for _ in group], keys)
            for i, (device, ticket, *_) in enumerate(group):
                arrays = {name: row[i] for name, row in rows.items()}
                metrics = {name: sums[i] for name, sums in fit.metrics.items()}
                self._report(device, Report(ticket, arrays, fit.weight[i].reshape(1).astype(np.int64), metrics))

    def _report(self, device: Device, report: Report) -> None:
        device.since = time.perf_counter()
        device.send(Source(pack_body(report)).offer("report", report.ticket, first=True))

    def _shard(self) -> Shard:
        X = self._random.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
        y = self._random.integers(0, CLASSES, SAMPLES)
        return Shard(X[2:], y[2:], X[:2], y[:2])


def federation(goal: int, devices: int) -> ft.Federation:
    """Return a federation with a tiny model in which `goal` devices make a version, once `devices` are there."""
    task = ft.Task(model=ft.mlp(FEATURES, HIDDEN, CLASSES), loss="cross_entropy", recipe=ft.Recipe(lr=0.1, batch=16))
    return ft.Federation(task, ft.fedavg(), ft.Pace(goal=goal, patience=600.0), devices=devices)


async def at_work(devices: int, versions: int, profile: str) -> list[list[str]]:
    """Let all devices work on every version; return the lines of the table."""
    with tempfile.TemporaryDirectory() as name, serving(Path(name), devices, devices, versions) as fleet:
        keys = fleet.keys()
        coordinator = fleet.serve(profile=profile)
        crowd = Crowd(fleet, keys)
        begun = time.perf_counter()
        await light.link_all(crowd.devices, fleet.broker.url)
        linked = time.perf_counter() - begun
        used, begun = cpu(coordinator.pid), time.perf_counter()
        peak = 0.0
        while len(fleet.history) < versions - 1:  # the last line is complete when the closing evaluation is
            assert coordinator.poll() is None, (Path(name) / "log").read_text()[-2000:]
            peak = memory(coordinator.pid)["peak"]
            await asyncio.sleep(0.2)
        used, took = cpu(coordinator.pid) - used, time.perf_counter() - begun
        times = sorted(b["time"] - a["time"] for a, b in pairwise(fleet.history))
        await asyncio.wait_for(crowd.ended.wait(), 60)
        if profile:  # it is written when the process ends in order
            coordinator.send_signal(signal.SIGINT)
            await asyncio.to_thread(coordinator.wait, 60)
        assert all(line["updates"] == devices for line in fleet.history), fleet.history
    middle = times[len(times) // 2]
    return [
        ["all devices linked", f"{linked:.1f} s", ""],
        ["a version (median, fastest-slowest)", f"{middle:.2f} s ({times[0]:.2f}-{times[-1]:.2f})", ""],
        ["versions a second", f"{1 / middle:.2f}", ""],
        ["reports folded a second", f"{devices / middle:.0f}", ""],
        ["Hello to first assignment: p50, p95, max", quantiles(crowd.hellos), ""],
        ["Offer to receipt: p50, p95, max", quantiles(crowd.receipts), ""],
        ["coordinator's peak RSS", f"{peak:.0f} MB", ""],
        ["coordinator's CPU", f"{100 * used / took:.0f} % of a core", ""],
    ]


async def idle(devices: int, seconds: float) -> list[list[str]]:
    """Hold connections that wait for one more device; return the lines of the table."""
    with tempfile.TemporaryDirectory() as name, serving(Path(name), 1, devices + 1, 1) as fleet:
        keys = fleet.keys(devices)
        coordinator = fleet.serve()
        crowd = Crowd(fleet, keys)
        begun = time.perf_counter()
        await light.link_all(crowd.devices, fleet.broker.url)
        linked = time.perf_counter() - begun
        await asyncio.sleep(5.0)  # the last Hello is taken in
        before = cpu(coordinator.pid)
        pings = asyncio.create_task(light.keep_alive(crowd.devices))
        await asyncio.sleep(seconds)
        used = cpu(coordinator.pid) - before
        there = status(fleet)
        pings.cancel()
        assert there == devices, f"{there} of {devices} are there"
        peak = memory(coordinator.pid)["peak"]
    return [
        [f"{devices} idle devices linked, all said Hello", f"{linked:.1f} s", ""],
        ["coordinator's peak RSS", f"{peak:.0f} MB", "<= 400 MB"],
        [f"coordinator's CPU over {seconds:g} s", f"{100 * used / seconds:.1f} % of a core", ""],
    ]


def serving(directory: Path, goal: int, devices: int, versions: int) -> Processes:
    """Return the processes, not yet started."""
    return Processes(directory, "mosquitto", federation(goal, devices), versions)


def status(fleet: Processes) -> int:
    """Return how many devices the coordinator says are there; asked by another process, which has few files open."""
    command = [sys.executable, "-m", "fedthings", "status", str(fleet.run), "--json"]
    return int(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["present"])


def quantiles(seconds: list[float]) -> str:
    """Return the median, the 95 % quantile and the largest."""
    return " ".join(f"{value:.2f}" for value in np.quantile(seconds, [0.5, 0.95, 1.0])) + " s"


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=2000, help="0: leave this part out")
    parser.add_argument("--versions", type=int, default=8)
    parser.add_argument("--idle", type=int, default=10000, help="0: leave this part out")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--profile", default="", help="a file for cProfile of the coordinator's main thread")
    options = parser.parse_args()
    most = light.open_files()
    assert most > max(options.devices, options.idle) + 100, f"ulimit -Hn is {most}: raise it"
    if options.devices:
        load = os.getloadavg()[0]
        lines = asyncio.run(at_work(options.devices, options.versions, options.profile))
        print(
            f"{options.devices} devices at work on a tiny model, mosquitto, {os.cpu_count()} cores; load {load:.1f}.\n"
        )
        table(["what", "fedthings", "to reach"], lines)
        print()
    if options.idle:
        load = os.getloadavg()[0]
        lines = asyncio.run(idle(options.idle, options.seconds))
        print(f"Idle devices, mosquitto, {os.cpu_count()} cores; load {load:.1f}.\n")
        table(["what", "fedthings", "to reach"], lines)


if __name__ == "__main__":
    main()
