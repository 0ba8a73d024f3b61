"""SecAgg+ over real MQTT: a coordinator and six device processes, of which one is killed for good in mid-version."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

import fedthings as ft
from fedthings.identity.keys import held, public_of
from fedthings.learn.digits import digits
from fedthings.privacy.secagg import Seat
from fedthings.run import read
from fedthings.server.broker import mosquitto
from processes import Processes


def federation(secure: ft.secagg | None) -> ft.Federation:
    recipe = ft.Recipe(lr=0.3, batch=16)
    task = ft.Task(model=ft.mlp(64, 500, 10), loss="cross_entropy", recipe=recipe)
    pace = ft.Pace(goal=6, patience=12.0)
    return ft.Federation(task, ft.fedavg(), pace, stages=(ft.clip(3.0),), seed=4, devices=6, secure=secure)


@pytest.mark.skipif(not mosquitto(), reason="mosquitto is not installed")
def test_one_killed_in_mid_report_is_left_out_and_one_comes_back(tmp_path: Path) -> None:
    rounds, fleet = 4, digits(6, 1)
    with Processes(federation(ft.secagg(heaviest=512, patience=20.0)), fleet, rounds, tmp_path, "mosquitto") as world:
        world.serve()
        gone, back = world.names[3], world.names[1]
        for name in world.names:
            world.join(name, *(("--rate", "60000") if name in (gone, back) else ()))
        spool, end = world.out / "spool", time.monotonic() + 120
        while not (world.versions() >= 1 and list(spool.glob(f"*-{gone}-*.part"))):
            assert time.monotonic() < end and world.served is not None and world.served.poll() is None
            time.sleep(0.003)
        world.kill(world.joined.pop(gone))  # its masks are in all reports of the version
        world.kill(world.joined[back])
        world.join(back)  # with its seat, and perhaps its report, on its disk
        summary = world.wait()
        run = read(world.out)
        seats = [world.directory / "state" / name for name in world.names]
        modes = {path.stat().st_mode & 0o777 for seat in seats for path in seat.rglob("secagg.seat")}
        said = {
            home: msgspec.msgpack.decode(path.read_bytes(), type=Seat).keys.identity
            for home in seats
            for path in home.rglob("secagg.seat")
        }
        assert said == {home: public_of(held(home / "identity.key")) for home in seats}
    assert modes == {0o600}
    assert [line["version"] for line in run.history] == [1, 2, 3, 4]
    counts = [line["updates"] for line in run.history]
    assert counts[0] == 6 and set(counts[1:]) <= {5, 6} and 5 in counts
    assert summary["metrics"]["accuracy"] > 0.8 and np.isfinite(run.row).all()
    assert {reason for line in run.history for reason in line["dropped"]} <= {"deadline", "no keys in time"}
