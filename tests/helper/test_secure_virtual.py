"""Secure mode in virtual time: the simulator's model bit for bit, whoever is killed; and nothing else is learned."""

from __future__ import annotations

import numpy as np
import pytest

import fedthings as ft
from fedthings.aggregate import ring
from fedthings.server.status import status
from fedthings.simulation.simulator import simulate
from fedthings.transport.memory import Hub
from secure import Secure, chi_square, federation, fleet, key_in

ROUNDS = 4


@pytest.mark.parametrize(
    "secure, fields",
    [
        ({}, {}),
        ({"bits": 16}, {"stages": (ft.clip(1.0), ft.rotate())}),
        ({"heaviest": 8}, {}),
        ({}, {"strategy": ft.fedavg(weight="equal"), "down": ft.int8(64)}),
    ],
    ids=["32 bits", "16 bits, turned", "light", "equal"],
)
def test_the_model_is_the_simulators_bit_for_bit(tmp_path, secure, fields):
    spec = federation(key_in(tmp_path / "helper"), secure=secure, **fields)
    simulated = simulate(spec, fleet(), ROUNDS)
    served = Secure(spec, fleet(), ROUNDS, tmp_path).run()
    assert np.array_equal(served.row, simulated.row)
    same = ("updates", "dropped", "loss", "metrics", "worst_decile", "bytes_up", "bytes_down")
    for line, other in zip(served.history, simulated.history, strict=True):
        assert {k: line[k] for k in same} == {k: other[k] for k in same}
    assert served.history[-1]["metrics"]["accuracy"] > 0.5


def test_the_model_is_the_plain_one_within_rounding(tmp_path):
    hidden = federation(key_in(tmp_path / "helper"))
    plain = ft.Federation(**{f: getattr(hidden, f) for f in hidden.__struct_fields__ if f != "secure"})
    a, b = simulate(hidden, fleet(), ROUNDS), simulate(plain, fleet(), ROUNDS)
    assert 0 < np.abs(a.row - b.row).max() < 1e-3 * np.abs(b.row).max()
    assert [line["loss"] for line in a.history] == pytest.approx([line["loss"] for line in b.history], rel=1e-3)


def test_the_trace_is_the_simulators(tmp_path):
    spec = federation(key_in(tmp_path / "helper"))
    simulate(spec, fleet(), ROUNDS, out=tmp_path / "simulated", trace=True)
    with (tmp_path / "trace").open("w") as trace:
        Secure(spec, fleet(), ROUNDS, tmp_path, trace=trace).run()
    assert (tmp_path / "trace").read_text() == (tmp_path / "simulated" / "trace.jsonl").read_text()


def test_a_helper_in_quarantine_gives_nothing_until_it_is_let_out(tmp_path):
    spec, held = federation(key_in(tmp_path / "helper")), {"helper"}
    world = Secure(spec, fleet(), ROUNDS, tmp_path, held=held.__contains__)
    steps = 0
    while not world.service.refusals["quarantined"] or steps < 200:
        assert world.step()
        steps += 1
    assert not world.service.history and not world.service.leader.answer and world.service.settlement.fixed
    held.clear()
    assert np.array_equal(world.run().row, simulate(spec, fleet(), ROUNDS).row)


def test_reports_that_come_while_the_helper_is_asked_are_of_the_next_set(tmp_path):
    pace = ft.Pace(goal=4, concurrency=8, staleness=3, patience=50.0)
    spec = federation(key_in(tmp_path / "helper"), 8, pace=pace, strategy=ft.fedavg(weight="equal"))
    world = Secure(spec, fleet(8), 6, tmp_path)
    world.hub.sleep("helper")
    slept, late = 0, 0
    while not world.service.done:
        if world.service.settlement.fixed:
            slept += 1
            if slept == 12:
                late += len(world.service.settlement.filling)
                if late:  # killed with some of the next set in hand, and started again
                    world.mail.clear()
                    world.serve()
                world.hub.link("helper")
        elif slept >= 12:
            slept = 0
            world.hub.sleep("helper")
        assert world.step(), status(world.service, world.now)
    run = world.result()
    assert late > 0
    assert [line["version"] for line in run.history] == list(range(1, 7))
    assert all(line["updates"] >= 4 for line in run.history)
    assert not list((tmp_path / "run" / "spool").iterdir()) and not list((tmp_path / "run" / "shares").iterdir())


def test_the_wait_has_a_name_and_a_deadline_and_then_the_version_is_made_without(tmp_path):
    spec = federation(key_in(tmp_path / "helper"), secure={"patience": 30.0})
    world = Secure(spec, fleet(), ROUNDS, tmp_path)
    while world.service.engine.trained < 1:
        assert world.step()
    world.hub.sleep("helper")
    while not world.service.settlement.fixed:
        assert world.step()
    (first, *_) = status(world.service, world.now)["waiting"]
    assert first["for"] == "helper: its share of 4 reports for version 2" and 0 < first["seconds"] <= 30.0
    row = np.array(world.service.engine.rows[1])
    while world.service.engine.trained < 2:
        assert world.step()
    assert np.array_equal(world.service.engine.rows[2], row) or world.service.engine.state  # momentum goes on
    world.hub.link("helper")
    run = world.run()
    assert run.history[1]["dropped"] == {"no answer from the helper": 4} and run.history[1]["updates"] == 0
    assert [line["updates"] for line in run.history] == [4, 0, 4, 4]


def test_a_device_that_diverges_is_left_out_though_nobody_sees_it(tmp_path):
    spec = federation(key_in(tmp_path / "helper"))
    things = fleet()
    things.shard(things.names[0]).X[:] = np.float32(3e38)
    simulated = simulate(spec, things, ROUNDS)
    served = Secure(spec, things, ROUNDS, tmp_path).run()
    assert np.array_equal(served.row, simulated.row) and np.isfinite(served.row).all()
    assert [line["updates"] for line in served.history] == [line["updates"] for line in simulated.history]


def test_what_the_coordinator_stores_of_reports_is_uniform(tmp_path):
    """The spool while the helper is asked for: statistics, then updates, with weights and metrics among them."""
    task = ft.Task(model=ft.mlp(4, 9400, 2), loss="cross_entropy", normalise="fleet", recipe=ft.Recipe(lr=0.05))
    spec = federation(key_in(tmp_path / "helper"), task=task)
    world = Secure(spec, fleet(), ROUNDS, tmp_path)
    for phase, names in ((0, {"exact", "seed"}), (1, {"x", "exact", "seed"})):
        world.hub.link("helper")
        while world.service.coordinator.phase != phase:
            assert world.step()
        world.hub.sleep("helper")
        while not world.service.settlement.fixed:
            assert world.step()
        for ticket in world.service.settlement.fixed:
            report = world.service.spool.read(ticket)
            assert set(report.arrays) == names and not report.metrics and report.weight.tolist() == [1]
            assert (report.arrays["exact"] > 2**32).mean() > 0.9  # counts, weights and losses are small numbers
            if phase:
                counts = np.bincount(report.arrays["x"].view(np.uint8), minlength=256)
                assert chi_square(counts) > 1e-6


def test_no_message_of_a_whole_run_has_a_training_row_or_an_update(tmp_path, monkeypatch):
    """Every byte that passes the broker, searched in each encoding; the search finds the model, which does pass."""
    said, updates = [], []
    inject, encode = Hub.inject, ring.encode
    monkeypatch.setattr(Hub, "inject", lambda self, *words: (said.append(words[2]), inject(self, *words))[1])

    def encoded(the, rows, *rest):
        arrays, reasons = encode(the, rows, *rest)
        updates.extend(row.copy() for some in (*rows.values(), *arrays.values()) for row in some)
        return arrays, reasons

    monkeypatch.setattr(ring, "encode", encoded)
    spec, things = federation(key_in(tmp_path / "helper")), fleet()
    run = Secure(spec, things, ROUNDS, tmp_path).run()
    passed = b"".join(said)
    assert run.row.tobytes() in passed
    for name in things.names:
        for row in things.shard(name).X:
            for kind in ("<f4", ">f4", "<f8", ">f8", "<f2", ">f2"):
                assert row.astype(kind).tobytes() not in passed
    assert len(updates) > 4 * ROUNDS
    for row in updates:
        if row.any():
            assert row.tobytes() not in passed and row[: len(row) // 2].tobytes() not in passed
