"""Secure mode by two servers: what it costs the device, the leader and the helper, on one core.

Times are the processor's, the median of `--repeats`, so that other work on the machine counts little. Clipping,
turning, rounding, masking and sealing are the calls that an agent makes. Then what rounding costs a
model, and two noises.

python bench/secure.py [--parameters 1000000] [--repeats 21]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is there, as in the commands

import numpy as np

import fedthings as ft
from fedthings import hidden
from fedthings.aggregate import ring
from fedthings.engine import Engine
from fedthings.federation import phases
from fedthings.identity.keys import spelled
from fedthings.learn.digits import digits
from fedthings.learn.learner import Fit
from fedthings.outgoing import Outgoing
from fedthings.phase import Phase
from fedthings.privacy import central, keys, masks, shares, sketch
from fedthings.protocol.events import Ticket
from fedthings.vector import Key, keyed
from table import table

SECRET = bytes(range(32))
PUBLIC = keys.public_of(SECRET)
TICKET = Ticket(0, 0, "device", 0)
REPORTS = 100


def federation(parameters: int, bits: int, turned: bool) -> ft.Federation:
    """Return one whose model has `parameters` parameters, or a few more."""
    task = ft.Task(model=ft.mlp(parameters // 10 - 1, 10), loss="cross_entropy", recipe=ft.Recipe())
    stages = (ft.clip(1.0), ft.rotate()) if turned else (ft.clip(1.0),)
    secure = ft.two_servers(spelled(PUBLIC), bits=bits)
    return ft.Federation(task, stages=stages, secure=secure, pace=ft.Pace(goal=REPORTS))


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median processor time of `work`."""
    found = []
    for _ in range(repeats):
        began = time.thread_time()
        work()
        found.append((time.thread_time() - began) * 1e3)
    return median(found)


def costs(spec: ft.Federation, repeats: int) -> tuple[Phase, list[float], int]:
    """Return the phase; masking and sealing, all that the device does, the leader's and the helper's work, the helper's
    for norms, each in milliseconds; and the bytes of the report."""
    phase = phases(spec)[0]
    outgoing, key = Outgoing(phase), Key(0, "device", 0, 0)
    assert outgoing.ring is not None
    dim = phase.task.model.layout.dim
    engine = Engine(spec, 1)
    metrics = {name: np.ones((1, length), np.int64) for name, length in outgoing.ring.metrics}
    update = keyed("update").normal(0, 2 / dim**0.5, (1, dim)).astype(np.float32)  # longer than the bound
    fit = Fit({"x": update}, np.ones(1, np.int64), metrics)
    assert phase.secure is not None
    scope = shares.scope_of(phase.secure, outgoing.ring, "bench", bytes(32))
    arrays = {name: rows[0] for name, rows in outgoing.encode(fit, [outgoing.stage.init()], [key]).fit.report.items()}
    state = [outgoing.stage.init()]

    sealing = milliseconds(lambda: shares.split(arrays, PUBLIC, scope, TICKET), repeats)
    coding = milliseconds(lambda: outgoing.encode(fit, state, [key]), repeats)
    sent = shares.split(arrays, PUBLIC, scope, TICKET)
    rows = {name: row[None] for name, row in sent.items()}

    def lead() -> None:
        engine.keep(rows, np.ones(1, np.int64), {}, [0])
        shares.digest(sent)

    total = {name: row[0] for name, row in outgoing.ring.zeros(1).items()}
    info = scope.of(TICKET, shares.digest(sent))

    def give() -> None:
        masks.apply(total, [(shares.unseal(sent["seed"].tobytes(), SECRET, info), np.add)])

    own, buckets = np.zeros(dim, outgoing.ring.dtype), sketch.buckets(bytes(16), dim)

    def project() -> None:
        masks.apply({"x": own}, [(bytes(16), np.add)])
        sketch.sketch(own, buckets)

    found = [sealing, sealing + coding, *(milliseconds(work, repeats) for work in (lead, give, project))]
    return phase, found, engine.report_bytes(TICKET)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=21)
    given = parser.parse_args()
    lines = []
    for bits, turned in ((32, False), (32, True), (16, False), (16, True)):
        spec = federation(given.parameters, bits, turned)
        phase, times, size = costs(spec, given.repeats)
        dim = phase.task.model.layout.dim
        name = f"{bits} bits{', turned' if turned else ''}"
        plain = size - dim * bits // 8
        cells = [f"{ms:.1f}" for ms in times]
        lines.append([name, *cells, f"{dim * bits / 8e6:.2f} MB + {plain} B"])
    lines.append(["to reach", "5", "15; turned 30", "", "10", "", "4.0 MB + 1 KB; 2.0 MB"])
    header = [
        f"{dim:,} parameters",
        "device: mask and seal (ms)",
        "device: all (ms)",
        "leader (ms)",
        "helper (ms)",
        "helper: norms (ms)",
        "report",
    ]
    table(header, lines)
    print()
    fleets = (3, 10, 100, 1000, 2000)
    rooms = [[f"{bits} bits", *(f"{ring.room(bits, n + 1):,}" for n in fleets)] for bits in (32, 16)]
    table(["steps to either side of 0, by reports of a version", *(f"{n:,}" for n in fleets)], rooms)
    print()
    table(["noise of the models, over that of central privacy", *MECHANISMS], noise())
    print()
    table(["digits, 30 versions", "10 devices", "80 devices"], rounded())


MECHANISMS = {"BLT": ft.blt(), "tree": ft.tree(), "independent": ft.independent()}
CLAIM = {"separation": 9, "cap": 10, "rounds": 100, "source": "keyed"}


def noise() -> list[list[str]]:
    """Return how many times the noise of one coordinator two servers put into the models, at epsilon 8, delta 1e-6."""
    lines = []
    for bits, dim, reports in (
        (32, 1_000_000, 100),
        (32, 1_000_000, 2000),
        (16, 1000, 20),
        (16, 5000, 20),
        (16, 5000, 100),
    ):
        cells = []
        for mechanism in MECHANISMS.values():
            privacy, clip = ft.central_dp(8, 1e-6, mechanism), ft.clip(1.0)
            pace = ft.Pace(goal=reports, separation=9, cap=10)
            stages, secure = (clip, ft.rotate()), ft.two_servers(spelled(PUBLIC), bits=bits)
            two = hidden.claimed(secure, privacy, stages, pace, reports=reports, rounds=100, dim=dim, source="keyed")
            one = central.claimed(privacy, clip, goal=reports, devices=0, dim=dim, **CLAIM)
            cells.append(f"{np.sqrt(2) * two.multiplier / one.multiplier:.3f}")
        lines.append([f"{bits} bits, {dim:,} parameters, {reports:,} reports", *cells])
    return lines


def rounded() -> list[list[str]]:
    """Return the accuracy, and how far the model is from the plain one in the L2 norm, by what is sent."""
    settings: dict[str, tuple[int, tuple]] = {
        "plain": (0, (ft.clip(3.0),)),
        "32 bits": (32, (ft.clip(3.0),)),
        "16 bits": (16, (ft.clip(3.0),)),
        "16 bits, turned": (16, (ft.clip(3.0), ft.rotate())),
    }
    lines: list[list[str]] = [[name] for name in settings]
    for devices in (10, 80):
        rows = []
        for line, (bits, stages) in zip(lines, settings.values(), strict=True):
            task = ft.Task(model=ft.mlp(64, 32, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.3, batch=16, epochs=2))
            secure = ft.two_servers(spelled(PUBLIC), bits=bits, heaviest=512) if bits else None
            spec = ft.Federation(task, pace=ft.Pace(goal=devices), stages=stages, secure=secure)
            run = ft.simulate(spec, digits(devices, seed=0), 30)
            rows.append(run.row)
            apart = np.linalg.norm(run.row - rows[0]) / np.linalg.norm(rows[0])
            line.append(f"{run.summary['metrics']['accuracy']:.3f}, {apart:.0e}")
    return lines


if __name__ == "__main__":
    main()
