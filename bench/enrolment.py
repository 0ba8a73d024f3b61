"""Enrolment of a whole fleet in a batch, over real MQTT; what signing and checking a message costs.

Each device makes a key, links with its token as any device does, shows both, and has its answer, signed by the
coordinator, who has told its broker. The devices are in this process (bench/light.py); then each links as itself.

python bench/enrolment.py [--devices 10000] [--at-once 200]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fedthings as ft
import light
from fedthings.identity import passwords, tokens
from fedthings.identity.keys import fingerprint, held, key_id, public_of
from fedthings.identity.links import Links
from fedthings.identity.seal import CoordinatorSeal, DeviceSeal, Known
from fedthings.identity.tokens import Token
from fedthings.messages import Enrolled, Hello
from fedthings.server import devices
from fedthings.transport import topics
from fedthings.transport.link import with_login
from light import Connection, Trusting
from processes import cpu, until
from table import table


class Newcomer:
    """A device that enrols: `linked` to do so, and once more as itself."""

    def __init__(self, name: str, token: Token) -> None:
        self.name, self.token, self.password = name, token, passwords.drawn()
        self.key = os.urandom(32)
        self.seal = Trusting(self.key, Links(), {key_id(token.pinned): token.pinned})
        self.enrolled = asyncio.get_running_loop().create_future()

    async def enrol(self, url: str) -> None:
        """Show the token, and return when the key is enrolled."""
        token = self.token
        own = topics.sent("ft", token.id)
        self.seal.link()
        at = with_login(url, token.id, token.password)
        guest = fingerprint(public_of(self.key))
        reads = [topics.to("ft", f"{token.id}/{guest}")]
        link = await Connection.link(f"ft-{token.id}-{guest}", at, reads, self._came)
        enrol = tokens.presented(token, self.name, public_of(self.key), passwords.hashed(self.password))
        link.publish(own, self.seal.close(own, enrol, ""))
        await self.enrolled
        link.close()

    async def join(self, url: str) -> None:
        """Link as itself."""
        at = with_login(url, self.name, self.password)
        self.link = await Connection.link(f"ft-{self.name}", at, [topics.to("ft", self.name)], lambda topic, data: None)

    def _came(self, topic: str, payload: bytes) -> None:
        _, message = self.seal.open(topic, payload)
        assert isinstance(message, Enrolled) and message.name == self.name and message.standing == "enrolled", message
        self.enrolled.set_result(None)


async def all_of_them(newcomers: list[Newcomer], step: Callable[[Newcomer], object], at_once: int) -> float:
    """Do `step` for all, some `at_once`; return the seconds."""
    turn, begun = asyncio.Semaphore(at_once), time.perf_counter()

    async def one(newcomer: Newcomer) -> None:
        async with turn:
            await step(newcomer)  # type: ignore[misc]

    await asyncio.gather(*map(one, newcomers))
    return time.perf_counter() - begun


def batch(count: int, at_once: int, one_token: bool) -> list[list[str]]:
    """Enrol `count` devices with a coordinator of their own; return the lines of the table."""
    names = [f"device{i}" for i in range(count)]
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        begun = time.perf_counter()
        files = devices.enrol(run, count=count) if one_token else devices.enrol(run, names)
        made = time.perf_counter() - begun
        given = [tokens.read(file) for file in files] * (count if one_token else 1)
        task = ft.Task(model=ft.mlp(4, 2), loss="cross_entropy")
        (Path(name) / "fed.toml").write_text(ft.dumps(ft.Federation(task, pace=ft.Pace(goal=1), devices=count + 1)))
        words = ["serve", str(Path(name) / "fed.toml"), "--out", str(run), "--broker", "mosquitto"]
        with (Path(name) / "log").open("w") as log:
            coordinator = subprocess.Popen([sys.executable, "-m", "fedthings", *words], stdout=log, stderr=log)
        try:
            until(lambda: "devices join with" in (Path(name) / "log").read_text(), "the coordinator")
            url = f"mqtt://127.0.0.1:{json.loads((run / 'broker.json').read_text())['port']}"

            async def go() -> tuple[float, float]:
                newcomers = [Newcomer(*pair) for pair in zip(names, given, strict=True)]
                took = await all_of_them(newcomers, lambda newcomer: newcomer.enrol(url), at_once)
                await asyncio.sleep(1.0)  # the broker reads its files
                return took, await all_of_them(newcomers, lambda newcomer: newcomer.join(url), at_once)

            used = cpu(coordinator.pid)
            took, linked = asyncio.run(go())
            used = cpu(coordinator.pid) - used
        finally:
            coordinator.terminate()
            coordinator.wait(60)
        states = [device["state"] for device in devices.listed(run)]
    assert states == ["enrolled"] * count
    how = "one token for all" if one_token else "a token each"
    return [
        [f"{count} tokens made and written" if not one_token else "one token made", f"{made:.1f} s", ""],
        [f"{count} devices enrolled, {how}", f"{took:.1f} s", "<= 60 s"],
        ["of this the coordinator's processor time", f"{used:.1f} s", ""],
        ["then linked as themselves", f"{linked:.1f} s", ""],
    ]


def signatures(repeat: int = 2000) -> list[list[str]]:
    """Return what one message costs: signed, and checked."""
    with tempfile.TemporaryDirectory() as name:
        key, other = held(Path(name) / "a"), held(Path(name) / "b")
    coordinator = CoordinatorSeal(other, Links(), Known({"device": public_of(key)}))
    device = DeviceSeal(key, Links(), {})
    coordinator.link(), device.link()
    device._answers = lambda topic, federation: 1  # type: ignore[method-assign] # it has heard the announcement
    topic = topics.sent("ft", "device")
    begun = time.process_time()
    said = [device.close(topic, Hello("boot"), "fed") for _ in range(repeat)]
    signed = time.process_time() - begun
    begun = time.process_time()
    for data in said:
        coordinator.open(topic, data)
    checked = time.process_time() - begun
    return [
        ["packing and signing a message", f"{1e6 * signed / repeat:.0f} us", ""],
        ["checking and unpacking it", f"{1e6 * checked / repeat:.0f} us", ""],
        ["bytes of a Hello, of which signature and header", f"{len(said[0])}, {len(said[0]) - 36}", ""],
    ]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=10000)
    parser.add_argument("--at-once", type=int, default=200)
    options = parser.parse_args()
    most = light.open_files()
    assert most > options.devices + 100, f"ulimit -Hn is {most}: raise it"
    load = os.getloadavg()[0]
    lines = signatures() + batch(options.devices, options.at_once, True)
    lines += batch(options.devices, options.at_once, False)
    print(f"mosquitto, {os.cpu_count()} cores; load {load:.1f} before.\n")
    table(["what", "fedthings", "to reach"], lines)


if __name__ == "__main__":
    main()
