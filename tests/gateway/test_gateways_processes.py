"""Gateways as processes of their own over real MQTT: the simulator's model, bit for bit, whatever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

import fedthings as ft
from fedthings.commands.control import page
from fedthings.federation import dumps
from fedthings.identity.seal import DeviceSeal
from fedthings.learn.digits import digits
from fedthings.messages import Announce, Hello, Refusal, Relay
from fedthings.run import read
from fedthings.server import devices, place
from fedthings.server.ask import ask
from fedthings.server.broker import _free, mosquitto
from fedthings.transport.mqtt import MqttTransport
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Delivery
from fedthings.wire import pack
from gated import Gated
from processes import ENVIRONMENT, PYTHON, Processes, enrolled

if not mosquitto() and not os.environ.get("CI"):
    pytest.skip("MOSQUITTO IS NOT INSTALLED: apt-get install mosquitto", allow_module_level=True)


def federation(n: int, **fields) -> ft.Federation:
    recipe = ft.Recipe(lr=0.3, batch=16, keep=0.2)
    task = ft.Task(model=ft.mlp(64, 16, 10), loss="cross_entropy", normalise="fleet", recipe=recipe)
    return ft.Federation(task, ft.fedavgm(), ft.Pace(goal=n, patience=600.0), seed=4, devices=n, **fields)


def assert_same(world: Processes, simulated: ft.Run, directory: Path) -> None:
    simulated.save(directory)
    assert (world.out / "model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()
    for served, line in zip(read(world.out).history, simulated.history, strict=True):
        same = ("version", "updates", "dropped", "loss", "metrics", "worst_decile", "bytes_up")
        assert {k: served[k] for k in same} == {k: line[k] for k in same}


@pytest.mark.parametrize(
    "under",
    [{"west": ""}, {"west": "", "east": "", "north": "", "south": ""}, {"top": "", "west": "top", "east": "top"}],
    ids=["1", "4", "stacked"],
)
def test_the_model_is_the_simulators(under, tmp_path):
    spec, fleet, rounds = federation(8), digits(8, 1), 8
    with Gated(spec, fleet, rounds, tmp_path, under) as world:
        world.start()
        world.wait()
        passed = world.passed()
        assert_same(world, ft.simulate(spec, fleet, rounds), tmp_path / "simulated")
        assert sum(did["merged"] for name, did in passed.items() if not under[name]) == 8 * (rounds + 2)
        assert all(not list(world.place(name).glob("*/spool/*")) for name in under)


@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.long)], ids=["calm", "killed"])
def test_edges_make_rounds_of_their_own_and_the_model_is_the_simulators(killed, tmp_path):
    rounds = 60 if killed else 6
    spec = federation(2, edge=ft.Edge(3, patience=600.0))
    fleet = digits(6, 1).under({f"device-{i}": "west" if i < 4 else "east" for i in range(6)})
    with Gated(spec, fleet, rounds, tmp_path, {"west": "", "east": ""}) as world:
        world.start()
        if killed:
            world.until(5)
            facts = ask("status", world.place("west"))
            assert facts["edge"] and facts["waiting"] and dict(page(facts))["devices"].startswith("4 present")
            world.kill(world.gates["west"])
            world.gate("west")
        world.wait()
        passed = world.passed()
        assert_same(world, ft.simulate(spec, fleet, rounds), tmp_path / "simulated")
        assert passed["east"]["merged"] == 2 * (3 * rounds + 2) and passed["east"]["sums"] == rounds + 2


def test_a_gateway_is_killed_and_its_devices_move(tmp_path):
    # So many rounds that the gateway is back before they end: without it they go on, a hundredth of a second each.
    spec, fleet, rounds = federation(6), digits(6, 1), 300
    with Gated(spec, fleet, rounds, tmp_path, {"west": "", "east": ""}) as world:
        world.start()
        world.until(4)
        world.kill(world.gates["west"])
        for name in [name for name, home in world.homes.items() if home == "west"]:
            world.kill(world.joined[name])
            world.homes[name] = "east"
            world.join(name)
        world.until(8)
        world.gate("west")  # it comes back with whatever it still held
        world.wait()
        world.passed()
        assert_same(world, ft.simulate(spec, fleet, rounds), tmp_path / "simulated")


def test_devices_fall_back_on_the_coordinator_and_come_back(tmp_path):
    """Their gateway is killed with the reports that it holds: by themselves they go on at the coordinator's broker."""
    spec, fleet, rounds = federation(4), digits(4, 1), 500
    with Gated(spec, fleet, rounds, tmp_path, {"west": ""}) as world:
        direct = dict(world.tokens)
        world.serve()
        world.gate("west")
        for name in world.names:
            more = ["--broker", f"mqtt://127.0.0.1:{world.port}", "--token", str(direct[name])]
            world.join(name, *more, "--next-after", "0.5", "--go-back", "0.5")
        world.until(5)
        world.kill(world.gates["west"])
        at = world.versions()
        world.until(at + 20)
        world.gate("west")
        end = time.monotonic() + 60
        while ask("status", world.out).get("gateways") != {"west": 4}:
            assert world.served.poll() is None and time.monotonic() < end, world.log(world.names[0])
            time.sleep(0.1)
        world.until(world.versions() + 5)
        world.kill(world.gates["west"])  # and once more, for good
        world.wait()
        for name in world.names:
            said = world.log(name)
            assert "was out of reach for" in said and f"now 127.0.0.1:{world.port}" in said
            assert f"linked to 127.0.0.1:{world.port_of('west')}" in said
        assert_same(world, ft.simulate(spec, fleet, rounds), tmp_path / "simulated")


@pytest.mark.long
def test_gateways_are_killed_and_start_again(tmp_path):
    spec, fleet, rounds = federation(6), digits(6, 1), 60
    with Gated(spec, fleet, rounds, tmp_path, {"top": "", "west": "top", "east": ""}) as world:
        world.start()
        for version, name in ((3, "west"), (7, "top"), (11, "east"), (15, "west"), (19, "top")):
            world.until(version)
            world.kill(world.gates[name])
            world.gate(name)
        world.wait()
        world.passed()
        assert_same(world, ft.simulate(spec, fleet, rounds), tmp_path / "simulated")


def test_what_is_above_is_away_for_some_seconds(tmp_path):
    """The coordinator and its broker are killed, and with them the link upward; those below notice nothing."""
    spec, fleet, rounds = federation(4), digits(4, 1), 20
    with Gated(spec, fleet, rounds, tmp_path, {"west": ""}) as world:
        world.start()
        world.until(4)
        world.kill(world.served)
        time.sleep(2)
        facts = ask("status", world.place("west"))
        assert facts["gateway"] and not facts["linked"] and facts["present"] == 4
        assert any(wait["for"] == "the link upward" for wait in facts["waiting"])
        world.serve()
        world.wait()
        world.passed()
        assert_same(world, ft.simulate(spec, fleet, rounds), tmp_path / "simulated")


def refused(at: tuple[str, DeviceSeal], name: str, federation: str, message) -> Refusal:
    """Say `message` to whoever is the coordinator at a broker, and return what it answers."""
    url, seal = at
    end = MqttTransport(url, name, seal=seal)
    try:
        while not isinstance(getattr(arrival := end.inbox.get(10), "message", None), Announce):
            assert arrival is not None, "nothing is announced"
        seal._leads[federation] = seal._leads[arrival.federation]  # whatever it was that it has heard of
        end.send(COORDINATOR, message, federation)
        stop = time.monotonic() + 10
        while (left := stop - time.monotonic()) > 0:
            arrival = end.inbox.get(left)
            if isinstance(arrival, Delivery) and isinstance(arrival.message, Refusal):
                return arrival.message
    finally:
        end.close()
    raise AssertionError("there is no answer")


def test_devices_of_another_federation_are_refused_at_a_gateway_and_behind_one(tmp_path):
    """A device that comes to the wrong gateway; a gateway that speaks for the wrong devices; all else goes on."""
    spec, fleet, rounds = federation(4), digits(4, 1), 8
    with Gated(spec, fleet, rounds, tmp_path, {"west": "", "rogue": ""}) as world:
        words = world.let_in("west", ["guest"])
        world.homes = dict.fromkeys(fleet.names, "west")
        world.serve()
        world.gate("west")
        at = enrolled("guest", words["guest"], tmp_path / "guest", world.port_of("west"))
        ours = (facts := ask("status", world.place("west")))["federation"]
        assert facts["gateway"]
        answer = refused(at, "guest", "other-1", Hello("x"))
        assert answer.reason == "another federation" and "other-1" in answer.detail, answer
        assert ask("status", world.place("west"))["refused"] == {"another federation": 1}
        above = world.enrolled("rogue")
        federation_ = place.read(world.out).federation
        for device, theirs, reason in (
            ("device-0", "other-1", "another federation"),
            ("guest", federation_, "unknown device"),
        ):
            answer = refused(above, "rogue", federation_, Relay(device, pack(Hello("x"), theirs)))
            assert answer.reason == reason, answer
        assert ask("status", world.out)["refused"] == {"another federation": 1, "unknown device": 1}
        assert ours == ask("status", world.out)["federation"]
        for name in fleet.names:
            world.join(name)
        world.wait()
        assert world.passed()["west"]["merged"] == 4 * (rounds + 2)
        assert_same(world, ft.simulate(spec, fleet, rounds), tmp_path / "simulated")


def test_several_gateways_at_one_broker_under_roots_of_their_own(tmp_path):
    """As at an operator's clustered broker: coordinator, gateways and devices all link to it."""
    spec, fleet, rounds = federation(4), digits(4, 1), 6
    port = _free("127.0.0.1")
    (tmp_path / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    url = f"mqtt://127.0.0.1:{port}"
    processes = []

    def run(*words: str, **more) -> subprocess.Popen:
        processes.append(subprocess.Popen([str(word) for word in words], env=ENVIRONMENT, **more))
        return processes[-1]

    try:
        run(mosquitto(), "-c", tmp_path / "mosquitto.conf", stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        (tmp_path / "fed.toml").write_text(dumps(spec))
        out = tmp_path / "run"
        gates_ = {f"ft-{name}": tmp_path / name for name in ("west", "east")}
        at = {name: f"ft-{('west', 'east')[i % 2]}" for i, name in enumerate(fleet.names)}
        devices.enrol(out, fleet.names)
        tokens = dict(zip(("west", "east"), devices.enrol(out, ("west", "east")), strict=True))
        for name, home in at.items():
            (tokens[name],) = devices.enrol(gates_[home], [name])
        serve = run(
            *PYTHON,
            "serve",
            tmp_path / "fed.toml",
            "--rounds",
            rounds,
            "--out",
            out,
            "--broker",
            url,
            "--gateway",
            "west",
            "--gateway",
            "east",
        )
        gates = [
            run(
                *PYTHON,
                "gateway",
                "--broker",
                url,
                "--token",
                tokens[name],
                "--below",
                url,
                "--below-root",
                f"ft-{name}",
                "--out",
                tmp_path / name,
                "--once",
            )
            for name in ("west", "east")
        ]
        files = fleet.write(tmp_path / "data")
        joined = [
            run(
                *PYTHON,
                "join",
                "--broker",
                url,
                "--token",
                tokens[name],
                "--data",
                files[name],
                "--once",
                "--state",
                tmp_path / "state" / name,
                "--root",
                at[name],
            )
            for name in fleet.names
        ]
        assert [process.wait(60) for process in (serve, *gates, *joined)] == [0] * 7
        run_ = ft.simulate(spec, fleet, rounds)
        run_.save(tmp_path / "simulated")
        assert (out / "model.safetensors").read_bytes() == (tmp_path / "simulated/model.safetensors").read_bytes()
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()


def test_in_secure_mode_shares_are_summed_on_their_way_to_the_same_model(tmp_path):
    """A coordinator, a helper and gateways, each a process; helper and a gateway are killed once."""
    key = subprocess.run([*PYTHON, "helper", "--out", str(tmp_path / "helper")], capture_output=True, env=ENVIRONMENT)
    secure = ft.two_servers(key.stdout.decode().strip(), min_batch=6)
    spec, fleet, rounds = federation(6, stages=(ft.clip(2.0),), secure=secure), digits(6, 1), 40
    helpers: list[subprocess.Popen[bytes]] = []

    def help_out() -> None:
        command = [*PYTHON, "helper", "--broker", f"mqtt://127.0.0.1:{world.port}", "--out", str(tmp_path / "helper")]
        command += ["--token", str(world.tokens["helper"]), "--reconnect", "0.3"]
        with (tmp_path / "helper.log").open("ab") as log:
            helpers.append(subprocess.Popen(command, stderr=log, env=ENVIRONMENT))

    with Gated(spec, fleet, rounds, tmp_path / "world", {"west": "", "east": ""}) as world:
        (world.tokens["helper"],) = devices.enrol(world.out, ["helper"])
        try:
            world.start()
            help_out()
            world.until(4)
            world.kill(helpers[-1])
            help_out()
            world.until(12)
            world.kill(world.gates["west"])
            world.gate("west")
            world.wait()
            passed = world.passed()
        finally:
            for process in helpers:
                process.kill()
                process.wait()
        assert_same(world, ft.simulate(spec, fleet, rounds), tmp_path / "simulated")
        assert passed["east"]["merged"] == 3 * (rounds + 2) and passed["east"]["sums"] < passed["east"]["merged"]
        assert not list((world.out / "subtotals").iterdir()) and not list((world.out / "shares").iterdir())
