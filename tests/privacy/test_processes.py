"""A privacy claim with real processes over MQTT: secret noise, a coordinator that is killed, and the ledger."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import fedthings as ft
from fedthings.cli import main
from fedthings.learn.digits import digits
from fedthings.privacy import ledger
from fedthings.run import read
from fedthings.server.broker import mosquitto
from processes import Processes

ROUNDS = 15


@pytest.mark.skipif(not mosquitto(), reason="MOSQUITTO IS NOT INSTALLED: apt-get install mosquitto")
def test_a_killed_coordinator_goes_on_with_one_ledger_and_its_secret_noise(tmp_path: Path, capsys) -> None:
    task = ft.Task(model=ft.mlp(64, 16, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.3, batch=16))
    pace, claim = ft.Pace(goal=4, patience=600.0), ft.central_dp(epsilon=900, delta=1e-2)
    spec = ft.Federation(task, ft.fedavg(weight="equal"), pace, stages=(ft.clip(2.0),), privacy=claim, devices=4)
    fleet = digits(4, 1)
    with Processes(spec, fleet, ROUNDS, tmp_path, "mosquitto") as world:
        world.start()
        for version in (3, 8):
            while world.versions() < version:
                assert world.served is not None
                assert world.served.poll() is None
                time.sleep(0.01)
            assert world.served is not None
            world.kill(world.served)
            claimed, lines = ledger.read(world.out)
            assert [line["version"] for line in lines] == list(range(1, len(lines) + 1))
            assert claimed.epsilon(len(lines)) <= 900
            assert main(["privacy", str(world.out)]) == 0
            assert "AES-256" in capsys.readouterr().out
            world.serve()
        summary = world.wait()
    run = read(world.out)
    assert [line["version"] for line in ledger.read(world.out)[1]] == list(range(1, ROUNDS + 1))
    assert (summary["privacy"]["noise"], summary["privacy"]["releases"]) == ("secure", ROUNDS)
    assert {line["updates"] for line in run.history} == {4}
    assert all(line["metrics"] == {} and line["loss"] is None for line in run.history)
    for file in tmp_path.rglob("*.log"):
        assert b"Traceback" not in file.read_bytes()
    assert json.loads((world.out / "summary.json").read_text())["privacy"] == summary["privacy"]
