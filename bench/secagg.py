"""SecAgg+: what it costs one device, on one core, beside Flower's in the same run.

Times are the processor's, the median of `--repeats` runs by turns; what is sent is counted as it is packed. A device
makes keys, shares two secrets among its neighbours, masks its report, and opens the shares of the others at the end,
when a tenth has dropped out. Flower is left out where bench/peers/make has not made it. Then how many neighbours
stated rates want.

python bench/secagg.py [--parameters 1000000] [--neighbours 100] [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is there, as in the commands

import numpy as np

from fedthings.aggregate import ring
from fedthings.aggregate.ring import Ring
from fedthings.bodies import Report
from fedthings.errors import SpecError
from fedthings.messages import Neighbours, Shares, Unmask
from fedthings.privacy import secagg, signing
from fedthings.privacy.graph import degree
from fedthings.privacy.secagg import Scope, SecAgg
from fedthings.protocol.events import Ticket
from fedthings.vector import Key, keyed
from fedthings.wire import pack, pack_body
from table import table

HERE = Path(__file__).resolve().parent
SCOPE = Scope("bench", bytes(32))
STAGES = ("keys", "shares", "masked report", "unmasking")


class Run:
    """One device through the conversation: milliseconds and bytes of each stage, and of clipping and rounding."""

    def __init__(self, parameters: int, neighbours: int) -> None:
        self.times: list[float] = []
        self.bytes: list[int] = []
        spec, signer = SecAgg(neighbours=neighbours), signing.own()
        members = neighbours + 1
        tickets = [Ticket(0, 1, f"device-{i}", 0) for i in range(members)]
        me = tickets[members // 2]
        the = Ring(32, parameters, ring.room(32, members + 1), 1e-6, 1024, (), (("accuracy", 3), ("loss", 2)))
        update = keyed("update").normal(0, 1e-3, (1, parameters)).astype(np.float32)
        metrics = {name: np.ones((1, length), np.int64) for name, length in the.metrics}
        rows, self.rounding = timed(
            lambda: ring.encode(the, {"x": update}, np.ones(1, np.int64), metrics, [Key(0, me.device, 1, 0)])[0]
        )
        arrays = {name: row[0] for name, row in rows.items()}

        seat = self.stage(lambda: secagg.begin(spec, SCOPE, me, signer), lambda seat: seat.keys)
        others = {ticket: secagg.begin(spec, SCOPE, ticket, signer) for ticket in tickets if ticket != me}
        said = Neighbours(me, members, tuple(other.keys for other in others.values()))
        seat = self.stage(lambda: secagg.share(seat, said, signer), lambda seat: Shares(me, seat.sealed))
        sealed = []  # by each of the others, for this device alone
        for ticket, other in others.items():
            keys = tuple(seat.keys if who == me else others[who].keys for who in tickets if who != ticket)
            shared = secagg.share(other, Neighbours(ticket, members, keys), signer)
            sealed.append(shared.sealed[[who for who in tickets if who != ticket].index(me)])

        def masked() -> secagg.Seat:
            found = secagg.receive(seat, Shares(me, tuple(sealed)))
            secagg.hide(found, arrays)
            return found

        seat = self.stage(masked, lambda _: Report(me, arrays, np.ones(1, np.int64), {}))
        gone = tuple(range(neighbours // 10))
        ask = Unmask(me, members - len(gone), tuple(range(len(gone), neighbours)), gone)
        self.stage(lambda: secagg.unmask(seat, ask), lambda answer: answer[1])

    def stage(self, work: Any, message: Any) -> Any:
        """Do one stage, and count the `message` that comes of it."""
        answer, took = timed(work)
        self.times.append(took)
        sent = message(answer)
        self.bytes.append(len(pack_body(sent) if isinstance(sent, Report) else pack(sent, SCOPE.federation)))
        return answer


def timed(work: Any) -> tuple[Any, float]:
    """Return what `work` gives, and the processor time it takes in milliseconds."""
    began = time.thread_time()
    answer = work()
    return answer, (time.thread_time() - began) * 1e3


def flower(parameters: int, neighbours: int) -> dict[str, list[float]] | None:
    """Return what Flower's device takes and sends; None where it is not installed."""
    python = Path(os.environ.get("FEDTHINGS_BENCH", HERE.parent / ".bench")) / "flower" / "bin" / "python"
    if not python.exists():
        return None
    command = [str(python), str(HERE / "peers" / "with_flower_secagg.py"), str(parameters), str(neighbours)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def cells(name: str, times: list[list[float]], sizes: list[float]) -> list[str]:
    """Return a line of the table: each stage's median milliseconds, all of them, and all bytes sent."""
    each = [median(stage) for stage in zip(*times, strict=True)]
    whole = median(sum(run) for run in times)
    return [name, *(f"{ms:,.1f}" for ms in each), f"{whole:,.0f}", f"{sum(sizes) / 1e6:.3f} MB"]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--neighbours", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    ours: list[Run] = []
    theirs: list[dict[str, list[float]]] = []
    for _ in range(given.repeats):
        ours.append(Run(given.parameters, given.neighbours))
        if (found := flower(given.parameters, given.neighbours)) is not None:
            theirs.append(found)
    lines = [cells("fedthings", [run.times for run in ours], [float(size) for size in ours[0].bytes])]
    if theirs:
        times = [[1e3 * seconds for seconds in run["seconds"]] for run in theirs]
        lines.append(cells("Flower", times, theirs[0]["bytes"]))
        ratios = [sum(b) / sum(a.times) for a, b in zip(ours, times, strict=True)]
        lines.append(["Flower / fedthings", "", "", "", "", f"{median(ratios):.1f} times", ""])
    lines.append(["to reach", "", "", "", "", "150", "4.1 MB"])
    head = f"{given.parameters:,} parameters, {given.neighbours} neighbours"
    table([head, *(f"{stage} (ms)" for stage in STAGES), "all (ms)", "sent"], lines)
    print(f"\nRounding {median(run.rounding for run in ours):.1f} ms more; Flower's masked report includes it.\n")
    fleets = (10, 100, 1000, 10_000)
    rates = ((0.05, 0.1), (0.1, 0.1), (0.05, 0.3))
    degrees = [[f"{c:.0%} corrupt, {d:.0%} drop out", *(_degree(n, c, d) for n in fleets)] for c, d in rates]
    table(["neighbours (threshold), by devices of a set", *(f"{n:,}" for n in fleets)], degrees)


def _degree(n: int, corrupt: float, dropout: float) -> str:
    try:
        return "{} ({})".format(*degree(n, corrupt, dropout))
    except SpecError:
        return "none"


if __name__ == "__main__":
    main()
