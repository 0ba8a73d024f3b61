"""A query to real processes: the command asks, agents that joined answer, and the answer is the simulated one."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import numpy as np

import fedthings as ft
from fedthings.federation import question
from processes import ENVIRONMENT, PYTHON, Processes

TEXT = "quantiles(b, [.05, .5, .95])"


def fleet(tmp_path: Path) -> ft.Fleet:
    X = np.random.default_rng(0).normal(size=(120, 2)).astype("f4")
    np.savez(tmp_path / "f.npz", X=X, y=X[:, 0], device=np.arange(120) % 3, columns=np.array(["a", "b"]))
    return ft.Fleet.from_npz(tmp_path / "f.npz")


def test_real_devices_answer_as_simulated_ones(tmp_path: Path) -> None:
    things = fleet(tmp_path)
    due = ft.query(things, TEXT)
    with Processes(question(TEXT, devices=3), things, 1, tmp_path / "world", "mosquitto") as world:
        world.start()
        summary = world.wait()
    assert summary["answer"]["value"] == due.value
    assert (summary["answer"]["devices"], summary["rounds"]) == (3, due.rounds)


def test_the_command_asks_and_gives_up(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = [*PYTHON, "query", TEXT, "--port", str(port), "--out", str(tmp_path / "run"), "--timeout", "0.5"]
    ended = subprocess.run(asked, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert ended.returncode == 4
    assert "no answer after 0.5 s, waiting for" in ended.stderr
    fleet(tmp_path)
    asked = [*PYTHON, "query", TEXT, "--fleet", str(tmp_path / "f.npz"), "--json"]
    ended = subprocess.run(asked, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert json.loads(ended.stdout)["value"] == ft.query(fleet(tmp_path), TEXT).value
