"""A million devices: logistic regression 64 -> 10, 1,000 kept updates a version, 100 versions, in virtual time.

Devices come and go by the hour of their day in four time zones, are microcontrollers and small computers on three
kinds of links, drop out and straggle with a Pareto tail. Prints time and memory beside the bare arithmetic of the
kept updates, and a profile of what the rest is.

python bench/million.py [--devices 1000000] [--versions 100] [--no-profile]
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import resource
import time
from collections import Counter
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is there, as in the commands

import numpy as np

import fedthings as ft
from fedthings.federation import phases
from fedthings.learn.engines import choose
from fedthings.phase import learner
from fedthings.vector import Key
from table import table

KEPT, ASKED = 1000, 1300
PARTS = {
    "who comes and goes": ("availability", "draws", "heapq"),
    "when a report is here and what it cost": ("things", "links", "stragglers", "work", "bisect"),
    "the coordinator": ("coordinator", "roster", "events", "pace"),
    "the loop and its agenda": ("simulator", "agenda"),
    "names, data made for who works": ("names", "stream", "synthetic", "fleet", "data"),
    "training and its metrics": ("local", "descent", "compiled", "shuffle", "model", "metrics", "vector", "learner"),
    "sums, versions, history": ("fold", "partial", "engine", "step", "history", "cohort", "worker", "wire"),
}


def federation() -> ft.Federation:
    task = ft.Task(model=ft.sequential(64, ft.dense(10)), loss="cross_entropy", recipe=ft.Recipe(lr=0.1, batch=20))
    return ft.Federation(task, ft.fedavg(), ft.Pace(goal=KEPT, concurrency=ASKED, patience=3600.0))


def world() -> ft.Things:
    day, slow = ft.diurnal(zones=(-8.0, -5.0, 1.0, 8.0)), ft.pareto(1.5)
    kinds = (("microcontroller", "lorawan", 0.4), ("microcontroller", "nb_iot", 0.4), ("pi_zero", "wifi", 0.2))
    return ft.Things(
        groups=tuple(
            ft.Group(share=share, device=device, link=link, available=day, stragglers=slow, dropout=0.05)
            for device, link, share in kinds
        )
    )


def arithmetic(fleet: ft.Fleet, versions: int) -> float:
    """Return the seconds that training alone takes for the kept updates of `versions`, data already made."""
    task = federation().task
    names = list(fleet.names[:KEPT])
    shards = fleet.cohort(names, [0.0] * KEPT)
    keys = [Key(0, name, 0, 0) for name in names]
    row = task.model.init(0)
    learn = learner(phases(federation())[0], threads=len(os.sched_getaffinity(0)))
    learn.many({"x": row}, [None] * KEPT, shards, keys, [1.0] * KEPT)
    begin = time.perf_counter()
    for _ in range(versions):
        learn.many({"x": row}, [None] * KEPT, shards, keys, [1.0] * KEPT)
    return time.perf_counter() - begin


def parts(profile: cProfile.Profile, seconds: float) -> list[list[str]]:
    """Return the share of each part of the code, as of `seconds`; built-in functions count for who calls them."""
    home = {name: part for part, names in PARTS.items() for name in names}
    total: Counter[str] = Counter()
    for (file, _, _), (_, _, own, _, callers) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if file.startswith(("~", "<")):
            for (caller, _, _), (_, _, spent, _) in callers.items():
                total[home.get(Path(caller).stem, "the rest")] += spent
        else:
            total[home.get(Path(file).stem, "the rest")] += own
    whole = sum(total.values())
    return [[part, f"{seconds * own / whole:.1f} s", f"{own / whole:.0%}"] for part, own in total.most_common()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1_000_000)
    parser.add_argument("--versions", type=int, default=100)
    parser.add_argument("--no-profile", action="store_true", help="leave out the second run, under a profiler")
    options = parser.parse_args()
    fleet = ft.clusters(options.devices, samples=20)
    begin = time.perf_counter()
    run = ft.simulate(federation(), fleet, options.versions, world=world())
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    assert np.isfinite(run.row).all() and run.history[-1]["version"] == options.versions
    updates = sum(line["updates"] for line in run.history)
    bare = arithmetic(fleet, options.versions)
    engine = choose(federation().task)
    print(f"{options.devices:,} devices, {options.versions} versions of {KEPT:,} kept updates, engine {engine}\n")
    table(
        ["", "measured", "to reach"],
        [
            ["the whole run", f"{seconds:.1f} s", "about 30 s"],
            ["peak memory of the process (VmHWM)", f"{peak:.0f} MB", "2,000 MB"],
            ["client-updates a second", f"{updates / seconds:,.0f}", ""],
            ["the bare arithmetic of the kept updates", f"{bare:.2f} s", "about 0.2 s"],
            ["virtual time", f"{run.history[-1]['time'] / 3600:.1f} h", ""],
        ],
    )
    if not options.no_profile:
        profile = cProfile.Profile()
        profile.runcall(ft.simulate, federation(), fleet, options.versions, world=world())
        print("\nWhere the time goes (shares under a profiler, of the time without one):\n")
        table(["part", "time", "share"], parts(profile, seconds))


if __name__ == "__main__":
    main()
