"""A device that sleeps, as a real process: it takes part, and says little."""

from __future__ import annotations

import json
import shutil
import subprocess
import time

import pytest

import fedthings as ft
from fedthings.learn.digits import digits
from processes import ENVIRONMENT, PYTHON, Processes

VERSIONS = 6


@pytest.mark.skipif(not shutil.which("mosquitto"), reason="MOSQUITTO IS NOT INSTALLED: apt-get install mosquitto")
def test_a_sleeping_device_takes_part_with_at_most_three_messages_a_version(tmp_path):
    """Awake for 0.5 seconds of every 2; another device is linked all the time."""
    task = ft.Task(model=ft.mlp(64, 10), loss="cross_entropy")
    spec = ft.Federation(task, pace=ft.Pace(goal=2, patience=30.0), devices=2)
    with Processes(spec, digits(2, 0), VERSIONS, tmp_path, "mosquitto") as world:
        world.serve()
        sleeper, linked = world.names
        world.join(linked)
        command = [*PYTHON, "join", "--broker", f"mqtt://127.0.0.1:{world.port}", "--name", sleeper, "--once"]
        command += ["--wake", "2", "--awake", "0.5", "--json"]
        command += ["--data", str(world.files[sleeper]), "--state", str(tmp_path / "state" / sleeper)]
        environment = {**ENVIRONMENT, "FEDTHINGS_PASSWORD": world.passwords[sleeper]}
        begun = time.monotonic()
        asleep = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        try:
            summary = world.wait(120)
            out, _ = asleep.communicate(timeout=30)
        finally:
            asleep.kill()
            asleep.wait()
        took = time.monotonic() - begun
    assert asleep.returncode == 0
    did = json.loads(out.splitlines()[-1])
    print(f"{did}, {took:.0f} s")
    assert summary["rounds"] == VERSIONS
    assert summary["total"]["updates"] == 2 * VERSIONS
    assert not summary["total"]["dropped"]
    assert did["reports"] == VERSIONS + 1  # and the closing evaluation
    # Beside its versions it says hello when it first comes and at the end, and bye.
    assert did["messages_sent"] <= 3 * (VERSIONS + 1) + 3
