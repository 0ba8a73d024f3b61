"""The embedded broker: mosquitto where it is installed, else amqtt, as a child that dies with its parent.

The child is `broker_process`, which holds the other end of a pipe; when the pipe ends, however that
comes about, the broker ends. Port and passwords stay in the directory, so that a restart finds the fleet.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from fedthings.errors import SpecError, StoreError, TransportError
from fedthings.server.access import Access
from fedthings.server.tls import mutual
from fedthings.transport.topics import COORDINATOR, ROOT, check_root

Kind = Literal["mosquitto", "amqtt"]
KINDS: tuple[Kind, ...] = ("mosquitto", "amqtt")
_READY = 15.0  # seconds until the broker must listen
_FREED = 3.0  # seconds that the broker of a killed parent may still hold the port
_RESTARTS = 5  # times in a row that a broker is started again before its owner gives up


class Broker:
    """A running broker; make one with `Broker.start`. A context manager that stops it."""

    def __init__(self, access: Access, kind: Kind, on_end: Callable[[], None]) -> None:
        self.access = access
        self.kind = kind
        self._on_end = on_end
        self._process = self._launched()

    @classmethod
    def start(
        cls,
        directory: str | Path,
        port: int = 0,
        passwords: Mapping[str, str] | None = None,
        prefer: Kind | None = None,
        *,
        host: str = "",
        root: str = "",
        home: Path | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> Broker:
        """Start a broker, and wait until it listens; `on_end` is called, from a thread, whenever it ends.

        `port` 0 is the one in `directory/broker.json`, or a free one, and `host` "" and `root` "" the ones
        there, or 127.0.0.1 and "ft". `passwords` are of those who are let in beside the coordinator, None: as
        there (see `Access.admit`). `home` is whose TLS files it has, unless its own.
        Raises TransportError where the port is taken, StoreError, SpecError.
        """
        directory = Path(directory).absolute()
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StoreError(f"cannot make {directory}: {error.strerror}") from error
        access = Access(directory)
        again = access.port != 0 and port in (0, access.port)
        access.host = host or access.host
        access.root = check_root(root or access.root or ROOT)
        access.home = home or directory
        access.admit(access.passwords if passwords is None else passwords)
        access.port = port or access.port or _free(access.host)
        _wait_free(access.host, access.port, _FREED if again else 0.0)
        access.write()
        kind = _choose(prefer)
        if kind == "amqtt" and mutual(access.home):
            raise SpecError("the amqtt broker asks nobody for a certificate: install mosquitto, or leave --client out")
        return cls(access, kind, on_end)

    def restart(self, on_news: Callable[[str], None]) -> None:
        """Start it again after it has died; it may be killed while it starts, too. Raises TransportError."""
        on_news("the broker has died: starting it again")
        for left in reversed(range(_RESTARTS)):
            try:
                _wait_free(self.access.host, self.access.port, _FREED)
                self._process = self._launched()
                return
            except TransportError as error:
                if not left:
                    raise
                on_news(f"{error}; trying again")

    def _launched(self) -> subprocess.Popen[bytes]:
        """Return a process that listens. Raises TransportError."""
        directory = str(self.access.directory)
        process = subprocess.Popen(
            [sys.executable, "-m", "fedthings.server.broker_process", self.kind, str(os.getpid()), directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C ends the coordinator first, and the broker with it
        )
        try:
            self._wait_ready(process)
        except BaseException:
            _end(process)
            raise

        def watch() -> None:  # nothing polls
            process.wait()
            self._on_end()

        threading.Thread(target=watch, name="broker", daemon=True).start()
        return process

    @property
    def port(self) -> int:
        """The TCP port."""
        return self.access.port

    @property
    def alive(self) -> bool:
        """Whether the broker's process runs."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of the process that holds the broker."""
        return self._process.pid

    def url(self, name: str = COORDINATOR, host: str = "") -> str:
        """Return the URL with which `name` links, password included; `host` as it is called from there.

        Raises KeyError where `name` has no password.
        """
        own = "127.0.0.1" if self.access.host in ("0.0.0.0", "::") else self.access.host
        shown = host or own
        shown = f"[{shown}]" if ":" in shown else shown
        scheme = "mqtts" if self.access.tls else "mqtt"
        return f"{scheme}://{quote(name)}:{quote(self.access.passwords[name], safe='')}@{shown}:{self.port}"

    def admit(self, passwords: Mapping[str, str]) -> None:
        """Let in these users, and the coordinator, and nobody else from now on, as `Access.admit`."""
        before = self.access.passwords
        self.access.admit(passwords)
        if self.access.passwords != before:
            self.access.write()
            self._tell(b"reload\n")

    def stop(self) -> None:
        """End the broker; returns when its port is free, within some seconds."""
        _end(self._process)

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _tell(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise TransportError(f"the broker has ended: see {self.access.directory / 'broker.log'}") from None

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Return when the broker listens. Only the start waits like this: nobody can tell us."""
        end = time.monotonic() + _READY
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.access.host, self.access.host)
        log = self.access.directory / "broker.log"
        while time.monotonic() < end:
            if process.poll() is not None:
                raise TransportError(f"the {self.kind} broker did not start: see {log}")
            with contextlib.suppress(OSError), socket.create_connection((host, self.port), 1.0):
                return
            time.sleep(0.02)
        raise TransportError(f"the {self.kind} broker does not listen after {_READY:g} seconds: see {log}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()  # mosquitto dies with it (PR_SET_PDEATHSIG)
        process.wait(5)


def mosquitto() -> str | None:
    """Return the path of mosquitto, or None; Debian puts it where only root's PATH looks."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def _choose(prefer: Kind | None) -> Kind:
    """Return which broker there is. Raises TransportError with what to install."""
    if prefer != "amqtt" and mosquitto():
        return "mosquitto"
    if prefer != "mosquitto" and find_spec("amqtt"):
        return "amqtt"
    remedy = "install mosquitto, or `pip install fedthings[server]`, or name another with --broker URL"
    raise TransportError(f"there is no {prefer or 'MQTT'} broker here: {remedy}")


def _free(host: str) -> int:
    with _bound(host, 0) as probe:
        port: int = probe.getsockname()[1]
        return port


def _wait_free(host: str, port: int, patience: float) -> None:
    """Return when `port` can be bound. Raises TransportError after `patience` seconds."""
    end = time.monotonic() + patience
    while True:
        try:
            _bound(host, port).close()
            return
        except PermissionError:
            raise TransportError(f"port {port} needs rights that you lack: name one above 1023") from None
        except OSError as error:
            if time.monotonic() > end:
                remedy = "stop what listens there, or name another with --port"
                raise TransportError(f"port {port} is taken on {host} ({error.strerror}): {remedy}") from None
            time.sleep(0.05)


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    probe = socket.socket(family, socket.SOCK_STREAM)
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
    except socket.gaierror:
        probe.close()
        raise TransportError(f"host {host!r} is none of this machine's: use 127.0.0.1 or 0.0.0.0") from None
    except OSError:
        probe.close()
        raise
    return probe
