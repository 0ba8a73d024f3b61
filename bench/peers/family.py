"""A system under measurement: its process and all that descend from it, their memory and their processor time."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from peers.workloads import BEGAN

PERIOD = 0.02
"""Seconds between two looks at the memory, or twenty times what a look takes."""
_PR_SET_CHILD_SUBREAPER = 36


class Measured(NamedTuple):
    """What a run has said of itself, the most memory of the whole family, and how many cores others used meanwhile."""

    told: dict[str, Any]
    megabytes: float
    others: float


class FailedError(Exception):
    """A run that gave no result; the message says what it said last."""


def adopt() -> None:
    """Become the parent of orphans among the descendants, so that daemons are measured too, and ended."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed: this bench needs Linux")


def run(command: Sequence[str | Path], patience: float) -> Measured:
    """Run `command` to its end and return what came of it. Raises FailedError, also after `patience` seconds."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    busy, own, begun = _busy(), _own(), time.monotonic()
    peak, spent, over = [0.0], dict[int, float](), threading.Event()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment | {BEGAN: repr(time.time())},
        )
        watcher = threading.Thread(target=_watch, args=(peak, spent, over), daemon=True)
        watcher.start()
        try:
            output, _ = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            raise FailedError(f"no end within {patience:g} s") from None
        finally:
            over.set()
            watcher.join()
            _end(process)
        span = time.monotonic() - begun
        # Not every parent waits for its children: what was seen of them may be more than what was waited for.
        family = max(_own() - own, sum(spent.values()))
        others = max(0.0, _busy() - busy - family) / span
        lines = [line for line in output.splitlines() if line.startswith('{"system"')]
        if process.returncode or not lines:
            errors.seek(0)
            said = [line for line in errors.read().splitlines() if line.strip()]
            raise FailedError(f"code {process.returncode}: {said[-1][:200] if said else 'nothing said'}")
    return Measured(json.loads(lines[-1]), peak[0], others)


def _watch(peak: list[float], spent: dict[int, float], over: threading.Event) -> None:
    """Note the most memory (PSS, megabytes) that the family has held at once, and the seconds that each has `spent`."""
    while True:
        begun = time.monotonic()
        pids = descendants()
        peak[0] = max(peak[0], sum(map(_pss, pids)))
        spent.update((pid, seconds) for pid in pids if (seconds := _spent(pid)))
        if over.wait(max(PERIOD, 20 * (time.monotonic() - begun))):
            return


def descendants() -> list[int]:
    """Return the ids of all processes that descend from this one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue  # it has ended meanwhile
            children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _pss(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def _spent(pid: int) -> float:
    """Return the processor seconds of a process by itself."""
    try:
        user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    except OSError:
        return 0.0
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _end(process: subprocess.Popen[str]) -> None:
    """End what is left of the family, and wait for all of it."""
    end = time.monotonic() + 5.0
    while process.poll() is not None and descendants() and time.monotonic() < end:
        _reap()
        time.sleep(0.05)
    while left := descendants():
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.poll()
        _reap()
        time.sleep(0.05)
    process.wait()


def _reap() -> None:
    """Wait for those that have ended, the process itself, which `subprocess` waits for, being over."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _busy() -> float:
    """Return the seconds that all cores have been at work since the machine started."""
    user, nice, system, _, _, interrupts, soft, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Return the processor seconds of this process and of those that it has waited for, and they for theirs."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)
