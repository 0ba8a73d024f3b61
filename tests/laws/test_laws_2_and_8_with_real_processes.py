"""Laws 2 and 8 with real processes over real MQTT: the simulator's model, bit for bit, whatever is killed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest
from msgspec import structs

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


LONG = pytest.mark.parametrize("broker", ["mosquitto", pytest.param("amqtt", marks=pytest.mark.long)], indirect=True)
"""A minute and more with the slower broker: with that one only among the long runs."""


def federation(devices: int, **recipe) -> ft.Federation:
    settings = {"lr": 0.3, "batch": 16, "keep": 0.2, **recipe}
    task = ft.Task(model=ft.mlp(64, 16, 10), loss="cross_entropy", normalise="fleet", recipe=ft.Recipe(**settings))
    return ft.Federation(task, ft.fedavgm(), ft.Pace(goal=devices, patience=600.0), seed=4, devices=devices)


def assert_the_same(world: Processes, simulated: ft.Run, directory: Path, out: Path | None = None) -> None:
    """The model file is the simulator's, byte for byte; every version has every report exactly once."""
    out = out or world.out
    simulated.save(directory)
    assert (out / "model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()
    run = read(out)
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


def two_federations() -> list[ft.Federation]:
    first, second = federation(4), federation(4, lr=0.1, epochs=2)
    return [structs.replace(first, name="heat"), structs.replace(second, name="light", seed=5)]


@LONG
def test_two_federations_share_four_processes(broker, tmp_path):
    """One coordinator, which is killed, one broker, one process a device: both models are the simulator's."""
    rounds, specs, fleet = 30, two_federations(), digits(4, 1)
    simulated = [ft.simulate(spec, fleet, rounds) for spec in specs]
    with Processes(specs, fleet, rounds, tmp_path, broker) as world:
        world.start()
        for version, later in moments(f"two {broker}", 15, 5):
            until(world, version, later)
            world.kill(world.served)
            world.serve()
        summary = world.wait(300)
        assert list(summary) == ["heat", "light"]
        for spec, run, out in zip(specs, simulated, world.runs, strict=True):
            assert_the_same(world, run, tmp_path / "simulated" / spec.name, out)
            kept = tmp_path / "state" / world.names[0] / spec.name / "model.safetensors"
            assert kept.read_bytes() == (out / "model.safetensors").read_bytes()


def moments(label: str, versions: int, n: int) -> list[tuple[int, float]]:
    """Return n moments: after which version, and how much of a version later.

    A version may take a few milliseconds: leave many between the last moment and the run's end.
    """
    rng = keyed("moments", label)
    return sorted((int(v), float(rng.random())) for v in rng.integers(1, versions, n))


def until(world: Processes, version: int, later: float) -> None:
    """Wait for a moment, which must come before the run's end."""
    end = time.monotonic() + 120
    while world.versions() < version:
        _goes_on(world, end)
        time.sleep(0.002)
    time.sleep(later * 0.08)


def _goes_on(world: Processes, end: float) -> None:
    assert world.served is not None
    assert world.served.poll() is None, "the run has ended before all was killed"
    assert time.monotonic() < end, (world.directory / "serve.log").read_text()[-2000:]


@LONG
@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=pytest.mark.long)])
def test_the_coordinator_is_killed(kills, broker, tmp_path):
    """Its embedded broker dies with it, and comes back at the same port with it."""
    rounds = 4 * kills
    spec, fleet = federation(4, epochs=2), digits(4, 1)
    simulated = ft.simulate(spec, fleet, rounds)
    with Processes(spec, fleet, rounds, tmp_path, broker) as world:
        world.start()
        for version, later in moments(broker, 9 * kills // 5, kills):
            until(world, version, later)
            world.kill(world.served)
            world.serve()
        world.wait(400)
        assert_the_same(world, simulated, tmp_path / "simulated")


def test_the_broker_is_killed(broker, tmp_path):
    rounds = 60
    spec, fleet = federation(3), digits(3, 1)
    simulated = ft.simulate(spec, fleet, rounds)
    with Processes(spec, fleet, rounds, tmp_path, broker) as world:
        world.start()
        for version, later in moments("broker", 10, 3):
            until(world, version, later)
            end = time.monotonic() + 60
            while not (alive := world.broker_processes()):
                _goes_on(world, end)
                time.sleep(0.05)
            alive[-1].kill()
            alive[-1].wait(60)
        world.wait(300)
        assert_the_same(world, simulated, tmp_path / "simulated")


def test_devices_are_killed(broker, tmp_path):
    rounds = 60
    spec, fleet = federation(3), digits(3, 1)
    simulated = ft.simulate(spec, fleet, rounds)
    with Processes(spec, fleet, rounds, tmp_path, broker) as world:
        world.start()
        for i, (version, later) in enumerate(moments("device", 10, 6)):
            until(world, version, later)
            name = world.names[i % 3]
            world.kill(world.joined[name])
            world.join(name)
        world.wait(300)
        assert_the_same(world, simulated, tmp_path / "simulated")
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
