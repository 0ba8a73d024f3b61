"""A round of ten device processes with a model of 1 MB, and of 20 MB: its time, and the coordinator's memory.

python bench/round_size.py [--repeats 3] [--only 1]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import fedthings as ft
from processes import Processes, memory, rows, until
from table import table

DEVICES = 10
# megabytes of the model, its hidden units, versions, to reach, Flower 1.41's time and memory
CASES: list[tuple[int, int, int, tuple[str, str], tuple[str, str]]] = [
    (1, 248, 22, ("<= 0.5 s", ""), ("13.7 s", "459 MB")),
    (20, 5194, 6, ("", "<= 200 MB"), ("15.7-19.7 s", "1,490 MB")),
]


def measure(broker: Any, hidden: int, versions: int) -> tuple[list[float], float]:
    """Return the seconds of each version but the first two, and the megabytes of the coordinator's peak RSS."""
    task = ft.Task(model=ft.mlp(1000, hidden, 8), loss="cross_entropy", recipe=ft.Recipe(lr=0.1))
    federation = ft.Federation(task=task, strategy=ft.fedavg(), pace=ft.Pace(goal=DEVICES), devices=DEVICES)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with Processes(directory, broker, federation, versions) as fleet:
            coordinator = fleet.serve()
            for i, device in enumerate(fleet.names):
                fleet.join(device, rows(directory / f"{device}.npz", 1000, 8, samples=16, seed=i))
            until(lambda: len(fleet.history) >= versions or coordinator.poll() is not None, "the last version")
            peak = memory(coordinator.pid)["peak"]
            times = [line["time"] for line in fleet.wait()]
    return sorted(b - a for a, b in pairwise(times[1:])), peak


def main() -> None:
    """Measure each case `--repeats` times; the median run stands in the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", type=int, default=0, help="megabytes")
    parser.add_argument("--broker", default="mosquitto")
    options = parser.parse_args()
    lines = []
    for megabytes, hidden, versions, (time, room), (flower_time, flower_room) in CASES:
        if options.only not in (0, megabytes):
            continue
        found = []
        for _ in range(options.repeats):
            load = os.getloadavg()[0]
            spans, peak = measure(options.broker, hidden, versions)
            found.append((spans[len(spans) // 2], spans[0], spans[-1], peak, load))
        found.sort()
        median, low, high, *_ = found[len(found) // 2]
        peak = max(run[3] for run in found)
        span = f"{median:.2f} ({low:.2f}-{high:.2f})"
        loads = ", ".join(f"{run[4]:.0f}" for run in found)
        every = ", ".join(f"{run[0]:.2f}" for run in found)
        lines += [
            [
                f"{megabytes} MB: seconds a round",
                span,
                every,
                loads,
                time,
                flower_time,
            ],
            [f"{megabytes} MB: coordinator's peak RSS", f"{peak:.0f} MB", "", "", room, flower_room],
        ]
    print(f"{DEVICES} device processes on {os.cpu_count()} cores, {options.broker}; median (fastest-slowest) round.\n")
    table(["what", "fedthings", "medians of all runs", "load before each", "to reach", "Flower 1.41"], lines)


if __name__ == "__main__":
    main()
