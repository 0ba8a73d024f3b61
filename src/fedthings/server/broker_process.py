"""The process that is, or holds, the embedded broker: `python -m ... KIND PARENT DIRECTORY`.

It ends when its standard input ends or its parent dies, and takes mosquitto with it, whatever kills it.
No password is on any command line or in `broker.log`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from fedthings.lifeline import death_signal, die_with
from fedthings.server.access import Access
from fedthings.server.broker import mosquitto


def main(kind: str, parent: int, directory: Path) -> int:
    """Run the broker until standard input ends; return its exit code."""
    log = os.open(directory / "broker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    die_with(parent)
    access = Access(directory)
    if kind == "amqtt":
        from fedthings.server import amqtt_broker

        _watch(lambda: None, lambda: os._exit(0))
        amqtt_broker.run(access)
        return 1
    return _mosquitto(access)


def _mosquitto(access: Access) -> int:
    conf = access.directory / "broker.conf"
    conf.write_text(configuration(access))
    program = mosquitto()
    assert program is not None
    child = subprocess.Popen(
        [program, "-c", str(conf)],
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: death_signal(signal.SIGKILL),  # this process has one thread yet
    )
    _watch(lambda: child.send_signal(signal.SIGHUP), child.terminate)
    return child.wait()


def configuration(access: Access) -> str:
    """Return mosquitto.conf(5): our users and rules, nothing on disk, no queue that loses silently."""
    lines = [
        f"listener {access.port} {access.host}",
        *access.tls,
        "allow_anonymous false",
        f"password_file {access.hashes}",
        f"acl_file {access.rules}",
        "persistence false",
        "set_tcp_nodelay true",
        "max_queued_messages 1000000",  # 0, for no limit, makes 2.0 cut whoever publishes what it may not
        "max_inflight_messages 64",
        "max_packet_size 2097152",
        "sys_interval 0",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "connection_messages false",
    ]
    if os.geteuid() == 0:
        lines.append("user root")  # else it becomes a user who may not read our files
    return "\n".join(lines) + "\n"


def _watch(reload: Callable[[], None], end: Callable[[], None]) -> None:
    """Read standard input in a thread: "reload" lines, and its end, with which all ends."""

    def read() -> None:
        for line in sys.stdin.buffer:
            if line == b"reload\n":
                reload()
        end()

    threading.Thread(target=read, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
