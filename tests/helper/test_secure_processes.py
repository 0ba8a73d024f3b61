"""Secure mode over real MQTT: a coordinator, a helper and ten devices, each a process, each killed once."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fedthings.learn.digits import digits
from fedthings.learn.save import load
from fedthings.run import read
from fedthings.server.broker import mosquitto
from fedthings.server.devices import enrol
from processes import ENVIRONMENT, PYTHON, Processes


class Secure(Processes):
    """`Processes` with a helper; one device sends slowly, so that it can be killed in the middle of a report."""

    def __init__(self, spec: ft.Federation, fleet: ft.Fleet, rounds: int, directory: Path) -> None:
        super().__init__(spec, fleet, rounds, directory, "mosquitto")
        self.home = directory / "helper"
        (self.token,) = enrol(self.out, ["helper"])
        self.helper: subprocess.Popen[bytes] | None = None

    def __exit__(self, *error: object) -> None:
        if self.helper is not None:
            self.kill(self.helper)
        super().__exit__(*error)

    def help(self) -> subprocess.Popen[bytes]:
        """Start the helper, or start it again."""
        command = [*PYTHON, "helper", "--broker", f"mqtt://127.0.0.1:{self.port}", "--out", str(self.home)]
        command += ["--reconnect", "0.3", "--json", "--token", str(self.token)]
        with (self.directory / "helper.log").open("ab") as log, (self.directory / "helper.out").open("wb") as out:
            self.helper = subprocess.Popen(command, stdout=out, stderr=log, env=ENVIRONMENT)
        return self.helper

    def until(self, holds, what: str, seconds: float = 60.0) -> None:
        """Wait until `holds()`."""
        end = time.monotonic() + seconds
        while not holds():
            assert self.served is not None and self.served.poll() is None, f"ended before {what}"
            assert time.monotonic() < end, f"{what}: {(self.directory / 'serve.log').read_text()[-2000:]}"
            time.sleep(0.003)


def key_of(directory: Path) -> str:
    """Return the key that `fedthings helper` prints at its first start."""
    command = [*PYTHON, "helper", "--out", str(directory)]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT).stdout.strip()


def federation(secure: ft.two_servers | None) -> ft.Federation:
    recipe = ft.Recipe(lr=0.3, batch=16)
    task = ft.Task(model=ft.mlp(64, 500, 10), loss="cross_entropy", normalise="fleet", recipe=recipe)
    pace = ft.Pace(goal=10, patience=600.0)
    return ft.Federation(task, ft.fedavg(), pace, stages=(ft.clip(3.0),), seed=4, devices=10, secure=secure)


@pytest.mark.skipif(not mosquitto(), reason="mosquitto is not installed")
def test_ten_devices_and_two_servers_each_killed_once(tmp_path: Path) -> None:
    rounds, fleet = 6, digits(10, 1)
    hidden = federation(ft.two_servers(key_of(tmp_path / "helper"), heaviest=512))
    assert max(len(fleet.shard(name).X) for name in fleet.names) <= 512
    with Secure(hidden, fleet, rounds, tmp_path) as world:
        world.serve()
        world.help()
        for name in world.names:
            world.join(name, *(("--rate", "120000") if name == world.names[3] else ()))
        slow, spool = world.names[3], world.out / "spool"
        world.until(lambda: world.versions() >= 1 and list(spool.glob(f"1-*-{slow}-*.part")), "a part of a report")
        world.kill(world.joined[slow])
        world.until(lambda: len(list(spool.glob("1-*.cbor"))) >= 9, "the other nine reports")
        world.kill(world.helper)  # before it is asked
        world.join(slow)
        world.until(lambda: not list(spool.glob("*.part")) and len(list(spool.glob("1-*.cbor"))) == 10, "the last one")
        waiting = json.loads(ask_status(world.out))["waiting"]
        assert waiting[0]["for"].startswith("helper: its share of 10 reports for version")
        world.kill(world.served)  # while the helper is asked, which is not there
        world.serve()
        log = world.directory / "serve.log"
        world.until(lambda: log.read_text().count("devices join with") == 2, "its broker is there again")
        world.help()
        summary = world.wait()
        answers = len(list((world.home / "answers").iterdir()))
        run = read(world.out)
        _, row, _ = load(world.out / "model.safetensors")
    assert [line["updates"] for line in run.history] == [10] * rounds
    assert all(line["dropped"] == {} for line in run.history) and answers == 1
    same = ft.simulate(hidden, fleet, rounds)
    assert np.array_equal(row, same.row) and summary["metrics"] == same.summary["metrics"]
    plain = ft.simulate(federation(None), fleet, rounds)
    assert 0 < np.abs(row - plain.row).max() < 1e-3 * np.abs(plain.row).max()
    stored = b"".join(path.read_bytes() for path in world.home.rglob("*") if path.is_file())
    for X in (fleet.shard(name).X for name in fleet.names[:3]):
        assert X[0].astype(np.float32).tobytes() not in stored


@pytest.mark.skipif(not mosquitto(), reason="mosquitto is not installed")
def test_under_a_privacy_claim_both_servers_killed_the_noise_is_that_of_the_ledger(tmp_path: Path) -> None:
    """Secret noise of two processes: the model is as far from the plain one as the ledger says, with one line each."""
    task = ft.Task(model=ft.mlp(64, 50, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.3, batch=16))
    fields = {"pace": ft.Pace(goal=5, patience=600.0), "stages": (ft.clip(2.0),), "devices": 5}
    claim = ft.central_dp(900, 1e-2, ft.independent())
    secure, rounds, fleet = ft.two_servers(key_of(tmp_path / "helper"), min_batch=5), 12, digits(5, 1)
    spec = ft.Federation(task, ft.fedavg(weight="equal"), privacy=claim, secure=secure, **fields)
    with Secure(spec, fleet, rounds, tmp_path) as world:
        world.start()
        world.help()
        world.until(lambda: world.versions() >= 3, "three versions")
        world.kill(world.helper)
        world.help()
        world.until(lambda: world.versions() >= 6, "six versions")
        world.kill(world.served)
        world.serve()
        summary = world.wait()
        run = read(world.out)
    plain = ft.simulate(ft.Federation(task, ft.fedavg(weight="equal"), **fields), fleet, rounds)
    privacy = summary["privacy"]
    assert (privacy["noise"], privacy["servers"], privacy["releases"]) == ("secure", 2, rounds)
    assert [line["updates"] for line in run.history] == [5] * rounds
    apart = float(np.sqrt(np.square(run.row - plain.row).mean()))
    assert apart > 0.5 * np.sqrt(2 * rounds) * privacy["multiplier"] * 2.0 / 5  # each version's noise, and no less
    assert apart < 10 * np.sqrt(2 * rounds) * privacy["multiplier"] * 2.0 / 5
    for file in tmp_path.rglob("*.log"):
        assert b"Traceback" not in file.read_bytes()


def ask_status(out: Path) -> str:
    """Return what `fedthings status --json` says."""
    command = [*PYTHON, "status", str(out), "--json"]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT).stdout.splitlines()[-1]
