"""The coordinator's process: who may join, what an operator can ask, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fedthings.federation import dumps
from fedthings.identity import tokens
from fedthings.server import devices, place

FT = [sys.executable, "-m", "fedthings"]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def files(tmp_path) -> Path:
    """A directory with a federation of two devices and their rows."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        X = rng.normal(size=(50, 4)).astype("f4")
        np.savez(tmp_path / f"{name}.npz", X=X, y=(X[:, 0] > 0).astype(int), split=np.arange(50) % 5 == 0)
    task = ft.Task(model=ft.mlp(4, 2), loss="cross_entropy")
    (tmp_path / "fed.toml").write_text(
        dumps(ft.Federation(task, pace=ft.Pace(goal=2, patience=30), name="two", devices=2))
    )
    return tmp_path


@pytest.fixture
def start(files) -> Iterator[Start]:
    started = []

    def start(*words: str, log: str) -> subprocess.Popen[str]:
        with (files / log).open("a") as file:
            process = subprocess.Popen([*FT, *words], stdout=file, stderr=file)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def serve(files: Path, start: Start, *more: str, rounds: int = 3) -> subprocess.Popen[str]:
    served = start(*words(files, *more, rounds=rounds), log="serve")
    until("devices join with", files / "serve")
    return served


def words(files: Path, *more: str, rounds: int = 3) -> list[str]:
    return ["serve", str(files / "fed.toml"), "--rounds", str(rounds), "--out", str(files / "run"), *more]


def join(files: Path, start: Start, name: str) -> subprocess.Popen[str]:
    port = json.loads((files / "run" / "broker.json").read_text())["port"]
    line = ["join", "--broker", f"mqtt://127.0.0.1:{port}", "--data", str(files / f"{name}.npz")]
    line += [
        "--token",
        str(files / "run" / "tokens" / f"{name}.token"),
        "--state",
        str(files / f"state-{name}"),
        "--once",
    ]
    return start(*line, log=name)


def until(text: str, log: Path, seconds: float = 20.0) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if log.exists() and text in (found := log.read_text()):
            return found
        time.sleep(0.02)
    raise AssertionError(f"{text!r} is not in: {log.read_text()}")


def done(*line: str, code: int = 0) -> str:
    ended = subprocess.run([*FT, *line], capture_output=True, text=True, timeout=60)
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout if code == 0 else ended.stderr


def asked(files: Path, verb: str) -> dict:
    return json.loads(done(verb, str(files / "run"), "--json").splitlines()[-1])


def test_from_an_empty_list_to_the_model(files, start):
    """Nobody may join; two are let in while it runs; the operator pauses and resumes; all is there at the end."""
    run = str(files / "run")
    served = serve(files, start, "--json")
    assert f"nobody may join yet: `fedthings enrol NAME --out {run}`" in (files / "serve").read_text()
    assert asked(files, "status")["waiting"][0]["for"] == "devices: 0 of 2 are there"

    done("enrol", "a", "b", "--out", run)
    token = tokens.read(files / "run" / "tokens" / "a.token")
    for file in ("broker.json", "broker.passwords", "state.sqlite", "state.sqlite-wal", "serve.json"):
        data = (files / "run" / file).read_bytes()
        assert token.secret.encode() not in data and token.key not in data and token.password.encode() not in data
    assert (files / "run" / "serve.json").stat().st_mode & 0o777 == 0o600

    one = join(files, start, "a")
    until("is linked", files / "a")
    page = done("status", run)
    assert "two: running" in page and "devices: 1 of 2 are there (at most" in page
    assert asked(files, "pause")["state"] == "paused"
    two = join(files, start, "b")
    until("is linked", files / "b")
    status = asked(files, "status")
    assert status["version"] == 0 and "the operator" in status["waiting"][0]["for"]
    assert asked(files, "resume")["state"] == "running"

    assert served.wait(30) == 0 and one.wait(5) == 0 and two.wait(5) == 0, (files / "serve").read_text()
    summary = json.loads((files / "serve").read_text().splitlines()[-1])
    assert summary == json.loads((files / "run" / "summary.json").read_text())
    assert summary["rounds"] == 3 and summary["devices"] == 2 and summary["reason"] == "done"
    listed = json.loads(done("devices", "--out", run, "list", "--json"))["devices"]
    assert [d["name"] for d in listed] == ["a", "b"] and all(d["reports"] == 4 and d["bytes_up"] > 0 for d in listed)
    assert "password" not in listed[0]

    told = asked(files, "status")  # from the directory alone
    assert told["state"] == "finished" and told["version"] == 3
    assert "no coordinator answers" in done("pause", run, code=4)


def test_stopped_by_ctrl_c_it_goes_on_and_can_be_cancelled(files, start):
    devices.enrol(files / "run", ["a", "b"])
    served = serve(files, start, rounds=100000)
    one, two = join(files, start, "a"), join(files, start, "b")
    history = files / "run" / "history.jsonl"
    end = time.monotonic() + 20
    while len(history.read_text().splitlines()) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    served.send_signal(signal.SIGINT)
    assert served.wait(10) == 130
    assert f"the same command goes on with the run in {files / 'run'}" in (files / "serve").read_text()
    told = asked(files, "status")
    assert told["state"] == "not running" and told["version"] >= 3

    served = serve(files, start, rounds=100000)
    end = time.monotonic() + 20
    while asked(files, "status")["version"] <= told["version"] + 1 and time.monotonic() < end:
        pass
    assert "ended with the model there is" in done("cancel", str(files / "run"))
    assert served.wait(20) == 0 and one.wait(5) == 0 and two.wait(5) == 0, (files / "serve").read_text()
    summary = json.loads((files / "run" / "summary.json").read_text())
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    assert summary["reason"] == "cancelled" and summary["rounds"] > told["version"]
    assert [line["version"] for line in lines] == list(range(1, summary["rounds"] + 1))
    kept = files / "state-a" / "two" / "model.safetensors"
    assert kept.read_bytes() == (files / "run" / "model.safetensors").read_bytes()


def test_a_device_that_is_removed_is_out(files, start):
    devices.enrol(files / "run", ["a", "b"])
    served = serve(files, start)
    join(files, start, "a")
    until("is linked", files / "a")
    assert "a cannot be forgotten while" in done("devices", "--out", str(files / "run"), "forget", "a", code=5)
    done("devices", "--out", str(files / "run"), "remove", "a")
    assert not (files / "run" / "tokens" / "a.token").exists()
    end = time.monotonic() + 5
    while (status := asked(files, "status"))["present"] and time.monotonic() < end:
        time.sleep(0.05)
    assert status["present"] == 0
    served.send_signal(signal.SIGTERM)
    assert served.wait(10) == 143


def test_a_directory_that_is_in_use_or_anothers_and_a_port_that_is_taken(files, start):
    served = serve(files, start)
    assert f"in use by process {served.pid}" in done(*words(files), code=5)
    served.kill()
    served.wait()
    assert "--rounds 3, not 4" in done(*words(files, rounds=4), code=5)
    text = (files / "fed.toml").read_text()
    (files / "fed.toml").write_text(text.replace('"two"', '"other"'))
    assert "another federation's run" in done(*words(files), code=5)
    (files / "fed.toml").write_text(text)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} is taken" in done(*words(files, "--port", str(port)), code=4)
    assert "nothing listens there" in done(*words(files, "--broker", "mqtt://127.0.0.1:1"), code=4)
    assert "leave them out with --broker" in done(*words(files, "--broker", "mqtt://h", "--port", "1"), code=2)


def test_the_trace_and_the_place_are_kept(files, start):
    devices.enrol(files / "run", ["a", "b"])
    served = serve(files, start, "--trace", "--fsync", "--stop", "accuracy=0.01")
    join(files, start, "a"), join(files, start, "b")
    assert served.wait(30) == 0, (files / "serve").read_text()
    trace = [json.loads(line) for line in (files / "run" / "trace.jsonl").read_text().splitlines()]
    assert [line[1][0] for line in trace if line[1][0] == "joined"] == ["joined", "joined"]
    kept = place.read(files / "run")
    assert kept is not None and kept.federation.startswith("two-") and place.newest(files) == files / "run"
    assert (files / "run" / "serve.json").stat().st_mode & 0o077 == 0


@pytest.fixture
def both(files) -> list[str]:
    """Two federations for one fleet, and the words that serve them."""
    text = (files / "fed.toml").read_text()
    for name in ("heat", "light"):
        (files / f"{name}.toml").write_text(text.replace('"two"', f'"{name}"'))
    line = ["serve", str(files / "heat.toml"), str(files / "light.toml"), "--out", str(files / "run")]
    return [*line, "--rounds", "4", "--rounds", "light:3"]


def test_several_federations_are_served_and_asked_together(files, both, start):
    run = str(files / "run")
    devices.enrol(files / "run", ["a", "b"])
    served = start(*both, "--json", log="serve")
    until("devices join with", files / "serve")
    asked_ = json.loads(done("status", run, "--json"))
    assert [facts["federation"] for facts in asked_["federations"]] == ["heat", "light"]
    assert [facts["rounds"] for facts in asked_["federations"]] == [4, 3]
    assert "name one with --federation, of heat, light" in done("pause", run, code=2)
    assert "has no federation 'dark': it has heat, light" in done("pause", run, "--federation", "dark", code=2)
    assert "light: paused" in done("pause", run, "--federation", "light")
    url = place.read(files / "run").broker
    page = done("status", "--broker", url)
    assert "heat: running" in page and "light: paused" in page
    assert "no federation 'dark' at this broker: there is heat, light" in done(
        "resume", "--broker", url, "--federation", "dark", code=2
    )
    assert "light: running" in done("resume", "--broker", url, "--federation", "light")
    assert "shares its devices with other federations" in done("enrol", "c", "--out", f"{run}/heat", code=5)

    joined = [join(files, start, "a"), join(files, start, "b")]
    assert served.wait(60) == 0, (files / "serve").read_text()
    summaries = json.loads((files / "serve").read_text().splitlines()[-1])
    assert {name: summary["rounds"] for name, summary in summaries.items()} == {"heat": 4, "light": 3}
    for process, name in zip(joined, ("a", "b"), strict=True):
        assert process.wait(20) == 0, (files / name).read_text()
    cost = json.loads(done("devices", "--out", run, "list", "--json"))["devices"]
    assert [device["reports"] for device in cost] == [4 + 1 + 3 + 1] * 2  # and the closing evaluations
    for name in ("heat", "light"):
        own = files / "run" / name / "model.safetensors"
        assert (files / "state-a" / name / "model.safetensors").read_bytes() == own.read_bytes()
        assert f"{name}: finished" in done("status", f"{run}/{name}")
    assert "light: finished" in done("status", run)
    predict = ["predict", "--state", str(files / "state-a"), "--data", str(files / "a.npz")]
    assert "models of several: name one with --federation, of heat, light" in done(*predict, code=2)
    assert "has no model of 'dark': it has heat, light" in done(*predict, "--federation", "dark", code=2)
    assert done(*predict, "--federation", "light").startswith("output_0")


def test_several_federations_that_cannot_be_served_together(files, both, start):
    text = (files / "light.toml").read_text()
    (files / "light.toml").write_text(text.replace('"light"', '"heat"'))
    assert "two federations are called 'heat': give each a `name` of its own" in done(*both[:-2], code=2)
    (files / "light.toml").write_text(text.replace('"light"', '"lock"'))
    assert "choose another, which no file of ours has" in done(*both[:-2], code=2)
    (files / "light.toml").write_text(text)
    assert "there is no federation 'dark': heat, light" in done(*both, "--stop", "dark:accuracy=0.9", code=2)
    assert "'x' is not a number of at least 1" in done(*both, "--rounds", "light:x", code=2)
    served = start(*both, log="serve")
    until("devices join with", files / "serve")
    served.kill()
    served.wait()
    assert "holds several federations (heat, light): serve them together" in done(*words(files), code=5)
    alone = ["serve", str(files / "heat.toml"), "--rounds", "4", "--out", str(files / "run" / "heat")]
    assert "serve it with the others, from the directory above" in done(*alone, code=5)
    other = [*both[:4], str(files / "one"), *both[5:]]
    (files / "one").mkdir()
    (files / "one" / "federation.toml").write_text((files / "fed.toml").read_text())
    assert "holds the run of one federation: name another directory for heat, light" in done(*other, code=5)
