"""Secure mode behind gateways: shares are summed on the way up, to the same model, and the helper is asked for each."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

import fedthings as ft
from fedthings.bodies import Report, Work
from fedthings.device import report
from fedthings.engine import Engine
from fedthings.errors import SpecError, WireError
from fedthings.gateway.tasks import Tasks
from fedthings.partial import Partial
from fedthings.privacy import shares
from fedthings.privacy.keys import public
from fedthings.protocol.events import Ticket
from fedthings.server.service import Service
from fedthings.server.status import status
from fedthings.simulation.world import Uneven
from fedthings.spelling import encode
from fedthings.subtotal import hidden, most_bytes, sum_up, verify
from fedthings.transport.memory import Hub
from fedthings.transport.topics import COORDINATOR
from fedthings.vector import keyed
from fedthings.wire import pack_body
from gateways import Tree
from secure import Secure, federation, fleet, key_in

ROUNDS, DEVICES = 3, 8
FLAT = {"west": "", "east": ""}
STACKED = {"top": "", "west": "top", "south": "top", "east": ""}
SAME = ("updates", "dropped", "loss", "metrics", "bytes_up")


class Hidden(Secure, Tree):
    """A tree of gateways, and a helper beside the coordinator."""


def spec(directory, **fields) -> ft.Federation:
    return federation(key_in(directory / "helper"), DEVICES, **fields)


def assert_same(served, want) -> None:
    assert np.array_equal(served.row, want.row)
    for line, other in zip(served.history, want.history, strict=True):
        assert {name: line[name] for name in SAME} == {name: other[name] for name in SAME}


@pytest.mark.parametrize("under", [FLAT, STACKED], ids=["flat", "stacked"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"secure": {"bits": 16, "heaviest": 8}, "stages": (ft.clip(1.0), ft.rotate())},
        {"homes": {"device-1": "", "device-2": ""}},
    ],
    ids=["32 bits", "16 bits, turned", "some directly"],
)
def test_the_model_is_the_simulator_s_bit_for_bit(under, fields, tmp_path) -> None:
    fields = {**fields}
    homes = fields.pop("homes", {})
    fed = spec(tmp_path, **fields)
    tree = Hidden(fed, fleet(DEVICES), ROUNDS, tmp_path, under=under, homes=homes)
    served = tree.run()
    assert_same(served, ft.simulate(fed, fleet(DEVICES), ROUNDS))
    through = DEVICES - len(homes)
    merged = sum(tree.gateways[name].merged for name, above in under.items() if not above)
    assert through * (ROUNDS + 1) <= merged  # and the closing evaluation, of which a receipt may still be on its way


def test_under_a_privacy_claim_too(tmp_path) -> None:
    task = ft.Task(model=ft.mlp(4, 5, 2), loss="cross_entropy", recipe=ft.Recipe(lr=0.1, batch=8))
    fields = {"task": task, "strategy": ft.fedavg(weight="equal"), "privacy": ft.central_dp(20, 1e-3)}
    fed = spec(tmp_path, **fields)
    want = ft.simulate(fed, fleet(DEVICES), ROUNDS)
    tree = Hidden(fed, fleet(DEVICES), ROUNDS, tmp_path, under=STACKED, noise="keyed")
    served = tree.run()
    assert np.array_equal(served.row, want.row) and served.ledger == want.ledger


def test_with_weights_by_staleness_too(tmp_path) -> None:
    pace = ft.Pace(goal=4, concurrency=DEVICES, staleness=3, patience=50.0)
    fed = spec(tmp_path, strategy=ft.fedbuff(), pace=pace, secure={"min_batch": 3})
    tree = Hidden(fed, fleet(DEVICES), 6, tmp_path, under=FLAT, settings={"count": 2})
    run = tree.run()
    assert all(line["updates"] >= 4 for line in run.history)
    assert np.isfinite(run.row).all() and run.history[-1]["metrics"]["accuracy"] > 0.5


# ------------------------------------------------------------------------ killed


def test_coordinator_and_helper_are_killed_while_sums_are_asked_for(tmp_path) -> None:
    fed = spec(tmp_path)
    want = ft.simulate(fed, fleet(DEVICES), ROUNDS)
    tree, kills = Hidden(fed, fleet(DEVICES), ROUNDS, tmp_path, under=STACKED, settings={"count": 2}), 0
    while not tree.service.done:
        assert tree.step(), status(tree.service, tree.now)
        if tree.service.settlement.fixed and kills < 12:
            kills += 1
            who = "helper" if kills % 2 else COORDINATOR
            tree.mail = type(tree.mail)((to, arrival) for to, arrival in tree.mail if to != who)
            tree.help() if who == "helper" else tree.serve()
            tree.drain()
    assert kills == 12
    assert_same(tree.result(), want)


def test_a_gateway_is_killed_and_starts_again(tmp_path) -> None:
    want = ft.simulate(spec(tmp_path), fleet(DEVICES), ROUNDS)
    for at in range(40, 160, 30):
        place = tmp_path / str(at)
        (place / "helper").mkdir(parents=True)
        (place / "helper" / "helper.key").write_bytes((tmp_path / "helper" / "helper.key").read_bytes())
        tree = Hidden(spec(tmp_path), fleet(DEVICES), ROUNDS, place, under=STACKED)
        for step in range(100_000):
            if step == at:
                tree.kill("west")
                tree.revive("west")
            if tree.service.done:
                break
            assert tree.step()
        assert_same(tree.result(), want)


def slowly(tree: Hidden, versions: int, restarts: int = 0) -> tuple[ft.Run, int]:
    """Run to the end with a helper that sleeps until other reports have come; return how many are of the next set.

    The coordinator is killed with sums of that set in hand, so many times.
    """
    asked, late, slept = 0.0, 0, set()
    while not tree.service.done:
        assert tree.step(), status(tree.service, tree.now)
        service = tree.service
        trains = service.engine.spec.kind == "train" and service.engine.trained < versions
        if asked and service.settlement.fixed and tree.now > asked + 4:
            late += len(service.settlement.filling)
            asked = 0.0
            tree.hub.link("helper")
        elif trains and service.settlement.fixed and service.engine.trained not in slept:
            asked = tree.now
            slept.add(service.engine.trained)
            tree.hub.sleep("helper")
        elif restarts and service.summed and not service.settlement.fixed and service.engine.trained:
            restarts -= 1
            tree.mail = type(tree.mail)(m for m in tree.mail if m[0] != COORDINATOR)
            tree.serve()
            tree.drain()
    assert restarts == 0
    return tree.result(), late


UNEVEN = Uneven(median=2.0, spread=0.5, seed=3)


def test_sums_that_come_while_the_helper_is_asked_are_of_the_next_set(tmp_path) -> None:
    pace = ft.Pace(goal=4, concurrency=DEVICES, staleness=3, patience=50.0)
    fed = spec(tmp_path, strategy=ft.fedavg(weight="equal"), pace=pace, secure={"min_batch": 3})
    tree = Hidden(fed, fleet(DEVICES), 5, tmp_path, under=FLAT, settings={"count": 2}, world=UNEVEN)
    run, late = slowly(tree, 5, restarts=3)
    assert late > 0
    assert [line["version"] for line in run.history] == list(range(1, 6))
    assert all(line["updates"] >= 4 and not line["dropped"].keys() & {"malformed seed"} for line in run.history)
    assert not list((tmp_path / "run" / "subtotals").iterdir())


def test_reports_too_late_for_the_version_that_is_made_are_left_out_of_the_sum(tmp_path) -> None:
    """More are asked than are needed; the rest report through a gateway while the helper is asked."""
    pace = ft.Pace(goal=4, concurrency=DEVICES, patience=1e6)
    fed = spec(tmp_path, pace=pace, secure={"min_batch": 4})
    tree = Hidden(fed, fleet(DEVICES), 3, tmp_path, under=FLAT, settings={"count": 2}, world=UNEVEN)
    run, late = slowly(tree, 3)
    assert late == 0
    assert [line["updates"] for line in run.history] == [4] * 3
    assert any(line["dropped"].get("stale", 0) for line in run.history)


# -------------------------------------------------------------- a device that lies


def test_a_report_that_the_helper_refuses_takes_its_sum_along_once(tmp_path, monkeypatch) -> None:
    """Nobody has its share alone. From then on its gateway is told to leave it out of the sum."""
    honest = report.split

    def lying(arrays, helper, scope, ticket):
        out = honest(arrays, helper, scope, ticket)
        if ticket.device == "device-0" and ticket.phase == 1:
            out["seed"] = out["seed"] ^ np.uint8(1)
        return out

    monkeypatch.setattr(report, "split", lying)
    fed = spec(tmp_path)
    tree = Hidden(fed, fleet(DEVICES), 4, tmp_path, under=FLAT)
    run = tree.run()
    first, *rest = run.history
    assert first["dropped"] == {"malformed seed": 1, "summed beside one left out": 3} and first["updates"] == 4
    assert [line["updates"] for line in rest] == [7] * 3
    assert [line["dropped"] for line in rest[:-1]] == [{"refused by the helper before": 1}] * 2
    assert rest[-1]["dropped"] == {"refused by the helper before": 2}  # and in the closing evaluation
    assert np.isfinite(run.row).all()


def test_a_lying_gateway_spoils_its_sum_and_the_version_is_made_without(tmp_path, monkeypatch) -> None:
    """It changes what it sums: weight and metrics come to what no devices can come to."""
    from fedthings.gateway import hold

    def lying(partial, parts):
        found = sum_up(partial, parts)
        rows = found.arrays
        if "x" not in rows:
            return found
        return replace(found, arrays={**rows, "exact": rows["exact"] + np.uint64(1 << 60)})

    monkeypatch.setattr(hold, "sum_up", lying)
    run = Hidden(spec(tmp_path), fleet(DEVICES), 2, tmp_path, under={"west": ""}).run()
    assert [line["dropped"] for line in run.history] == [{"impossible sum": DEVICES}] * 2


# ------------------------------------------------------------------------ refused


def test_norms_are_refused_behind_gateways_by_coordinator_and_gateway(tmp_path) -> None:
    task = ft.Task(model=ft.mlp(4, 9400, 2), loss="cross_entropy", recipe=ft.Recipe(lr=0.05))
    fed = spec(tmp_path, task=task, strategy=ft.fedavg(weight="equal"), secure={"norms": True})
    with pytest.raises(SpecError, match=r"secure\.norms is set, and the gateway west sends sums of shares"):
        Service(fed, 1, tmp_path / "run", Hub().coordinator("fed"), gateways=("west",))
    body = pack_body(Work(0, encode(Engine(fed, 1).phases[0])))
    assert Tasks("federation").learn(b"", body) == "does not fit"


def made(directory, n: int = 4):
    """Return the sums of a phase, a template, and n reports of nothing."""
    fed = spec(directory)
    phase = Engine(fed, 1).phases[1]
    partial = Partial(phase)
    assert partial.ring is not None and fed.secure is not None
    scope = shares.scope_of(fed.secure, partial.ring, "fed", bytes(32))
    reports = []
    for i in range(n):
        ticket = Ticket(1, 0, f"device-{i}", 0)
        nothing = {name: row[0] for name, row in partial.ring.zeros(1).items()}
        arrays = shares.split(nothing, public(fed.secure.helper, "helper"), scope, ticket)
        reports.append(Report(ticket, arrays, np.ones(1, np.int64), {}))
    return partial, reports


def test_sums_of_sums_are_sums_and_carry_what_the_helper_must_know(tmp_path) -> None:
    partial, reports = made(tmp_path, 6)
    whole = sum_up(partial, reports)
    parts = [sum_up(partial, reports[:2]), sum_up(partial, reports[4:1:-1]), reports[5]]
    assert pack_body(sum_up(partial, parts)) == pack_body(whole)
    assert hidden(partial, whole) == {one.ticket: shares.hidden(one.arrays) for one in reports}
    assert whole.weight.tolist() == [6] and not whole.metrics and not whole.values
    total = np.sum([one.arrays["x"] for one in reports], axis=0, dtype=np.uint32)
    assert np.array_equal(whole.arrays["x"], total)
    verify(whole, partial, reports[0])
    assert len(pack_body(whole)) < most_bytes(partial, reports[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {"weight": np.array([5], np.int64)},
        lambda s: {"reasons": ("", "", "", "not finite")},
        lambda s: {"metrics": {"loss": np.ones(2, np.int64)}},
        lambda s: {"values": {"loss": np.ones(1)}},
        lambda s: {"arrays": {**s.arrays, "seeds": s.arrays["seeds"][1:]}},
        lambda s: {"arrays": {**s.arrays, "shares": s.arrays["shares"].astype(np.uint32)}},
        lambda s: {"arrays": {name: row for name, row in s.arrays.items() if name != "x"}},
        lambda s: {"arrays": {**s.arrays, "x": s.arrays["x"].view(np.int32)}},
    ],
)
def test_a_sum_that_cannot_be_is_refused(change, tmp_path) -> None:
    partial, reports = made(tmp_path)
    found = sum_up(partial, reports)
    verify(found, partial, reports[0])
    with pytest.raises(WireError):
        verify(replace(found, **change(found)), partial, reports[0])


def test_what_a_gateway_stores_is_uniform(tmp_path) -> None:
    """Shares, and their sum: what is in it is hidden until both servers have added theirs."""
    partial, reports = made(tmp_path, 5)
    found = sum_up(partial, reports)
    words = np.concatenate([found.arrays["x"], *(one.arrays["x"] for one in reports)])
    assert abs(words.astype(float).mean() / 2**31 - 1) < 0.2 and keyed("x") is not None
