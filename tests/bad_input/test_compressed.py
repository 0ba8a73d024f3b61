"""Over real sockets: a compressed report that lies about its size, and a model told by one that is lost or damaged."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import fedthings as ft
from fedthings import checkpoint
from fedthings.bodies import Report
from fedthings.device.shelf import STATE
from fedthings.engine import Engine
from fedthings.learn.digits import digits
from fedthings.messages import Assignment, Decline, Hello, Offer, Receipt, Refusal
from fedthings.run import read
from fedthings.transport.chunks import Source
from fedthings.transport.mqtt import MqttTransport
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Delivery, Linked
from fedthings.wire import pack_body
from processes import Processes

DEVICES = 3


def federation(goal: int = DEVICES, **more) -> ft.Federation:
    task = ft.Task(model=ft.mlp(64, 32, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.2, batch=16))
    pace = ft.Pace(goal=goal, patience=60.0, quorum=DEVICES - 1)
    return ft.Federation(task, ft.fedavg(), pace, seed=3, name="lies", devices=goal, **more)


def untrue(due: Report, version: int) -> tuple[bytes, dict[str, int], str]:
    """Return the body of a report, what its offer says otherwise, and why it is refused."""
    name, row = max(due.arrays.items(), key=lambda item: item[1].nbytes)
    body = pack_body(due)
    match version:
        case 0:  # a terabyte is announced, and a chunk of it sent
            return body, {"size": 1 << 40, "count": 1 << 24}, "too large"
        case 1:  # the head of the codes says that they have a terabyte
            head = body.index(row.tobytes()) - 3
            assert body[head] == 0x59  # a byte string whose length has two bytes
            return body[:head] + b"\x5b" + (1 << 40).to_bytes(8, "big") + body[head + 3 :], {}, "malformed"
        case 2:  # as many codes as would be another model
            return (
                pack_body(Report(due.ticket, {**due.arrays, name: row[:-1]}, due.weight, due.metrics)),
                {},
                "wrong dimension",
            )
        case _:  # a scale for each code
            wide = {other: np.resize(one, 200) for other, one in due.arrays.items() if other != name}
            arrays = {**due.arrays, **wide}
            return pack_body(Report(due.ticket, arrays, due.weight, due.metrics)), {}, "wrong dimension"


@pytest.mark.parametrize("stages", [(ft.int8(),), (ft.eden(4),)], ids=["int8", "eden"])
def test_a_compressed_report_that_lies_about_its_size(stages: tuple, tmp_path: Path) -> None:
    rounds, fleet = 4, digits(DEVICES, 0)
    spec, liar = federation(stages=stages), fleet.names[-1]
    due = Engine(spec, rounds)._template
    with Processes(spec, fleet, rounds, tmp_path, "mosquitto") as world:
        served = world.serve()
        before = max(psutil.Process(served.pid).memory_info().rss, 1)
        url, seal = world.enrolled(liar)
        link = MqttTransport(url, liar, seal=seal)
        for name in fleet.names[:-1]:
            world.join(name)
        told: dict[int, str] = {}
        answers: list[tuple[bool, str]] = []
        details: list[str] = []
        end = time.monotonic() + 120
        while served.poll() is None and time.monotonic() < end:
            arrival = link.inbox.get(0.05)
            message = arrival.message if isinstance(arrival, Delivery) else None
            if isinstance(arrival, Delivery) and not link.federation:
                link.federation = arrival.federation
                link.send(COORDINATOR, Hello("boot"))
            elif isinstance(arrival, Linked) and link.federation:
                link.send(COORDINATOR, Hello("boot"))
            elif isinstance(message, Assignment) and message.ticket.phase == 0:
                version = message.ticket.version
                body, otherwise, told[version] = untrue(
                    Report(message.ticket, due.arrays, due.weight, due.metrics), version
                )
                offer = Source(body).offer("report", message.ticket, first=True)
                fields = {name: getattr(offer, name) for name in offer.__struct_fields__}
                if otherwise:
                    fields |= {"first": None}
                link.send(COORDINATOR, Offer(**{**fields, **otherwise}))
            elif isinstance(message, Assignment):
                link.send(COORDINATOR, Decline(message.ticket, "enough"))
            elif isinstance(message, Receipt):
                answers.append((message.kept, message.reason))
            elif isinstance(message, Refusal):
                details.append(message.detail)
            if served.poll() is None:
                assert psutil.Process(served.pid).memory_info().rss < before + (100 << 20)
        link.close()
        world.wait(60)
        run = read(world.out)
    assert [line["dropped"] for line in run.history[:-1]] == [{told[v]: 1} for v in range(rounds - 1)]
    assert [a for a in answers if a[1] != "enough"] == [(False, told[version]) for version in range(rounds)]
    assert len(details) >= rounds and all(details)
    honest = ft.simulate(federation(DEVICES - 1, stages=stages), _without(fleet, liar), rounds)
    assert [line["loss"] for line in run.history] == [line["loss"] for line in honest.history]


def _without(fleet: ft.Fleet, gone: str) -> ft.Fleet:
    shards = {name: fleet.shard(name) for name in fleet.names if name != gone}
    parts = [(np.concatenate([s.X, s.test_X]), np.concatenate([s.y, s.test_y]), len(s.X)) for s in shards.values()]
    device = np.concatenate([np.full(len(X), name) for (X, _, _), name in zip(parts, shards, strict=True)])
    split = np.concatenate([np.arange(len(X)) >= train for X, _, train in parts])
    return ft.Fleet.from_arrays(
        np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), device, split
    )


@pytest.mark.parametrize("fault", ["gone", "damaged"])
def test_a_device_that_has_lost_what_the_model_is_told_by(fault: str, tmp_path: Path) -> None:
    """It fetches all of the model, and goes on from there: nobody waits, and the model is the simulator's."""
    spec, fleet, rounds, who = federation(down=ft.delta(8, 64)), digits(DEVICES, 0), 40, "device-1"
    with Processes(spec, fleet, rounds, tmp_path, "mosquitto") as world:
        world.start()
        end = time.monotonic() + 60
        while world.versions() < 4:
            assert time.monotonic() < end
            time.sleep(0.005)
        world.kill(world.joined[who])
        state = tmp_path / "state" / who / spec.name
        if fault == "gone":
            shutil.rmtree(state)
        else:
            scope, kept, (ticket, body) = checkpoint.unpack((state / STATE).read_bytes())
            (state / STATE).write_bytes(checkpoint.pack([scope, kept, [ticket, body[:-200] + bytes(200)]]))
        world.join(who)
        world.wait(120)
        simulated = ft.simulate(spec, fleet, rounds)
        simulated.save(tmp_path / "simulated")
        assert (world.out / "model.safetensors").read_bytes() == (
            tmp_path / "simulated" / "model.safetensors"
        ).read_bytes()
        served = read(world.out)
    same = ("updates", "loss", "metrics", "bytes_up", "bytes_down")
    for line, other in zip(served.history, simulated.history, strict=True):
        assert {key: line[key] for key in same} == {key: other[key] for key in same}
