"""A gateway, a helper and a device that are stopped while they wait to be let in."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from fedthings.server import devices
from fedthings.server.broker import Broker
from processes import ENVIRONMENT, PYTHON

WORDS: dict[str, list[str]] = {
    "gateway": ["--below", "mosquitto"],
    "helper": [],
    "join": ["--data", "rows.npz"],
}


@pytest.mark.parametrize(
    ("who", "number"), [("gateway", signal.SIGINT), ("gateway", signal.SIGTERM), ("helper", signal.SIGINT), ("join", 2)]
)
def test_while_it_waits_for_a_coordinator(who: str, number: int, tmp_path: Path) -> None:
    """The name is that of the token, for a helper too."""
    np.savez(tmp_path / "rows.npz", X=np.ones((4, 2), "f4"), y=np.arange(4) % 2)
    (token,) = devices.enrol(tmp_path / "hub", ["west"])
    state = "--state" if who == "join" else "--out"
    words = [*PYTHON, who, "--token", str(token), state, str(tmp_path / "west"), *WORDS[who]]
    with Broker.start(tmp_path / "broker", passwords={"west": "secret"}) as broker:
        words += ["--broker", f"mqtt://127.0.0.1:{broker.port}"]
        environment = {**ENVIRONMENT, "FEDTHINGS_PASSWORD": "secret"}
        log = tmp_path / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(words, stdout=file, stderr=file, env=environment, cwd=tmp_path)
        end = time.monotonic() + 30
        try:
            while "west shows its token" not in log.read_text():
                assert time.monotonic() < end and process.poll() is None, log.read_text()
                time.sleep(0.02)
            os.kill(process.pid, number)
            assert process.wait(10) == 128 + number, log.read_text()
        finally:
            process.kill()
            process.wait()
    assert "Traceback" not in log.read_text()
