"""Enrolment over real MQTT: from the token to the first task, and everyone who is not let in, with the reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

import fedthings as ft
from fedthings.device.identity import Identity
from fedthings.federation import dumps
from fedthings.identity import tokens
from fedthings.identity.keys import fingerprint, held, public_of, spelled
from fedthings.server import certificates, devices
from fedthings.server.ask import ask
from fedthings.server.broker import mosquitto
from fedthings.server.roll import TOKENS
from fedthings.server.store import Store

FT = [sys.executable, "-m", "fedthings"]

if not mosquitto() and not os.environ.get("CI"):
    pytest.skip("MOSQUITTO IS NOT INSTALLED: apt-get install mosquitto", allow_module_level=True)


class Served:
    """A coordinator that waits for more devices than there are, in `out`; every process ends with the context."""

    def __init__(self, directory: Path, tls: bool = False) -> None:
        self.directory, self.out = directory, directory / "run"
        X = np.random.default_rng(0).normal(size=(40, 4)).astype("f4")
        np.savez(directory / "rows.npz", X=X, y=(X[:, 0] > 0).astype(int), split=np.arange(40) % 5 == 0)
        task = ft.Task(model=ft.mlp(4, 2), loss="cross_entropy")
        spec = ft.Federation(task, pace=ft.Pace(goal=2, patience=60), name="two", devices=2)
        (directory / "fed.toml").write_text(dumps(spec))
        self.tls, self.started = tls, []

    def __enter__(self) -> Served:
        self.serve()
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.started:
            process.kill()
            process.wait()

    def serve(self) -> subprocess.Popen[bytes]:
        words = ["serve", str(self.directory / "fed.toml"), "--rounds", "3", "--out", str(self.out)]
        served = self.start("serve", *words, "--broker", "mosquitto")
        self.until("serve", "devices join with")
        return served

    def start(self, log: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{log}.log").open("ab") as file:
            process = subprocess.Popen([*FT, *words], stdout=file, stderr=file)
        self.started.append(process)
        return process

    def words(self, name: str, token: Path | None, *more: str) -> list[str]:
        port = json.loads((self.out / "broker.json").read_text())["port"]
        words = ["join", "--broker", f"mqtt{'s' * self.tls}://127.0.0.1:{port}", "--data"]
        words += [str(self.directory / "rows.npz"), "--state", str(self.directory / name), "--once", *more]
        return [*words, *(("--token", str(token)) if token else ())]

    def join(self, name: str, token: Path | None, *more: str) -> subprocess.Popen[bytes]:
        return self.start(name, *self.words(name, token, *more))

    def refused(self, name: str, token: Path, *more: str) -> str:
        """Return what a device says that ends with code 4."""
        done = subprocess.run([*FT, *self.words(name, token, *more)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 4 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    def until(self, log: str, text: str, seconds: float = 30.0) -> str:
        end = time.monotonic() + seconds
        path = self.directory / f"{log}.log"
        while time.monotonic() < end:
            if path.exists() and text in (found := path.read_text()):
                return found
            time.sleep(0.02)
        raise AssertionError(f"{text!r} is not in: {path.read_text()}")

    def manage(self, *words: str) -> None:
        subprocess.run([*FT, "devices", "--out", str(self.out), *words], check=True, capture_output=True)

    @property
    def facts(self) -> dict:
        return ask("status", self.out)

    def present(self, count: int, seconds: float = 15.0) -> None:
        end = time.monotonic() + seconds
        while (found := self.facts["present"]) != count:
            assert time.monotonic() < end, f"{found} are there, not {count}"
            time.sleep(0.1)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as running:
        yield running


def test_who_is_not_let_in_hears_why_and_it_is_logged(served: Served, tmp_path: Path) -> None:
    (good,) = devices.enrol(served.out, ["kitchen"])
    subprocess.run([*FT, "enrol", "hall", "--out", str(served.out)], check=True, capture_output=True)
    hall = devices.token_file(served.out, "hall")
    served.join("kitchen", good)
    served.until("kitchen", "kitchen is linked")

    said = served.refused("second", good)  # token used twice, by another key
    assert "the coordinator refuses kitchen: token used twice" in said
    other = replace(tokens.read(hall), coordinator=spelled(public_of(bytes(32))))
    other.write(tmp_path / "other.token")
    said = served.refused("hall", tmp_path / "other.token")  # wrong pinned key
    pinned = public_of(held(served.out / devices.KEY_FILE))
    assert "wrong coordinator key" in said and fingerprint(pinned) in said
    assert fingerprint(public_of(bytes(32))) in said
    forged = replace(tokens.read(hall), id=tokens.read(good).id)
    forged.write(tmp_path / "forged.token")
    assert "refuses the user" in served.refused("forged", tmp_path / "forged.token")

    log = (tmp_path / "serve.log").read_text()
    assert "refused a message from token-" in log and "token used twice: token-" in log
    assert served.facts["refused"]["token used twice"] >= 1
    assert not Identity(tmp_path / "hall", "hall").standings[0].enrolled


def test_an_expired_token_is_refused_by_the_coordinator_too(served: Served) -> None:
    """The broker learns of it with the next change only."""
    subprocess.run([*FT, "enrol", "late", "--out", str(served.out)], check=True, capture_output=True)
    file = devices.token_file(served.out, "late")
    store = Store(served.out)
    with store.transaction() as connection:
        connection.execute(TOKENS.update().values(expires=time.time() - 1.0))
    store.close()
    replace(tokens.read(file), expires=time.time() - 1.0).write(file)
    said = served.refused("late", file)
    assert "has expired by the clock here: `fedthings devices rotate late` makes a new one" in said
    assert "the coordinator refuses late: expired token" in said
    assert served.facts["refused"] == {"expired token": 1}


def test_the_operator_approves_quarantines_revokes_and_rotates(served: Served, tmp_path: Path) -> None:
    words = ["enrol", "--count", "2", "--approve", "--group", "meters", "--out", str(served.out)]
    subprocess.run([*FT, *words], check=True, capture_output=True)
    token = devices.token_file(served.out, "meters")
    first, second = served.join("one", token, "--name", "one"), served.join("two", token, "--name", "two")
    for name in ("one", "two"):
        served.until(name, f"{name} waits until it is approved")
    assert "`fedthings devices approve one`" in (tmp_path / "serve.log").read_text()
    assert {d["name"]: d["state"] for d in devices.listed(served.out)} == {"one": "waiting", "two": "waiting"}
    served.manage("approve", "one")
    served.until("one", "one is linked")
    served.present(1)

    served.manage("quarantine", "one")
    served.until("one", "waiting: quarantined")
    served.present(0)
    served.manage("approve", "one")
    served.present(1)  # it need not be told: it is still linked

    served.manage("revoke", "one")
    served.present(0)
    served.until("one", "no link to the broker")  # which lets it in no longer
    first.kill()
    first.wait()
    said = subprocess.run([*FT, *served.words("one", None, "--name", "one")], capture_output=True, text=True).stderr
    assert "refuses the user `one`" in said
    before = held(tmp_path / "one" / "identity.key")
    served.manage("rotate", "one")
    served.join("one", devices.token_file(served.out, "one"))
    served.present(1)
    assert held(tmp_path / "one" / "identity.key") != before

    served.manage("rename", "two", "attic")  # it waits for approval under its old name: out
    served.manage("approve", "attic")
    second.kill()
    second.wait()
    served.manage("rename", "one", "cellar")
    served.present(0)
    for process in served.started[1:]:
        process.kill()
        process.wait()
    third = served.join("one", None, "--name", "cellar")
    fourth = served.join("two", token, "--name", "attic")
    assert third.wait(60) == 0, (tmp_path / "one.log").read_text()
    assert fourth.wait(30) == 0, (tmp_path / "two.log").read_text()
    assert served.started[0].wait(30) == 0
    costs = {d["name"]: d["reports"] for d in devices.listed(served.out)}
    assert costs == {"attic": 4, "cellar": 4}


def test_over_tls_and_mutual_tls(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = subprocess.run([*FT, "tls", str(out), "--host", "hub.local", "--json"], capture_output=True, check=True)
    files = [Path(file) for file in json.loads(done.stdout)["files"]]
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files) and (out / "tls").stat().st_mode & 0o77 == 0
    assert out.stat().st_mode & 0o77 == 0
    kitchen, hall = devices.enrol(out, ["kitchen", "hall"])
    with Served(tmp_path, tls=True) as world:
        bare = replace(tokens.read(kitchen), ca="")
        bare.write(tmp_path / "bare.token")
        assert "its certificate is not trusted" in world.refused("bare", tmp_path / "bare.token")
        one = world.join("kitchen", tmp_path / "bare.token", "--ca", str(out / "tls" / "ca.pem"))
        two = world.join("hall", hall)  # whose token holds the certificate
        assert one.wait(60) == 0 and two.wait(30) == 0, (tmp_path / "hall.log").read_text()
        assert world.started[0].wait(30) == 0
        assert (tmp_path / "serve.log").read_text().count("mqtts://") == 1


def test_mutual_tls(tmp_path: Path) -> None:
    certificates.make(tmp_path / "run", clients=["kitchen"])
    kitchen, hall = devices.enrol(tmp_path / "run", ["kitchen", "hall"])
    own = tmp_path / "run" / "tls" / "clients" / "kitchen.pem"
    assert own.stat().st_mode & 0o777 == 0o600
    with Served(tmp_path, tls=True) as world:
        said = world.refused("hall", hall)
        assert "no link to the broker" in said
        world.join("kitchen", kitchen, "--cert", str(own), "--cert-key", str(own.with_suffix(".key")))
        world.until("kitchen", "kitchen is linked")
        world.present(1)


def test_secrets_are_in_no_log_and_no_process_list_but_in_files_of_mode_0600(served: Served, tmp_path: Path) -> None:
    """Of tokens, passwords and keys nothing is to be read but in the files that are theirs, of mode 0600."""
    (file,) = devices.enrol(served.out, ["kitchen"])
    subprocess.run([*FT, "enrol", "hall", "--out", str(served.out)], check=True, capture_output=True)
    token = tokens.read(file)
    served.join("kitchen", file)
    served.until("kitchen", "kitchen is linked")
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except OSError:
            continue
    home = tmp_path / "kitchen"
    standing = Identity(home, "kitchen").standings[0]
    access = json.loads((served.out / "broker.json").read_text())["passwords"]["coordinator"]
    keys = [held(home / "identity.key"), held(served.out / devices.KEY_FILE), token.key]
    secrets = [access.encode(), standing.password.encode(), token.secret.encode(), token.password.encode(), *keys]
    secrets += [key.hex().encode() for key in keys] + [spelled(key).encode() for key in keys]
    theirs = {home / name for name in ("identity.key", "identity.json", "identity.links")} | {file}
    theirs |= {served.out / name for name in (devices.KEY_FILE, "broker.json", "serve.json")}
    searched = 0
    for path in tmp_path.rglob("*"):
        if path.is_file() and path not in theirs:
            data = path.read_bytes()
            assert not any(secret in data for secret in secrets), path
            searched += 1
    assert searched > 10 and standing.enrolled and standing.token is None
    assert not any(secret in line for line in lines for secret in secrets) and len(lines) > 3
    for path in (*theirs, served.out / "broker.passwords", served.out / "tokens" / "hall.token"):
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert served.out.stat().st_mode & 0o777 == 0o700  # it is `enrol` that has made it
