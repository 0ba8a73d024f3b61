"""The main job on one machine: a broker, a coordinator, and a process for each device, over real sockets."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from fedthings.errors import DataError, FedthingsError
from fedthings.federation import Federation
from fedthings.learn.fleet import Fleet
from fedthings.learn.model import dense, flatten, mlp, sequential
from fedthings.learn.task import Recipe, Task
from fedthings.lifeline import Ending
from fedthings.protocol.pace import Pace
from fedthings.run import Run, prepare
from fedthings.server import certificates, devices
from fedthings.server.serve import Server
from fedthings.server.serving import Terms
from fedthings.strategy import fedavg, fedavgm

HIDDEN = 64
"""Units of the hidden layer of the model that is made for a user's own data."""


class View(Protocol):
    """What shows the demo to a person."""

    def version(self, line: Mapping[str, Any]) -> None:
        """A line of the history is complete."""

    def news(self, text: str) -> None:
        """Something happened that a person should know."""

    def step(self, server: Server) -> None:
        """Something has arrived."""


# ------------------------------------------------------------------- what is trained


def for_digits(count: int, seed: int, patience: float) -> Federation:
    """Return the federation that learns to read digits; every device works on every version."""
    recipe = Recipe(optimizer="sgd", lr=0.3, batch=8, epochs=3)
    return Federation(
        task=Task(model=mlp(64, 32, 10), loss="cross_entropy", recipe=recipe),
        strategy=fedavg(),
        pace=Pace(goal=count, concurrency=count, patience=patience),
        seed=seed,
        name="digits",
        devices=count,
    )


def for_data(fleet: Fleet, count: int, seed: int, patience: float, name: str) -> Federation:
    """Return a federation for a user's own fleet: whole numbers are classes, others a quantity to predict.

    Raises DataError.
    """
    shards = [fleet.shard(device) for device in fleet.names]
    y = np.concatenate([part for shard in shards for part in (shard.y, shard.test_y)])
    shape = shards[0].X.shape[1:]
    if y.dtype.kind in "iu":
        if y.min() < 0:
            raise DataError(f"y has the label {y.min()}: number the classes from 0")
        outputs, loss, recipe, strategy = int(y.max()) + 1, "cross_entropy", Recipe(lr=0.1, batch=32), fedavgm()
    else:
        # Adam's steps do not grow with the unit in which y is given.
        outputs, loss, strategy = int(np.prod(y.shape[1:])), "mse", fedavg()
        recipe = Recipe(optimizer="adam", lr=0.01, batch=32)
    model = (
        mlp(shape[0], HIDDEN, outputs)
        if len(shape) == 1
        else sequential(shape, flatten(), dense(HIDDEN, "relu"), dense(outputs))
    )
    return Federation(
        task=Task(model=model, loss=loss, normalise="fleet", recipe=recipe),
        strategy=strategy,
        pace=Pace(goal=count, concurrency=count, patience=patience),
        seed=seed,
        name=re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:32].strip("-") or "demo",
        devices=count,
    )


# -------------------------------------------------------------------- its processes


class Processes:
    """The device processes; none is left when the context ends, and none outlives this process.

    `on_end` is called, from another thread, when one has ended.
    """

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(0.0 if kind else 2.0)

    def __len__(self) -> int:
        return len(self._running)

    def start(self, name: str, arguments: list[str], log: Path) -> None:
        """Start `fedthings join` with `arguments` for device `name`; what it says goes to `log`."""
        command = [sys.executable, "-m", "fedthings", "join", *arguments, "--parent", str(os.getpid())]
        with log.open("ab") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C is for us; we end the devices in order
            )
        self._running[name] = process
        threading.Thread(target=self._wait, args=(process,), name=name, daemon=True).start()

    def ended(self) -> list[tuple[str, int]]:
        """Return the devices that have ended since this was last asked, with their exit codes."""
        codes = [(name, process.poll()) for name, process in self._running.items()]
        found = [(name, code) for name, code in codes if code is not None]
        for name, _ in found:
            del self._running[name]
        return found

    def stop(self, patience: float) -> None:
        """Give them `patience` seconds to end by themselves, then tell them to, then kill them."""
        self._await(patience)
        for process in self._running.values():
            process.terminate()
        self._await(3.0)
        for process in self._running.values():
            process.kill()
        self._await(3.0)

    def _await(self, patience: float) -> None:
        end = time.monotonic() + patience
        for name, process in list(self._running.items()):
            try:
                process.wait(max(0.0, end - time.monotonic()))
                del self._running[name]
            except subprocess.TimeoutExpired:
                pass

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._on_end()


# -------------------------------------------------------------------------- the job


def demo(
    federation: Federation,
    fleet: Fleet,
    rounds: int,
    directory: Path,
    view: View,
    ending: Ending,
    broker: str = "",
    tls: bool = False,
) -> Run | None:
    """Train `federation` for `rounds` versions, each participant of `fleet` in a process with its own file.

    `broker` is "mosquitto" or "amqtt", or "" for what there is; with `tls` all goes over TLS.
    Returns None where `ending` came first: the
    same call with the same directory goes on.
    Raises FedthingsError.
    """
    names = list(fleet.names[: federation.devices])
    prepare(directory, federation)  # before anything of another run there is overwritten
    files = fleet.write(directory / "data")
    if tls:
        certificates.make(directory)
    tokens = _tokens(directory, names)
    with (
        Server(
            [Terms(federation, rounds, on_version=view.version)], directory, broker=broker, on_news=view.news
        ) as server,
        Processes(server.wake) as processes,
    ):
        ending.attach(server.wake)
        url = f"{'mqtts' if server.address.tls else 'mqtt'}://{server.address}"
        if not server.service.done:
            for name in names:
                state = directory / "devices" / name
                state.mkdir(parents=True, exist_ok=True, mode=0o700)
                arguments = [
                    "--name",
                    name,
                    "--broker",
                    url,
                    "--root",
                    server.root,
                    "--token",
                    str(tokens[name]),
                    "--once",
                ]
                arguments += ["--data", str(files[name]), "--state", str(state)]
                processes.start(name, arguments, state / "log")

        def step() -> None:
            _look(processes, server, view)
            view.step(server)

        runs = server.run(ending, on_step=step)
        if runs is None:
            processes.stop(0.0)
            return None
        return runs[0]


def _tokens(directory: Path, names: list[str]) -> dict[str, Path]:
    """Return where the token of each device lies; those that have one keep it."""
    known = {device["name"] for device in devices.listed(directory)} if directory.is_dir() else set()
    lost = [name for name in names if name in known and not devices.token_file(directory, name).is_file()]
    if lost:
        devices.enrol(directory, lost, again=True)
    new = [name for name in names if name not in known]
    if new:
        devices.enrol(directory, new)
    return {name: devices.token_file(directory, name) for name in names}


def _look(processes: Processes, server: Server, view: View) -> None:
    """Say which devices have ended before their time. Raises FedthingsError when none is left."""
    ended = processes.ended()
    if server.service.done:
        return
    for name, code in ended:
        log = server.directory / "devices" / name / "log"
        why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}: {last_line(log)}"
        seconds = server.service.engine.federation.pace.patience
        waits = f"the others wait {seconds:g} s for its report and {seconds:g} s for its return, then go on"
        view.news(f"{name} has ended ({why}): {waits}")
    if ended and not len(processes):
        name = ended[0][0]
        raise FedthingsError(
            f"every device process has ended; the last words of {name}: "
            f"{last_line(server.directory / 'devices' / name / 'log')}"
        )


def last_line(log: Path) -> str:
    """Return the last line of a device's log."""
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return lines[-1] if lines else "nothing was said"
