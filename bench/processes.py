"""A federation of real processes for a bench: a broker, `fedthings serve` and N times `fedthings join`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is there, as in the commands

import numpy as np

import fedthings as ft
from fedthings.identity import passwords, tokens
from fedthings.identity.keys import held, key_id, public_of
from fedthings.server import devices
from fedthings.server.broker import Broker, Kind
from fedthings.server.roll import Roll
from fedthings.server.store import Store

PATIENCE = 300.0
"""Seconds after which a bench gives up."""


class Processes:
    """A fleet in `directory`; every process ends with the `with` block. `start` and `join` are separate steps."""

    def __init__(self, directory: Path, broker: Kind, federation: ft.Federation, rounds: int) -> None:
        self.directory = directory
        self.rounds = rounds
        self.run = directory / "run"
        self.names = [f"device{i}" for i in range(federation.devices or federation.pace.goal)]
        self.devices: dict[str, subprocess.Popen[str]] = {}
        self.coordinator: subprocess.Popen[str] | None = None
        self._log = (directory / "log").open("w")
        (directory / "federation.toml").write_text(ft.dumps(federation))
        words = dict.fromkeys(self.names, "")
        self.broker = Broker.start(directory / "broker", passwords=words, prefer=broker)
        self.tokens = dict(zip(self.names, devices.enrol(self.run, self.names), strict=True))

    def serve(self, *more: str, profile: str = "") -> subprocess.Popen[str]:
        """Start the coordinator; `profile` is a file for what cProfile finds in its main thread."""
        words = ["serve", str(self.directory / "federation.toml"), "--rounds", str(self.rounds)]
        words += ["--out", str(self.run), "--broker", self.broker.url(), *more]
        self.coordinator = self._start(*words, python=("-m", "cProfile", "-o", profile) if profile else ())
        return self.coordinator

    def join(self, name: str, data: Path, url: str = "", once: bool = True) -> subprocess.Popen[str]:
        """Start one device, which ends with the federation unless not `once`."""
        words = ["join", "--broker", url or self.broker.url(name), "--token", str(self.tokens[name])]
        words += ["--data", str(data)]
        self.devices[name] = self._start(*words, "--state", str(self.directory / name), *once * ("--once",))
        return self.devices[name]

    def keys(self, count: int = 0) -> dict[str, bytes]:
        """Enrol keys of devices that this process plays, before the coordinator starts; return the private ones."""
        found = {name: os.urandom(32) for name in self.names[: count or None]}
        store = Store(self.run)
        for name, key in found.items():
            token = tokens.read(self.tokens[name])
            enrol = tokens.presented(token, name, public_of(key), passwords.hashed(self.broker.access.passwords[name]))
            Roll(store).enrol(name, enrol)
        store.close()
        return found

    @property
    def pinned(self) -> dict[bytes, bytes]:
        """The coordinator's public key, as devices pin it."""
        public = public_of(held(self.run / devices.KEY_FILE))
        return {key_id(public): public}

    def _start(self, *words: str, python: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = [sys.executable, *python, "-m", "fedthings", *words]
        log: IO[str] = self._log
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The versions that are complete."""
        path = self.run / "history.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait(self) -> list[dict[str, Any]]:
        """Return the history when the coordinator has ended. Raises RuntimeError where it failed."""
        assert self.coordinator is not None
        if self.coordinator.wait(PATIENCE) != 0:
            raise RuntimeError(f"the coordinator failed: {(self.directory / 'log').read_text()[-2000:]}")
        return self.history

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        started = [p for p in (self.coordinator, *self.devices.values()) if p is not None]
        for process in started:
            process.kill()
        for process in started:
            process.wait()
        self.broker.stop()
        self._log.close()


def until(true: Any, what: str, patience: float = PATIENCE) -> None:
    """Return when `true()` is. Raises TimeoutError."""
    end = time.monotonic() + patience
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come about within {patience:g} seconds")
        time.sleep(0.02)


def memory(pid: int) -> dict[str, float]:
    """Return megabytes (10**6 bytes) of a process: "rss", "peak" (of the RSS so far) and "pss"."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    smaps = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    fields = {"rss": status["VmRSS"], "peak": status["VmHWM"], "pss": smaps["Pss"]}
    return {name: int(value.split()[0]) * 1024 / 1e6 for name, value in fields.items()}


def cpu(pid: int) -> float:
    """Return the seconds of processor time that a process has used, all its threads together."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def rows(path: Path, features: int, classes: int, samples: int = 32, seed: int = 0) -> Path:
    """Write a device's data file of random rows, a few of them for testing."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(samples, features)).astype(np.float32)
    y = random.integers(0, classes, samples)
    np.savez(path, X=X, y=y, split=(np.arange(samples) % 8 == 7).astype(np.int64))
    return path
