"""A query to real processes: the command asks, agents that joined answer, and the answer is the simulated one."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fedthings.device.spending import FILE
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


def test_real_devices_answer_with_noise_of_their_own(tmp_path: Path) -> None:
    y = np.repeat([0, 2, 2, 1], 5)
    things = ft.Fleet.from_arrays(np.zeros((20, 1), "f4"), y, np.repeat(np.arange(4), 5))
    asked = question("labels(3)", devices=4, local=ft.local_dp(30.0))  # hardly any: a lie in 10 million million
    with Processes(asked, things, 1, tmp_path / "world", "mosquitto") as world:
        world.start()
        answer = world.wait()["answer"]
    assert np.array(answer["value"]["counts"]) == pytest.approx([1, 1, 2], abs=1e-6)
    assert answer["value"]["others"] == pytest.approx(0, abs=1e-6)
    assert (answer["devices"], answer["epsilon"]) == (4, 30)
    for name in things.names:
        assert json.loads((tmp_path / "world" / "state" / name / FILE).read_text()) == {"labels(3)": 30.0}
        assert "answers labels(3) with noise of its own: epsilon 30" in (tmp_path / "world" / f"{name}.log").read_text()


def test_noise_of_few_real_devices_is_not_the_simulator_s(tmp_path: Path) -> None:
    things = ft.Fleet.from_arrays(np.zeros((3, 1), "f4"), np.zeros(3), np.arange(3))
    edges = f"[{', '.join(map(str, range(1, 130)))}]"
    asked = question(f"histogram(0, {edges})", devices=3, local=ft.local_dp(0.01))  # 393 bits of even chance
    with Processes(asked, things, 1, tmp_path / "world", "mosquitto") as world:
        world.start()
        answer = world.wait()["answer"]
    assert answer["mechanism"] == "unary encoding"
    assert answer["value"]["counts"] != ft.simulate(asked, things, 1).summary["answer"]["value"]["counts"]


def command(*words: str) -> subprocess.CompletedProcess[str]:
    asked = [*PYTHON, "query", *words]
    return subprocess.run(asked, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)


def test_the_command_asks_for_noise_and_says_what_it_costs(tmp_path: Path) -> None:
    things, file = fleet(tmp_path), str(tmp_path / "f.npz")
    bounds = ("--epsilon", "1", "--between", "-3", "3")
    ended = command("mean(b)", "--fleet", file, *bounds, "--out", str(tmp_path / "run"))
    due = ft.query(things, "mean(b)", local=ft.local_dp(1, (-3, 3)))
    assert float(ended.stdout) == pytest.approx(due.value, rel=1e-6)
    assert f"standard error {due.error:.7g}\n" in ended.stderr
    assert "of 3 devices, each at a cost of epsilon 1" in ended.stderr
    ended = command("mean(b)", "--fleet", file, *bounds, "--json")
    assert json.loads(ended.stdout)["error"] == due.error
    ended = command("labels(2)", "--fleet", file, "--epsilon", "1")
    assert "standard error counts " in ended.stderr
    assert ended.stdout.splitlines()[-1].startswith("missing ")
    told = subprocess.run([*PYTHON, "privacy", str(tmp_path / "run")], capture_output=True, text=True, env=ENVIRONMENT)
    assert "epsilon       1 at delta 0, of each device for each answer" in told.stdout
    assert "mechanism     one bit, on the device itself" in told.stdout
    refused = {
        ("mean(b)", "--epsilon", "1"): "needs bounds beside local",
        ("mean(b)", "--between", "0", "1"): "give --epsilon too",
        ("mean(b)", "--epsilon", "nan", "--between", "0", "1"): "local.epsilon is nan",
        ("median(b)", "--epsilon", "1"): "cannot be answered with noise of each device",
    }
    for words, says in refused.items():
        ended = command(*words, "--fleet", file)
        assert ended.returncode == 2 and says in ended.stderr and "Traceback" not in ended.stderr, words


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
