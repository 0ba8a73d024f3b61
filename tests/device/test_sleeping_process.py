"""Devices that sleep, as real processes: they take part, and say little."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import fedthings as ft
from fedthings.learn.digits import digits
from processes import ENVIRONMENT, PYTHON, Processes

VERSIONS = 6

pytestmark = pytest.mark.skipif(
    not shutil.which("mosquitto"), reason="MOSQUITTO IS NOT INSTALLED: apt-get install mosquitto"
)


def asleep(world: Processes, name: str, *options: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Let `name` take part as one that sleeps; return the run's summary and what the device did."""
    command = [*PYTHON, "join", "--broker", f"mqtt://127.0.0.1:{world.port}", "--once", *options]
    command += ["--token", str(world.tokens[name])]
    command += ["--json", "--data", str(world.files[name]), "--state", str(world.directory / "state" / name)]
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    try:
        summary = world.wait(180)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    did = json.loads(out.splitlines()[-1])
    print(f"{did}, {time.monotonic() - begun:.0f} s")
    return summary, did


def test_a_sleeping_device_takes_part_with_at_most_three_messages_a_version(tmp_path: Path) -> None:
    """Awake for 0.5 seconds of every 2; another device is linked all the time."""
    task = ft.Task(model=ft.mlp(64, 10), loss="cross_entropy")
    spec = ft.Federation(task, pace=ft.Pace(goal=2, patience=30.0), devices=2)
    with Processes(spec, digits(2, 0), VERSIONS, tmp_path, "mosquitto") as world:
        world.serve()
        sleeper, linked = world.names
        world.join(linked)
        summary, did = asleep(world, sleeper, "--wake", "2", "--awake", "0.5")
    assert summary["rounds"] == VERSIONS
    assert summary["total"]["updates"] == 2 * VERSIONS
    assert not summary["total"]["dropped"]
    assert did["reports"] == VERSIONS + 1  # and the closing evaluation
    # Beside its versions: hello and pause when it first comes; at the end hello, farewell, bye.
    assert did["messages_sent"] + did["messages_received"] <= 3 * (VERSIONS + 1) + 5
    assert did["wakings"] <= VERSIONS + 3


def test_a_sleeping_device_fetches_a_large_model_over_http(tmp_path: Path) -> None:
    """The model takes several wakings of 1 second each: each goes on where the last one was."""
    task = ft.Task(model=ft.mlp(64, 15000, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.1, batch=64))
    spec = ft.Federation(task, pace=ft.Pace(goal=1, patience=100.0), devices=1)
    with Processes(spec, digits(1, 0), 1, tmp_path, "mosquitto", "--http", "0") as world:
        world.serve()
        summary, did = asleep(world, world.names[0], "--wake", "1.5", "--awake", "1", "--rate", "2000000")
    size = 4 * task.model.layout.dim
    assert summary["total"]["updates"] == 1
    assert not summary["total"]["dropped"]
    assert did["wakings"] > 4
    assert 2 * size <= did["bytes_http"] < 2.5 * size  # the models of two versions, and little of them twice
    assert did["bytes_down"] - did["bytes_http"] < 0.1 * size
