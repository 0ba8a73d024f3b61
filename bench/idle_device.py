"""What a device costs that has nothing to do: memory, bytes on the line, processor; and the time of --help.

python bench/idle_device.py [--seconds 200]
"""

from __future__ import annotations

import argparse
import os
import selectors
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import fedthings as ft
from processes import Processes, memory, rows, until
from table import table

DAY = 86400
HEADERS = 20 + 20 + 12
"""Bytes of a segment that are not MQTT: IP, TCP and its timestamps."""
FLOWER = {"rss": "255-262 MB", "pss": "184-193 MB", "bytes": "33 MB", "cpu": "0.7-0.9 %", "import": "0.49 s (flwr)"}


class Counter(threading.Thread):
    """A TCP proxy that counts what one connection carries: bytes of MQTT, and segments with all that carry only ACK."""

    def __init__(self, target: int) -> None:
        super().__init__(daemon=True)
        self._target = target
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._door.getsockname()[1]
        self.bytes = 0
        self._near: socket.socket | None = None

    def run(self) -> None:
        """Carry one connection until it ends."""
        near, _ = self._door.accept()
        far = socket.create_connection(("127.0.0.1", self._target))
        self._near = near
        ends = {near: far, far: near}
        with selectors.DefaultSelector() as selector:
            for end in ends:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(end, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    end = key.fileobj
                    assert isinstance(end, socket.socket)
                    data = end.recv(1 << 16)
                    if not data:
                        return
                    self.bytes += len(data)
                    ends[end].sendall(data)

    @property
    def segments(self) -> int:
        """Segments in and out so far, by the kernel's own count (tcp_info: tcpi_segs_out, tcpi_segs_in)."""
        assert self._near is not None
        info = self._near.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return sum(struct.unpack_from("II", info, 136))


def processor(pid: int) -> float:
    """Return the seconds of processor time that a process has used, by the scheduler's count."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def help_time(repeats: int = 15) -> float:
    """Return the median seconds of `fedthings --help`."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "fedthings", "--help"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begun)
    return sorted(times)[repeats // 2]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=200.0, help="of idleness, at a keep-alive of 60 seconds")
    seconds = parser.parse_args().seconds
    task = ft.Task(model=ft.mlp(64, 32, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.1))
    federation = ft.Federation(task=task, strategy=ft.fedavg(), pace=ft.Pace(goal=1), devices=1)
    load = os.getloadavg()[0]
    quick = help_time()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with Processes(directory, "mosquitto", federation, 3) as fleet:
            device = fleet.names[0]
            proxy = Counter(fleet.broker.port)
            proxy.start()
            url = fleet.broker.url(device).replace(str(fleet.broker.port), str(proxy.port))
            pid = fleet.join(device, rows(directory / "data.npz", 64, 10, samples=180), url, once=False).pid
            until(lambda: proxy.bytes > 50, "the link")
            time.sleep(3.0)
            idle = memory(pid)
            bytes_before, segments_before, cpu_before = proxy.bytes, proxy.segments, processor(pid)
            time.sleep(seconds)
            mqtt, segments = proxy.bytes - bytes_before, proxy.segments - segments_before
            cpu = processor(pid) - cpu_before
            fleet.serve()
            fleet.wait()
            time.sleep(1.0)
            trained = memory(pid)
    day = DAY / seconds
    lines = [
        ["RSS, linked and idle", f"{idle['rss']:.1f} MB", "<= 50 MB", FLOWER["rss"]],
        ["PSS, linked and idle", f"{idle['pss']:.1f} MB", "", FLOWER["pss"]],
        ["RSS after its first training", f"{trained['rss']:.1f} MB", "<= 55 MB", "380 MB while it trains"],
        ["PSS after its first training", f"{trained['pss']:.1f} MB", "", ""],
        ["MQTT bytes of an idle day", f"{mqtt * day / 1000:.1f} kB", "<= 10 kB", FLOWER["bytes"]],
        ["the same with TCP/IP", f"{(mqtt + segments * HEADERS) * day / 1000:.0f} kB", "", ""],
        ["processor while idle", f"{100 * cpu / seconds:.4f} % of a core", "", FLOWER["cpu"]],
        ["`fedthings --help`", f"{quick:.2f} s", "<= 0.3 s", FLOWER["import"]],
    ]
    print(f"One device; keep-alive 60 s, {seconds:g} s ({mqtt} bytes in {segments} segments); load {load:.1f}.\n")
    table(["what", "fedthings", "to reach", "Flower 1.41"], lines)


if __name__ == "__main__":
    main()
