"""The device's process: small, polite, patient, and clear about what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

import fedthings as ft
from fedthings.federation import dumps
from fedthings.server import devices
from fedthings.server.broker import Broker
from fedthings.transport.mqtt import MqttTransport
from fedthings.transport.transport import Delivery

FT = [sys.executable, "-m", "fedthings"]


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[Broker]:
    """A broker of somebody's own, not of a run."""
    with Broker.start(tmp_path_factory.mktemp("broker"), passwords={"kitchen": "secret", "hall": "word"}) as running:
        yield running


@pytest.fixture
def rows(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 4)).astype("f4")
    np.savez(tmp_path / "rows.npz", X=X, y=(X[:, 0] > 0).astype(int), split=np.arange(50) % 5 == 0)
    return tmp_path / "rows.npz"


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path) -> Iterator[Start]:
    """Start a command; whatever still runs is killed after the test."""
    started = []

    def start(*words: str, log: str = "log", **environment: str) -> subprocess.Popen[str]:
        with (tmp_path / log).open("a") as file:
            process = subprocess.Popen([*FT, *words], stdout=file, stderr=file, env={**os.environ, **environment})
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def join(broker: Broker, rows: Path, name: str, *more: str) -> list[str]:
    """Return the words with which `name` joins who uses the devices in the folder `fleet`."""
    fleet = rows.parent / "fleet"
    token = devices.token_file(fleet, name)
    if not token.exists():
        devices.enrol(fleet, [name])
    words = ["join", "--broker", f"mqtt://127.0.0.1:{broker.port}", "--token", str(token), "--data", str(rows)]
    return [*words, "--state", str(rows.parent / name), *more]


def until(text: str, log: Path, seconds: float = 20.0) -> str:
    """Wait until `text` is in `log`; return all of it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if log.exists() and text in (found := log.read_text()):
            return found
        time.sleep(0.02)
    raise AssertionError(f"{text!r} is not in: {log.read_text()}")


def fails(words: list[str], code: int, *texts: str, **environment: str) -> str:
    done = subprocess.run([*FT, *words], capture_output=True, text=True, env={**os.environ, **environment}, timeout=60)
    assert done.returncode == code, done.stderr
    for text in texts:
        assert text in done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_broker_that_refuses_the_password_or_is_not_there(broker, rows, tmp_path):
    (tmp_path / "wrong").write_text("wrong\n")
    said = fails(join(broker, rows, "kitchen", "--password-file", str(tmp_path / "wrong")), 4, "refuses", "kitchen")
    assert "wrong" not in said
    fails(join(broker, rows, "kitchen", "--password-file", str(tmp_path / "none")), 3, "password file", "none")
    words = join(broker, rows, "kitchen")
    words[2] = "mqtt://127.0.0.1:1"
    fails(words, 4, "127.0.0.1:1", "nothing listens there")
    words[2] = "http://127.0.0.1"
    fails(words, 2, "mqtt://")


def test_data_and_rules_that_cannot_be(broker, rows, tmp_path):
    fails(join(broker, tmp_path / "none.npz", "kitchen"), 3, "none.npz")
    (tmp_path / "rules.toml").write_text("efort = 0.5\n")
    fails(join(broker, rows, "kitchen", "--rules", str(tmp_path / "rules.toml")), 2, "rules.toml", "effort")


def its_own(process):
    """Bytes that are the process's alone. How much of the files it runs is in memory besides, 25 MB, is the system's
    to decide, and differs by several from one machine to another (bench/idle_device.py measures both together)."""
    memory = process.memory_info()
    return memory.rss - memory.shared


def test_it_waits_says_bye_and_stays_small(broker, rows, start, tmp_path):
    """It joins federations one after the other at a broker of somebody's own, which lets in whom it knows."""
    task = ft.Task(model=ft.mlp(4, 8, 2), loss="cross_entropy")
    for name in ("first", "second"):
        spec = ft.Federation(task, pace=ft.Pace(goal=1, patience=5), name=name, devices=1)
        (tmp_path / f"{name}.toml").write_text(dumps(spec))
    device = start(*join(broker, rows, "kitchen"), FEDTHINGS_PASSWORD="secret")
    process = psutil.Process(device.pid)
    until("waits for the coordinator", tmp_path / "log")
    idle = its_own(process)
    serve = ["--rounds", "3", "--json", "--broker", broker.url(), "--enrolled", str(tmp_path / "fleet")]
    first = start("serve", str(tmp_path / "first.toml"), "--out", str(tmp_path / "1"), *serve, log="first")
    assert first.wait(30) == 0, (tmp_path / "first").read_text()
    assert json.loads((tmp_path / "first").read_text().splitlines()[-1])["devices"] == 1
    assert "1 devices may join" in (tmp_path / "first").read_text()
    assert broker.access.passwords["coordinator"] not in (tmp_path / "first").read_text()
    until("waiting for the next federation", tmp_path / "log")
    trained = its_own(process)
    second = start("serve", str(tmp_path / "second.toml"), "--out", str(tmp_path / "2"), *serve, log="second")
    assert second.wait(30) == 0, (tmp_path / "second").read_text()

    assert idle < 33e6, f"idle: {idle / 1e6:.1f} MB"
    assert trained < 36e6, f"after training: {trained / 1e6:.1f} MB"
    time.sleep(0.2)
    before = process.cpu_times().user
    time.sleep(0.5)
    assert process.cpu_times().user - before <= 0.02  # nothing polls

    device.send_signal(signal.SIGTERM)
    assert device.wait(5) == 143
    for name in ("first", "second"):
        assert (tmp_path / "kitchen" / name / "model.safetensors").is_file()


def test_two_processes_may_not_be_one_device(broker, rows, start, tmp_path):
    start(*join(broker, rows, "hall"), FEDTHINGS_PASSWORD="word")
    until("waits for the coordinator", tmp_path / "log")
    fails(join(broker, rows, "hall"), 5, "in use by process", FEDTHINGS_PASSWORD="word")


def test_it_imports_no_more_than_a_device_has():
    code = (
        "import sys\n"
        "from fedthings.device import join\n"
        "from fedthings.learn import fleet\n"
        "heavy = {'sqlalchemy', 'rich', 'matplotlib', 'sklearn', 'amqtt', 'tomli_w', 'torch', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)), [m for m in sys.modules if m.startswith('fedthings.server')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n"


def test_a_federation_that_is_over_leaves_nothing_at_the_broker(broker, rows, start, tmp_path):
    """A device that comes later is not caught by the announcement of a federation whose coordinator has gone."""
    spec = ft.Federation(
        ft.Task(model=ft.mlp(4, 2), loss="cross_entropy"), pace=ft.Pace(goal=1), name="past", devices=1
    )
    (tmp_path / "past.toml").write_text(dumps(spec))
    start(*join(broker, rows, "kitchen", "--once"), FEDTHINGS_PASSWORD="secret")
    serve = ["--rounds", "2", "--broker", broker.url(), "--enrolled", str(tmp_path / "fleet")]
    served = start("serve", str(tmp_path / "past.toml"), "--out", str(tmp_path / "1"), *serve)
    assert served.wait(30) == 0, (tmp_path / "log").read_text()
    late = MqttTransport(broker.url("hall"), "hall")
    try:
        while (arrival := late.inbox.get(0.5)) is not None:
            assert not isinstance(arrival, Delivery)
    finally:
        late.close()
