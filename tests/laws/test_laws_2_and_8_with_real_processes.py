"""Laws 2 and 8 with real processes over real MQTT: the simulator's model, bit for bit, whatever is killed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

import fedthings as ft
from fedthings.learn.digits import digits
from fedthings.run import read
from fedthings.server.broker import mosquitto
from fedthings.vector import keyed
from processes import Processes

BROKERS = ("mosquitto", "amqtt")


@pytest.fixture(params=BROKERS)
def broker(request) -> str:
    if request.param == "mosquitto" and not mosquitto() and not os.environ.get("CI"):
        pytest.skip("MOSQUITTO IS NOT INSTALLED: this law is not checked with it; apt-get install mosquitto")
    return request.param


def federation(devices: int, **recipe) -> ft.Federation:
    settings = {"lr": 0.3, "batch": 16, "keep": 0.2, **recipe}
    task = ft.Task(model=ft.mlp(64, 16, 10), loss="cross_entropy", normalise="fleet", recipe=ft.Recipe(**settings))
    return ft.Federation(task, ft.fedavgm(), ft.Pace(goal=devices, patience=600.0), seed=4, devices=devices)


def assert_the_same(world: Processes, simulated: ft.Run, directory: Path) -> None:
    """The model file is the simulator's, byte for byte; every version has every report exactly once."""
    simulated.save(directory)
    assert (world.out / "model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()
    run = read(world.out)
    assert [line["version"] for line in run.history] == [line["version"] for line in simulated.history]
    for served, line in zip(run.history, simulated.history, strict=True):
        same = ("updates", "dropped", "loss", "metrics", "worst_decile", "bytes_up")
        assert {k: served[k] for k in same} == {k: line[k] for k in same}


def test_four_processes_end_in_the_simulators_model(broker, tmp_path):
    spec, fleet = federation(4), digits(4, 1)
    simulated = ft.simulate(spec, fleet, 12)
    with Processes(spec, fleet, 12, tmp_path, broker) as world:
        world.start()
        world.wait()
        assert_the_same(world, simulated, tmp_path / "simulated")


def moments(label: str, versions: int, n: int) -> list[tuple[int, float]]:
    """Return n moments: after which version, and how much of a version later."""
    rng = keyed("moments", label)
    return sorted((int(v), float(rng.random())) for v in rng.integers(1, versions, n))


def until(world: Processes, version: int, later: float) -> bool:
    """Wait for a moment; False when the run has ended before."""
    assert world.served is not None
    while world.versions() < version:
        if world.served.poll() is not None:
            return False
        time.sleep(0.002)
    time.sleep(later * 0.08)
    return world.served.poll() is None


def test_the_coordinator_is_killed_twenty_times(broker, tmp_path):
    """Its embedded broker dies with it, and comes back at the same port with it."""
    rounds = 40
    spec, fleet = federation(4, epochs=2), digits(4, 1)
    simulated = ft.simulate(spec, fleet, rounds)
    with Processes(spec, fleet, rounds, tmp_path, broker) as world:
        world.start()
        killed = 0
        for version, later in moments(broker, rounds - 4, 20):
            if not until(world, version, later):
                break
            world.kill(world.served)
            killed += 1
            world.serve()
        world.wait(400)
        assert killed == 20
        assert_the_same(world, simulated, tmp_path / "simulated")


def test_the_broker_is_killed(broker, tmp_path):
    rounds = 15
    spec, fleet = federation(3), digits(3, 1)
    simulated = ft.simulate(spec, fleet, rounds)
    with Processes(spec, fleet, rounds, tmp_path, broker) as world:
        world.start()
        killed = 0
        for version, later in moments("broker", rounds - 5, 3):
            if not until(world, version, later):
                break
            while not (alive := world.broker_processes()):
                time.sleep(0.05)
            alive[-1].kill()
            killed += 1
            time.sleep(0.5)
        world.wait(300)
        assert killed == 3
        assert_the_same(world, simulated, tmp_path / "simulated")


def test_devices_are_killed(broker, tmp_path):
    rounds = 15
    spec, fleet = federation(3), digits(3, 1)
    simulated = ft.simulate(spec, fleet, rounds)
    with Processes(spec, fleet, rounds, tmp_path, broker) as world:
        world.start()
        for i, (version, later) in enumerate(moments("device", rounds - 5, 6)):
            if not until(world, version, later):
                break
            name = world.names[i % 3]
            world.kill(world.joined[name])
            world.join(name)
        world.wait(300)
        assert_the_same(world, simulated, tmp_path / "simulated")
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
