"""Buffered asynchronous training in secure mode: stale reports count less, and no sum is of fewer than the minimum."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

import fedthings as ft
from fedthings.aggregate.ring import classes
from fedthings.learn.local import trainer
from fedthings.privacy.clip import bounded
from fedthings.server.leader import Leader
from fedthings.simulation.world import Uneven
from fedthings.vector import Key
from secure import Secure, fleet, key_in

VERSIONS, SEED, LR, K = 14, 9, 0.9, 9
SLOW = Uneven(median=2.0, spread=0.8, lost=0.05, seed=4)
TASK = ft.Task(model=ft.mlp(4, 5, 2), loss="cross_entropy", recipe=ft.Recipe(lr=0.2, batch=8))
DEVICES = 20


def federation(helper: str, **secure) -> ft.Federation:
    pace = ft.Pace(goal=K, concurrency=DEVICES, patience=30.0, staleness=9)
    stages = (ft.clip(0.3),)
    return ft.Federation(
        TASK, ft.fedbuff(lr=LR), pace, stages=stages, seed=SEED, secure=ft.two_servers(helper, min_batch=3, **secure)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_the_model_is_the_algorithm_s_with_shares_of_each_sum(tmp_path, workers):
    """FedBuff (Nguyen et al. 2022, Alg. 1), where reports of a sum count for the mean of their shares."""
    spec, things = federation(key_in(tmp_path / "helper")), fleet(DEVICES)
    out = tmp_path / "run"
    run = ft.simulate(spec, things, VERSIONS, world=SLOW, out=out, trace=True, workers=workers, engine="numpy")
    thetas, reports, seen = [TASK.model.init(SEED).astype(np.float64)], [], set()
    work = trainer(TASK)
    for line in (out / "trace.jsonl").read_text().splitlines():
        for kind, *fields in json.loads(line)[2:]:
            if kind == "keep" and fields[0][0] == 0:
                (_, version, device, attempt), lag = fields
                key = Key(SEED, device, version, attempt)
                fit, _ = work.one(
                    {"x": thetas[version].astype(np.float32)}, work.init(), things.shard(device), key, 1.0
                )
                reports.append((lag, bounded(fit.report["x"][None], 0.3)[0].astype(np.float64)))
            elif kind == "advance" and fields[0] == 0:
                counts = Counter(lag for lag, _ in reports)
                total = 0.0
                for some in classes(counts, 3):
                    mean = sum(counts[lag] * (1 + lag) ** -0.5 for lag in some) / sum(counts[lag] for lag in some)
                    total += mean * sum(delta for lag, delta in reports if lag in some)
                seen.add(classes(counts, 3))
                thetas.append(thetas[-1] + LR * total / len(reports))
                reports = []
    assert len(thetas) == VERSIONS + 1
    assert any(len(some) > 1 for some in seen) and any(len(lags) > 1 for some in seen for lags in some)
    moved = np.abs(thetas[-1] - thetas[0]).max()
    assert np.abs(run.row - thetas[-1]).max() < 1e-3 * moved


def test_the_service_s_model_is_the_simulator_s_and_no_sum_is_of_too_few(tmp_path, monkeypatch):
    spec, things, asked = federation(key_in(tmp_path / "helper")), fleet(DEVICES), []
    ask = Leader.ask
    monkeypatch.setattr(
        Leader, "ask", lambda self, service, norms: (ask(self, service, norms), asked.append(self._sums))[0]
    )
    want = ft.simulate(spec, things, VERSIONS, world=SLOW)
    served = Secure(spec, things, VERSIONS, tmp_path, world=SLOW).run()
    assert np.array_equal(served.row, want.row)
    assert [line["updates"] for line in served.history] == [line["updates"] for line in want.history]
    assert max(map(len, asked)) > 1 and min(map(min, asked[:-1])) >= 3


def test_killed_with_several_sums_under_way(tmp_path):
    spec, things = federation(key_in(tmp_path / "helper")), fleet(DEVICES)
    want = ft.simulate(spec, things, VERSIONS, world=SLOW)
    world, kills = Secure(spec, things, VERSIONS, tmp_path, world=SLOW), 0
    while not world.service.done:
        assert world.step()
        if world.service.settlement.fixed and len(world.service.leader._sums) > 1 and kills < 6:
            kills += 1
            who = "helper" if kills % 2 else ""
            world.mail = type(world.mail)((to, arrival) for to, arrival in world.mail if to != (who or "_coordinator"))
            world.help() if who else world.serve()
            world.drain()
    assert kills == 6
    assert np.array_equal(world.result().row, want.row)


def test_a_report_that_is_left_out_changes_the_sums_that_are_asked_for(tmp_path, monkeypatch):
    """Its seed is damaged: the rest is asked for anew, in sums that are each of enough reports."""
    spec, things = federation(key_in(tmp_path / "helper")), fleet(DEVICES)
    keep, damaged = Leader.keep, []

    def spoiled(self, ticket, hidden):
        if ticket.phase == 0 and ticket.version in (1, 2) and len(damaged) < 3:
            damaged.append(ticket)
            hidden = hidden._replace(seed=hidden.seed[:-1] + bytes([hidden.seed[-1] ^ 1]))
        keep(self, ticket, hidden)

    monkeypatch.setattr(Leader, "keep", spoiled)
    run = Secure(spec, things, VERSIONS, tmp_path, world=SLOW).run()
    assert len(damaged) == 3
    assert sum(line["dropped"].get("malformed seed", 0) for line in run.history) == 3
    for line in run.history:
        assert line["updates"] == K - line["dropped"].get("malformed seed", 0)
    assert np.isfinite(run.row).all() and np.abs(run.row).max() < 10


def test_with_norms_too(tmp_path):
    task = ft.Task(model=ft.mlp(4, 9400, 2), loss="cross_entropy", recipe=ft.Recipe(lr=0.05, batch=8))
    plain = federation(key := key_in(tmp_path / "helper"))
    fields = {name: getattr(plain, name) for name in plain.__struct_fields__}
    spec = ft.Federation(**fields | {"task": task, "secure": ft.two_servers(key, norms=True)})
    want = ft.simulate(spec, fleet(DEVICES), 5, world=SLOW)
    served = Secure(spec, fleet(DEVICES), 5, tmp_path, world=SLOW).run()
    assert np.array_equal(served.row, want.row)
