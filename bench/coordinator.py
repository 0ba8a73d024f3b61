"""The coordinator alone: events a second by the size of the fleet, and whether an event costs more in a large one.

No array, no link, no training: `Coordinator.on` with devices that report one after the other, and with one in ten
events a device that comes or goes. Synchronous (100 of the fleet a version) and asynchronous (goal 100, 1,000 at
work). Fleets are measured in turns, and each figure is the median of several.

python bench/coordinator.py [--plot coordinator.png] [--repeats 7]
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections import deque
from pathlib import Path
from statistics import median

from fedthings.protocol.coordinator import Coordinator
from fedthings.protocol.events import Advance, Arrived, Assign, Event, Joined, Left, Stepped, Ticket
from fedthings.protocol.pace import Pace, Plan
from table import table

SIZES = (1_000, 10_000, 100_000, 1_000_000)
PACES = {
    "synchronous": Pace(goal=100, concurrency=130, patience=1e9),
    "asynchronous": Pace(goal=100, concurrency=1000, staleness=20, patience=1e9),
}
EVENTS = 100_000


class Fleet:
    """Devices around one coordinator; `turn` gives it events and returns how many it took in which time."""

    def __init__(self, size: int, pace: Pace) -> None:
        self.coordinator = Coordinator((Plan(pace, 1 << 40),), 1, pace.concurrency)
        self.open: deque[Ticket] = deque()
        self.now = 0.0
        self.random = random.Random(0)
        self.away: deque[str] = deque()
        self.names = [f"device-{i}" for i in range(size)]
        for name in self.names:
            self.give(Joined(name))

    def give(self, event: Event) -> int:
        """Give the coordinator an event and what follows at once; return how many events that were."""
        self.now += 1e-3
        given = 1
        for command in self.coordinator.on(event, self.now):
            if type(command) is Assign:
                self.open.append(command.ticket)
            elif type(command) is Advance:
                given += self.give(Stepped(command.version, False))
        return given

    def turn(self, events: int) -> float:
        """Give `events` events; return seconds an event."""
        given = 0
        presence = self.random
        begin = time.perf_counter()
        while given < events:
            if presence.random() < 0.1:
                if len(self.away) >= 50:
                    given += self.give(Joined(self.away.popleft()))
                else:
                    name = self.names[presence.randrange(len(self.names))]
                    if name not in self.coordinator.tasks and name in self.coordinator.present:
                        self.away.append(name)
                        given += self.give(Left(name))
            else:
                given += self.give(Arrived(self.open.popleft()))
        return (time.perf_counter() - begin) / given


def plot(path: Path, costs: dict[str, dict[int, float]]) -> None:
    """Draw microseconds an event over the size of the fleet."""
    import matplotlib.pyplot as plt

    from fedthings.learn.picture import LINES, STYLE

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
        for (name, found), colour in zip(costs.items(), LINES, strict=False):
            axes.plot(list(found), [1e6 * cost for cost in found.values()], "o-", color=colour, label=name)
        axes.set(xscale="log", xlabel="devices", ylabel="microseconds an event", ylim=(0, None))
        axes.set_title("What an event costs the coordinator", loc="left")
        axes.grid(axis="y")
        axes.legend(frameon=False)
        figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, help="draw it into this file")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    gc.set_threshold(200_000, 20, 100)  # as the simulator does
    costs: dict[str, dict[int, float]] = {}
    for name, pace in PACES.items():
        fleets = {size: Fleet(size, pace) for size in SIZES}
        gc.freeze()
        found: dict[int, list[float]] = {size: [] for size in SIZES}
        for _ in range(options.repeats):
            for size, fleet in fleets.items():
                found[size].append(fleet.turn(EVENTS // options.repeats))
        costs[name] = {size: median(times) for size, times in found.items()}
        del fleets
    lines = []
    for name, cost in costs.items():
        rates = [f"{1 / cost[size]:,.0f}" for size in SIZES]
        lines.append([name, *rates, f"{cost[SIZES[-1]] / cost[SIZES[0]]:.2f}"])
    lines.append(["to reach", "", "100,000", "", "", "2"])
    table(["events a second", *(f"{size:,} devices" for size in SIZES), "cost, largest / smallest"], lines)
    if options.plot:
        plot(options.plot, costs)


if __name__ == "__main__":
    main()
