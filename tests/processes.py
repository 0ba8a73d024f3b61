"""A federation of real processes on this machine: `fedthings serve`, its broker, and a `fedthings join` a device."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

import fedthings as ft
from fedthings.device.enrolment import enrol
from fedthings.device.identity import Identity
from fedthings.federation import dumps
from fedthings.identity import tokens
from fedthings.identity.seal import DeviceSeal
from fedthings.lifeline import Ending
from fedthings.server import devices
from fedthings.transport.link import with_login

PYTHON = [sys.executable, "-m", "fedthings"]
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class Processes:
    """`with Processes(...) as world: world.start(); world.wait()`; every process is ended at the end."""

    def __init__(
        self,
        federation: ft.Federation | Sequence[ft.Federation],
        fleet: ft.Fleet,
        rounds: int,
        directory: Path,
        broker: str,
        *options: str,
    ) -> None:
        self.directory, self.out = directory, directory / "run"
        self.rounds, self.broker, self.options = rounds, broker, options
        self.files: Mapping[str, Path] = fleet.write(directory / "data")
        self.names = fleet.names
        directory.mkdir(exist_ok=True)
        several = [] if isinstance(federation, ft.Federation) else list(federation)
        self.specs = {directory / f"{spec.name}.toml": spec for spec in several} or {directory / "fed.toml": federation}
        for file, spec in self.specs.items():
            file.write_text(dumps(spec))
        self.runs = [self.out / spec.name for spec in several] or [self.out]
        self.out.mkdir()
        self.tokens = dict(zip(fleet.names, devices.enrol(self.out, fleet.names), strict=True))
        self.words: Mapping[str, str] = {}  # passwords of a broker that is not the coordinator's
        self.served: subprocess.Popen[bytes] | None = None
        self.joined: dict[str, subprocess.Popen[bytes]] = {}
        self.allow = ""  # a model that is Python code, which the devices' owners let in
        self.ports: Mapping[str, int] = {}  # where devices find the broker that do not reach it directly

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        mine = [process for process in (self.served, *self.joined.values()) if process is not None]
        for process in mine:
            if process.poll() is None:
                process.kill()
            process.wait()

    def start(self) -> None:
        """Start the coordinator, then every device."""
        self.serve()
        for name in self.names:
            self.join(name)

    def serve(self) -> subprocess.Popen[bytes]:
        """Start the coordinator, or start it again, and wait until it can be joined."""
        command = [*PYTHON, "serve", *map(str, self.specs), "--rounds", str(self.rounds)]
        command += ["--out", str(self.out), "--broker", self.broker, *self.options, "--json"]
        log = (self.directory / "serve.log").open("ab")
        out = (self.directory / "serve.out").open("wb")
        self.served = subprocess.Popen(command, stdout=out, stderr=log, env=ENVIRONMENT)
        log.close()
        out.close()
        end = time.monotonic() + 30
        while not self._listens():
            assert time.monotonic() < end and self.served.poll() is None, (self.directory / "serve.log").read_text()
            time.sleep(0.02)
        return self.served

    @property
    def port(self) -> int:
        """Where the broker listens."""
        port: int = json.loads((self.out / "broker.json").read_text())["port"]
        return port

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def join(self, name: str, *more: str) -> subprocess.Popen[bytes]:
        """Start the device `name` with `more` options, or start it again with its state."""
        port = self.ports.get(name) or self.port
        command = [*PYTHON, "join", "--broker", f"mqtt://127.0.0.1:{port}", "--token", str(self.tokens[name]), "--once"]
        command += ["--reconnect", "0.3", *more]
        command += ["--data", str(self.files[name]), "--state", str(self.directory / "state" / name)]
        command += ["--allow", self.allow] if self.allow else []
        log = (self.directory / f"{name}.log").open("ab")
        environment = {**ENVIRONMENT, **({"FEDTHINGS_PASSWORD": self.words[name]} if self.words else {})}
        self.joined[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        log.close()
        return self.joined[name]

    def enrolled(self, name: str, port: int = 0) -> tuple[str, DeviceSeal]:
        """Enrol `name`, which the test plays itself; return its broker's URL with its login, and its seal."""
        return enrolled(name, self.tokens[name], self.directory / "state" / name, port or self.port)

    def kill(self, who: subprocess.Popen[bytes]) -> None:
        """kill -9."""
        who.send_signal(signal.SIGKILL)
        who.wait()

    def broker_processes(self) -> list[psutil.Process]:
        """Return the broker's processes: the wrapper, and mosquitto below it."""
        assert self.served is not None
        try:
            return psutil.Process(self.served.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def wait(self, seconds: float = 240.0) -> dict[str, Any]:
        """Wait for the end and return the summary."""
        assert self.served is not None
        end = time.monotonic() + seconds
        while (code := self.served.poll()) is None:
            dead = [name for name, process in self.joined.items() if process.poll() not in (None, 0)]
            assert not dead, f"{dead[0]}: {(self.directory / f'{dead[0]}.log').read_text()[-2000:]}"
            assert time.monotonic() < end, (self.directory / "serve.log").read_text()[-2000:]
            time.sleep(0.05)
        assert code == 0, (self.directory / "serve.log").read_text()[-3000:]
        for name, process in self.joined.items():
            assert process.wait(30) == 0, f"{name}: {(self.directory / f'{name}.log').read_text()[-2000:]}"
        return json.loads((self.directory / "serve.out").read_text().splitlines()[-1])

    def versions(self) -> int:
        """Return how many lines of history are on the disk, of the federation that has fewest."""
        files = [run / "history.jsonl" for run in self.runs]
        return min(len(file.read_text().splitlines()) if file.exists() else 0 for file in files)


def enrolled(name: str, token: Path, state: Path, port: int) -> tuple[str, DeviceSeal]:
    """Enrol `name` with the coordinator whose broker has this `port`; return the URL with its login, and its seal."""
    identity = Identity(state, name, [tokens.read(token)])
    url = f"mqtt://127.0.0.1:{port}"
    enrol(identity, identity.standings[0], url, "ft", Ending())
    password, end = identity.standings[0].password, time.monotonic() + 20
    while not lets_in(port, name, password):  # only just enrolled: the broker is told of it
        assert time.monotonic() < end, f"the broker does not let {name} in"
        time.sleep(0.05)
    return with_login(url, name, password), identity.seal()


def lets_in(port: int, user: str, password: str) -> bool:
    """Return whether the broker takes this login (MQTT 3.1.1, section 3.1)."""
    words = [word.encode() for word in ("looks", user, password)]
    body = b"\0\4MQTT\4\xc2\0\x3c" + b"".join(len(word).to_bytes(2, "big") + word for word in words)
    with socket.create_connection(("127.0.0.1", port), 5) as link:
        link.settimeout(5)
        link.sendall(bytes([0x10, len(body) & 127 | 128, len(body) >> 7]) + body)
        return link.recv(4)[3:] == b"\0"
