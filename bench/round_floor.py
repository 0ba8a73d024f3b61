"""The floor of a round: two device processes, a model of some ten numbers, MQTT over loopback.

python bench/round_floor.py [--versions 200] [--repeats 3]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import fedthings as ft
from processes import Processes, rows
from table import table

FLOWER = "6,100"
CASES: list[tuple[str, Any, tuple[str, ...], int]] = [
    ("mosquitto", "mosquitto", (), 20),
    ("mosquitto, --fsync", "mosquitto", ("--fsync",), 40),
    ("embedded amqtt", "amqtt", (), 60),
]


def measure(broker: Any, flags: tuple[str, ...], versions: int) -> list[float]:
    """Return the milliseconds of each version but the first ten."""
    task = ft.Task(model=ft.mlp(4, 2), loss="cross_entropy", recipe=ft.Recipe(lr=0.1))
    federation = ft.Federation(task=task, strategy=ft.fedavg(), pace=ft.Pace(goal=2), devices=2)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with Processes(directory, broker, federation, versions) as fleet:
            fleet.serve(*flags)
            for i, device in enumerate(fleet.names):
                fleet.join(device, rows(directory / f"{device}.npz", 4, 2, seed=i))
            times = [line["time"] for line in fleet.wait()]
    return [1000 * (b - a) for a, b in pairwise(times[9:])]


def main() -> None:
    """Measure each case `--repeats` times in turn; the median run stands in the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    options = parser.parse_args()
    lines = []
    for title, broker, flags, goal in CASES:
        if options.only not in title:
            continue
        found = []
        for _ in range(options.repeats):
            load = os.getloadavg()[0]
            spans = sorted(measure(broker, flags, options.versions))
            tenth = len(spans) // 10
            found.append((spans[len(spans) // 2], spans[tenth], spans[-tenth - 1], load))
        found.sort()
        median, p10, p90, load = found[len(found) // 2]
        every = ", ".join(f"{run[0]:.1f}" for run in found)
        lines.append([title, f"{median:.1f}", f"{p10:.1f}", f"{p90:.1f}", every, f"{load:.1f}", f"<= {goal}", FLOWER])
    print(f"Milliseconds a version; 2 device processes, 10 parameters, {options.versions} versions.\n")
    table(["broker", "median", "p10", "p90", "medians of all runs", "load", "to reach", "Flower 1.41"], lines)


if __name__ == "__main__":
    main()
