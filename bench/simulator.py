"""The simulator beside its peers: client-updates a second, start-up, memory, and the share of the machine's GEMM peak.

Every system trains the same model on the same data, with the same local steps and as many devices a round, in a fresh
process each time, by turns: fedthings, a peer, fedthings, the next peer, and all of it again. What counts is the median
of the ratios of neighbours. bench/peers/make makes the peers' environments; a peer without one is left out.

python bench/simulator.py [--workloads W1,W2] [--peers flower,pfl] [--pairs 5] [--quick] [--engine E] [--workers N]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from peers import family
from peers.family import FailedError, Measured
from peers.workloads import WORKLOADS, Workload
from table import table

HERE = Path(__file__).resolve().parent
OURS = "fedthings"
PEERS = {"flower": "Flower + Ray", "pfl": "pfl-research", "fedjax": "FedJAX", "fedlab": "FedLab"}
CORES = len(os.sched_getaffinity(0))

RATES = {"W1": 6_000, "W2": 2_200, "W3": 230, "W4": 19, "W5": 60_000}
"""Updates a second that fedthings is to reach."""
RATIOS = {
    "W1": {"flower": 60, "fedjax": 4.5},
    "W2": {"flower": 45, "fedjax": 5.5},
    "W3": {"flower": 7, "pfl": 3.5},
    "W4": {"flower": 1.85, "pfl": 1.25},
    "W5": {"flower": 580, "fedjax": 20},
}
"""How many times as fast as a peer it is to be."""
SHARES = {"W2": 62, "W3": 76}
"""Percent of the GEMM peak that it is to reach."""
FEWER = {("flower", "W5"): 1_000}
"""Devices a round where the workload's own number would take hours."""


@dataclass
class Runs:
    """What the runs of one system on one workload have given."""

    measured: list[Measured] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    failed: str = ""

    def of(self, name: str) -> list[float]:
        """Return a figure of all runs."""
        return [run.told[name] for run in self.measured]


def main() -> int:
    """Measure and print the tables; return 1 where a system failed."""
    options = _options()
    family.adopt()
    systems = [OURS, *(peer for peer in options.peers if _there(peer, options.home))]
    peaks: dict[str, list[float]] = {}
    loads: list[float] = []
    results: dict[str, dict[str, Runs]] = {}
    began = time.monotonic()
    for name in options.workloads:
        workload = WORKLOADS[name]
        workload.data(options.data)
        runs = results[name] = {system: Runs() for system in systems}
        for turn in range(options.pairs):
            _peak(peaks)
            for peer in systems[1:] or [OURS]:
                ours = _one(OURS, workload, options, runs[OURS])
                if peer == OURS or runs[peer].failed:
                    continue
                theirs = _one(peer, workload, options, runs[peer])
                if ours and theirs:
                    runs[peer].ratios.append(ours.told["rate"] / theirs.told["rate"])
            _say(f"{name}: turn {turn + 1} of {options.pairs}, {time.monotonic() - began:.0f} s since the start")
        loads += [run.others for system in runs.values() for run in system.measured]
    _print(results, peaks, loads, options, time.monotonic() - began)
    return int(any(runs.failed for systems in results.values() for runs in systems.values()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", type=_some(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--peers", type=_some(PEERS), default=list(PEERS), help="none: fedthings by itself")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each peer, each after one of fedthings")
    parser.add_argument("--quick", action="store_true", help="one pair of 3 rounds: does it all work?")
    parser.add_argument("--engine", choices=("auto", "numpy", "kernels"), help="as simulate's engine=")
    parser.add_argument("--workers", type=int, help="as simulate's workers=")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds that one run may take")
    parser.add_argument("--out", type=Path, help="a file to which each run is added as a line of JSON")
    options = parser.parse_args()
    if options.pairs < 1:
        parser.error(f"--pairs is {options.pairs}: give at least 1")
    options.home = Path(os.environ.get("FEDTHINGS_BENCH", HERE.parent / ".bench"))
    options.data = options.home / "data"
    options.rounds = 0
    if options.quick:
        options.pairs, options.rounds = 1, 3
    return options


def _some(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Return what reads names of `known`, separated by commas."""

    def names(text: str) -> list[str]:
        found = [] if text == "none" else text.split(",")
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return found

    return names


def _there(peer: str, home: Path) -> bool:
    """Return whether there is an environment of `peer`; say what to do where there is none."""
    there = (home / peer / "complete").exists()
    if not there:
        _say(f"{PEERS[peer]} is left out: there is no {home / peer}; make it with: bench/peers/make {peer}")
    return there


def _command(system: str, workload: Workload, options: argparse.Namespace) -> Sequence[str | Path]:
    """Return the command of a run of `system`."""
    script = HERE / "peers" / f"with_{system}.py"
    words: list[str | Path] = [script, workload.name, "--data", options.data, "--rounds", str(options.rounds)]
    words += ["--cohort", str(FEWER.get((system, workload.name), 0))]
    if system == OURS:
        words += ["--engine", options.engine] * (options.engine is not None)
        words += ["--workers", str(options.workers)] * (options.workers is not None)
        return [sys.executable, *words]
    python = options.home / system / "bin" / "python"
    # pfl is faster in one process where a device's work is as small as in W1.
    if system == "pfl" and workload.name != "W1" and CORES > 1:
        return [python, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={CORES}", *words]
    return [python, *words]


def _one(system: str, workload: Workload, options: argparse.Namespace, runs: Runs) -> Measured | None:
    """Measure one run, and add it to `runs`."""
    try:
        measured = family.run(_command(system, workload, options), options.patience)
    except FailedError as error:
        runs.failed = str(error)
        _say(f"{workload.name} {system}: {error}")
        return None
    runs.measured.append(measured)
    told = measured.told
    _say(
        f"{workload.name} {system:9} {_number(told['rate'])} updates/s, start {told['start']:.1f} s, "
        f"{measured.megabytes:.0f} MB, loss {told['loss']:.4f}; others used {measured.others:.2f} cores"
    )
    if options.out is not None:
        with options.out.open("a") as file:
            file.write(json.dumps({**told, "megabytes": measured.megabytes, "others": measured.others}) + "\n")
    return measured


def _peak(peaks: dict[str, list[float]]) -> None:
    """Measure the machine's GEMM."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, str(HERE / "peers" / "gemm.py")]
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    for library, speed in json.loads(output).items():
        peaks.setdefault(library, []).append(speed)


# ---------------------------------------------------------------------- print


def _print(
    results: dict[str, dict[str, Runs]],
    peaks: dict[str, list[float]],
    loads: list[float],
    options: argparse.Namespace,
    seconds: float,
) -> None:
    peak = max(median(speeds) for speeds in peaks.values())
    gemm = ", ".join(f"{library} {_spread(speeds)}" for library, speeds in peaks.items())
    print(f"{datetime.now(UTC):%Y-%m-%d}, {_processor()}, {CORES} cores, Python {platform.python_version()}.")
    print(f"GEMM of 2048 x 2048, float32, {CORES} threads, GFLOP/s: {gemm}; the peak is taken as {peak:.0f}.")
    if loads:
        print(f"Other processes used {_spread(loads)} cores. Pairs: {options.pairs}; it took {seconds / 60:.0f} min.")
        if median(loads) > 0.1:
            print("**The machine was not quiet: these figures are preliminary.**")
    for name, runs in results.items():
        workload = WORKLOADS[name]
        work = f"{workload.cohort:,} of {workload.devices:,} devices x {workload.samples}, B = {workload.batch}"
        print(f"\n### {name}: {workload.title}, {work}; {options.rounds or workload.rounds} rounds\n")
        header = ["system", "updates/s", "to reach", "fedthings is faster", "to reach", "start-up s", "memory MB"]
        header += ["% of GEMM peak", "accuracy / loss", "others' cores"]
        table(header, [_line(system, workload, found, peak) for system, found in runs.items()])
    print(
        "\nMedian (lowest-highest) of the runs. updates/s: by the median round of a run, the first left out; "
        "fedthings is faster: ratios of neighbouring runs; start-up: from the first process to the end of the first "
        "round, less a median one; memory: the most PSS of all its processes at once. Who trains in a round, and in "
        "what order its samples come, differs a little: so does the loss."
    )


def _line(system: str, workload: Workload, runs: Runs, peak: float) -> list[str]:
    """Return the cells of a system."""
    name = PEERS.get(system, system)
    if not runs.measured:
        return [name, f"failed: {runs.failed}", *[""] * 8]
    how = runs.measured[0].told["how"]
    cohort = FEWER.get((system, workload.name))
    name += f" ({how}{f', {cohort:,} devices a round' if cohort else ''})"
    rates = runs.of("rate")
    share = 100 * median(rates) * workload.flops / peak / 1e9
    ours = system == OURS
    share_due = f" (to reach: {SHARES[workload.name]})" if ours and workload.name in SHARES else ""
    due = RATIOS[workload.name].get(system)
    return [
        name,
        _spread(rates),
        f">= {RATES[workload.name]:,}" if ours else "",
        f"{_spread(runs.ratios)} x" if runs.ratios else "",
        f">= {due:g} x" if due else "",
        f"{median(runs.of('start')):.1f}",
        f"{median(run.megabytes for run in runs.measured):.0f}",
        f"{share:.2g}{share_due}",
        f"{median(runs.of('accuracy')):.3f} / {_losses(runs.of('loss'))}",
        f"{median(run.others for run in runs.measured):.2f}",
    ]


def _losses(losses: Sequence[float]) -> str:
    low, high = min(losses), max(losses)
    return f"{low:.4f}" if f"{low:.4f}" == f"{high:.4f}" else f"{low:.4f}-{high:.4f}"


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return _number(values[0])
    return f"{_number(median(values))} ({_number(min(values))}-{_number(max(values))})"


def _number(value: float) -> str:
    """Return three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    found: Any = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return found or platform.machine()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
