"""A full disk, wherever it is met: one message, exit 5, and with room again the model that would have been."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fedthings.server import service
from fedthings.server.models import Models
from fedthings.server.store import Store
from fedthings.vector import keyed
from processes import Processes
from virtual import Virtual

from .conftest import Command, contents, federation, fleet

ROUNDS = 4


class Disk:
    """Has no room once, at the n-th write that a service or an agent makes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen, self.at, self.active = 0, -1, False
        for owner, name in (
            (Store, "journal"),
            (Store, "commit"),
            (Store, "checkpoint"),
            (Models, "__setitem__"),
            (os, "pwrite"),
            (Path, "write_bytes"),
            (Path, "write_text"),
        ):
            monkeypatch.setattr(owner, name, self.watch(getattr(owner, name), owner is Store))

    def watch(self, function: Callable[..., object], database: bool) -> Callable[..., object]:
        def watched(*args: object) -> object:
            self.seen += self.active
            if not self.active or self.seen != self.at:
                return function(*args)
            if isinstance(args[0], Path) and isinstance(args[-1], bytes):
                function(*args[:-1], args[-1][: len(args[-1]) // 2])  # a part of it is there
            if database:
                raise ft.StoreError("the run's state cannot be kept: database or disk is full; make room")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return watched


def spec() -> ft.Federation:
    return federation(3, "fleet", keep=0.5)


def disturbed(directory: Path, disk: Disk) -> tuple[Virtual, BaseException | None]:
    """Run to the end; who has no room ends, gets room, and starts again in its directory."""
    world = Virtual(spec(), fleet(3), ROUNDS, directory, chunk=128)
    said: BaseException | None = None
    for agent in world.agents.values():
        agent.upload.chunk = 128
    disk.active = True
    while not world.service.done:
        try:
            if not world.step():
                break
        except (ft.StoreError, OSError) as full:
            said = full
            name = sufferer(full, world)
            world.mail = type(world.mail)((to, arrival) for to, arrival in world.mail if to != (name or "coordinator"))
            if name:
                assert isinstance(full, ft.StoreError)
                world.agenda = [entry for entry in world.agenda if entry[3].sender != name]
                world.join(name)
            else:
                world.agenda = []
                world.service.close()
                world.serve()
            world.drain()
    disk.active = False
    return world, said


def sufferer(error: BaseException, world: Virtual) -> str:
    """Return the device at whose work the disk was full, or "" for the coordinator."""
    trace = error.__traceback__
    while trace is not None:
        for name, agent in world.agents.items():
            if trace.tb_frame.f_locals.get("self") is agent:
                return name
        if trace.tb_frame.f_locals.get("self") is world.service:
            return ""
        trace = trace.tb_next
    raise AssertionError("nobody was at work")


def test_full_at_any_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "JOURNALED", 0)  # reports lie in files
    want = ft.simulate(spec(), fleet(3), ROUNDS)
    disk = Disk(monkeypatch)
    world, said = disturbed(tmp_path / "calm", disk)
    assert said is None
    world.result()
    writes = disk.seen
    assert writes > 100
    told = set()
    for moment in sorted(keyed("disk").choice(writes - 2, 40, replace=False) + 1):
        disk.seen, disk.at = 0, int(moment)
        world, said = disturbed(tmp_path / str(moment), disk)
        told.add(type(said))
        served = world.result()
        assert np.array_equal(served.row, want.row), f"write {moment}: {said}"
        assert [line["updates"] for line in served.history] == [3] * ROUNDS
        assert [line["metrics"] for line in served.history] == [line["metrics"] for line in want.history]
        assert len((tmp_path / str(moment) / "history.jsonl").read_text().splitlines()) == ROUNDS
    assert told == {ft.StoreError, OSError}  # the second is told as the first by whoever holds the directory


# ------------------------------------------------------------------- a real one


@contextmanager
def small(directory: Path, size: str) -> Iterator[None]:
    """Put a small disk where `directory` is, with what lies there."""
    kept = contents(directory)
    directory.mkdir(exist_ok=True, parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("NO SMALL DISK: mounting a tmpfs needs root; a full disk is tested with a false one only")
    try:
        for name, data in kept.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(data)
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def fill(directory: Path) -> Path:
    """Leave no room."""
    ballast = directory / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    return ballast


def test_the_coordinators_disk_is_full(tmp_path: Path) -> None:
    rounds = 60
    with Processes(spec(), fleet(3), rounds, tmp_path, "") as world, small(world.out, "2m"):
        world.broker = "amqtt"
        world.start()
        assert world.served is not None
        while world.versions() < 3:
            time.sleep(0.005)
        ballast = fill(world.out)
        assert world.served.wait(30) == 5
        log = (tmp_path / "serve.log").read_text()
        assert "Traceback" not in log
        assert log.count("fedthings: ") == 1
        assert "room" in log or "is the disk full" in log
        full = subprocess.run([*world.served.args], capture_output=True, text=True)  # no room yet
        assert full.returncode == 5, full.stderr
        assert "Traceback" not in full.stderr
        ballast.unlink()
        world.serve()
        world.wait(60)
        ft.simulate(spec(), fleet(3), rounds).save(tmp_path / "simulated")
        for name in ("model.safetensors", "federation.toml"):
            assert (world.out / name).read_bytes() == (tmp_path / "simulated" / name).read_bytes()
        assert world.versions() == rounds


def test_a_devices_disk_is_full(tmp_path: Path) -> None:
    rounds = 60
    state = tmp_path / "state" / "device-0"
    with Processes(spec(), fleet(3), rounds, tmp_path, "amqtt") as world, small(state, "64k"):
        world.start()
        while world.versions() < 3:
            time.sleep(0.005)
        ballast = fill(state)
        assert world.joined["device-0"].wait(30) == 5
        log = (tmp_path / "device-0.log").read_text()
        assert "Traceback" not in log
        assert f"the device's directory {state / 'bad'} cannot be used: No space left on device; make room" in log
        ballast.unlink()
        world.join("device-0")
        world.wait(60)
        ft.simulate(spec(), fleet(3), rounds).save(tmp_path / "simulated")
        assert (world.out / "model.safetensors").read_bytes() == (
            tmp_path / "simulated" / "model.safetensors"
        ).read_bytes()


def test_a_simulations_disk_is_full(fed: Path, tmp_path: Path, command: Command) -> None:
    data = tmp_path / "data.npz"
    parts = [fleet(3).shard(name) for name in fleet(3).names]
    X, y = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    np.savez(data, X=X, y=y, device=np.arange(len(X)) % 3)
    out = tmp_path / "run"
    with small(out, "64k"):
        ballast = fill(out)
        ended = command("simulate", fed, "--fleet", data, "--rounds", 3, "--out", out)
        assert ended.code == 5
        assert "No space left on device" in ended.err
        ballast.unlink()
        assert command("simulate", fed, "--fleet", data, "--rounds", 3, "--out", out).code == 0
