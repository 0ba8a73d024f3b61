"""A federation of real processes with gateways between: `fedthings gateway`, each with a broker of its own below."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from fedthings.server import devices
from processes import ENVIRONMENT, PYTHON, Processes


class Gated(Processes):
    """Processes with gateways: `under` names them and what each is under, "" for the coordinator."""

    def __init__(self, federation, fleet, rounds: int, directory: Path, under: dict[str, str], *options: str) -> None:
        top = [name for name, above in under.items() if not above]
        gates = [word for name in top for word in ("--gateway", name) if not fleet.edges]
        super().__init__(federation, fleet, rounds, directory, "mosquitto", *options, *gates)
        self.under: dict[str, str] = under
        self.gates: dict[str, subprocess.Popen[bytes]] = {}
        self.tokens |= dict(zip(top, devices.enrol(self.out, top), strict=True))
        leaves = [name for name in under if name not in under.values()]
        self.homes = {name: leaves[i % len(leaves)] for i, name in enumerate(fleet.names)}
        self.homes |= {name: edge for edge, names in fleet.edges.items() for name in names}
        mine = {name: fleet.edges.get(name, fleet.names) for name in under}  # an edge waits for those on its list
        self.given = {name: self.let_in(name, [*mine[name], *self.below(name)]) for name in under}

    def let_in(self, gate: str, names: Sequence[str]) -> dict[str, Path]:
        """Return the tokens of those under a gateway."""
        return dict(zip(names, devices.enrol(self.place(gate), names), strict=True))

    def place(self, name: str) -> Path:
        return self.directory / "gateways" / name

    def below(self, name: str) -> list[str]:
        return [below for below, above in self.under.items() if above == name]

    def start(self) -> None:
        self.serve()
        for name in self.under:
            self.gate(name)
        for name in self.names:
            self.join(name)

    def gate(self, name: str) -> subprocess.Popen[bytes]:
        """Start a gateway, or start it again, and wait until it can be joined."""
        above = self.under[name]
        port = self.port_of(above) if above else self.port
        token = self.given[above][name] if above else self.tokens[name]
        command = [*PYTHON, "gateway", "--broker", f"mqtt://127.0.0.1:{port}", "--reconnect", "0.3"]
        command += ["--token", str(token)]
        command += ["--out", str(self.place(name)), "--below", "mosquitto", "--once", "--json"]
        command += [word for below in self.below(name) for word in ("--gateway", below)]
        with (self.directory / f"{name}.log").open("ab") as log, (self.directory / f"{name}.out").open("wb") as out:
            self.gates[name] = subprocess.Popen(command, stdout=out, stderr=log, env=ENVIRONMENT)
        end = time.monotonic() + 30
        while not (self.place(name) / "serve.json").exists():
            assert self.gates[name].poll() is None and time.monotonic() < end, self.log(name)
            time.sleep(0.02)
        return self.gates[name]

    def port_of(self, name: str) -> int:
        return json.loads((self.place(name) / "broker.json").read_text())["port"]

    def join(self, name: str, *more: str):
        home = self.homes[name]
        self.ports = {**self.ports, name: self.port_of(home)}
        self.tokens[name] = self.given[home][name]
        return super().join(name, *more)

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()[-3000:]

    def __exit__(self, *error: object) -> None:
        for process in self.gates.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        super().__exit__(*error)

    def passed(self) -> dict[str, dict]:
        """Wait for the gateways to end, and return what each has done."""
        found = {}
        for name, process in self.gates.items():
            assert process.wait(30) == 0, self.log(name)
            found[name] = json.loads((self.directory / f"{name}.out").read_text().splitlines()[-1])
        return found

    def until(self, version: int) -> None:
        end = time.monotonic() + 120
        while self.versions() < version:
            assert self.served.poll() is None and time.monotonic() < end, self.log("serve")
            time.sleep(0.005)
