"""Devices that are enrolled in another run directory: its key, its list, and its certificates."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from fedthings.errors import FedthingsError
from fedthings.server import certificates, devices
from fedthings.server.ask import ask
from fedthings.server.broker import _free, mosquitto
from processes import ENVIRONMENT, PYTHON

NAMES = ("kitchen", "hall")


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_a_query_over_tls_to_the_devices_of_another_run(kind: str, tmp_path: Path) -> None:
    if kind == "mosquitto" and not mosquitto() and not os.environ.get("CI"):
        pytest.skip("MOSQUITTO IS NOT INSTALLED: apt-get install mosquitto")
    home, out, port = tmp_path / "house", tmp_path / "query", _free("127.0.0.1")
    certificates.make(home)
    tokens = dict(zip(NAMES, devices.enrol(home, NAMES), strict=True))
    started = []

    def start(*words: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([*PYTHON, *map(str, words)], stdout=subprocess.PIPE, env=ENVIRONMENT)
        started.append(process)
        return process

    def join(number: int, name: str) -> None:
        X = np.full((10, 2), number, np.float32)
        np.savez(tmp_path / f"{name}.npz", X=X, y=X[:, 0], columns=np.array(["a", "b"]))
        words = ["--broker", f"mqtts://127.0.0.1:{port}", "--token", tokens[name], "--once", "--reconnect", "0.3"]
        start("join", *words, "--data", tmp_path / f"{name}.npz", "--state", tmp_path / name)

    try:
        words = ["query", "mean(b)", "--enrolled", home, "--broker", kind, "--port", port, "--out", out, "--devices", 2]
        asked = start(*words, "--timeout", 60, "--json")
        end = time.monotonic() + 30
        while True:
            try:
                assert ask("status", out)["state"] == "running"  # over TLS, too
                break
            except FedthingsError:
                assert time.monotonic() < end and asked.poll() is None
                time.sleep(0.1)
        for number, name in enumerate(NAMES):
            join(number, name)
        said, _ = asked.communicate(timeout=60)
        assert asked.returncode == 0 and json.loads(said)["value"] == pytest.approx(0.5, abs=0.01)
    finally:
        for process in started:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
