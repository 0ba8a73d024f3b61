"""Two servers under a privacy claim: each adds noise to its share, which is the simulator's, and survives a kill."""

from __future__ import annotations

import json
import sqlite3
from math import sqrt

import numpy as np
import pytest
from msgspec.structs import replace

import fedthings as ft
from claimed import CLAIM, MECHANISMS, PACE, ROUNDS, TASK, TURNED, WEAK, federation
from fate import THINGS, Fate, Killed
from fedthings import checkpoint
from fedthings.aggregate import ring as ring_sums
from fedthings.bodies import Batch
from fedthings.cli import main
from fedthings.engine import Engine
from fedthings.errors import WireError
from fedthings.helper import helper
from fedthings.helper.store import FILE
from fedthings.helper.store import Store as HelperStore
from fedthings.learn.digits import digits
from fedthings.learn.learner import Fit
from fedthings.outgoing import Outgoing
from fedthings.phase import rings
from fedthings.privacy import distributed, ledger, shares
from fedthings.privacy.distributed import Stream
from fedthings.privacy.shares import Scope
from fedthings.protocol.events import Ticket
from fedthings.server import leader
from fedthings.server.leader import Leader
from fedthings.server.status import status
from fedthings.transport.topics import COORDINATOR
from fedthings.vector import Key, keyed
from secure import NAME, Secure, key_in, victim


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("fields", [{}, TURNED], ids=["32 bits", "16 bits, turned"])
def test_the_model_is_the_plain_one_and_the_noise_of_both_servers(mechanism, fields) -> None:
    """At epsilon 900 the noise is small; what it is, and what it should be, in the same unit."""
    plain = ft.simulate(federation(claim=None, **fields | {"secure": {}}), digits(10, 0), 1)
    noisy = ft.simulate(federation(claim=ft.central_dp(**WEAK, mechanism=mechanism), **fields), digits(10, 0), 1)
    privacy = noisy.summary["privacy"]
    error = (noisy.row - plain.row).astype(float)
    want = sqrt(2) * privacy["multiplier"] * 0.5 / 5
    assert privacy["servers"] == 2
    assert np.sqrt(np.square(error).mean()) == pytest.approx(want, rel=0.1)
    assert abs(error.mean()) < 5 * want / np.sqrt(len(error))


def test_without_both_noises_the_sum_is_exact(monkeypatch) -> None:
    """What is left when the noise is taken back, version by version, is the sum of the reports as they were rounded."""
    spec = federation(claim=ft.central_dp(**WEAK))
    noisy = Engine(spec, 3)
    ring, claim = noisy.partial.ring, noisy.releases.claim
    ours, theirs = (Stream(claim, stream._key) for stream in (noisy.releases._stream, noisy.releases._other))
    steps = keyed("exact").integers(-1000, 1000, (4, ring.dim))
    arrays = {"x": steps.astype(np.int32).view(np.uint32), "exact": np.ones((4, ring.exact), np.uint64)}
    for version in (1, 2):
        noisy.keep(arrays, np.ones(4, np.int64), {}, [0] * 4)
        noisy.advance(float(version))
        moved = (noisy.rows[version].astype(float) - noisy.rows[version - 1]) * 5 / ring.unit
        want = steps.sum(0) + ours.at(version) + theirs.at(version)
        assert np.abs(moved - want).max() < 1e-5 * np.abs(want).max() + 1e-6 / ring.unit
    assert [line["reports"] for line in noisy.releases.lines] == [4, 4]


def test_a_version_that_is_lost_has_no_noise_and_counts(tmp_path) -> None:
    spec = federation(key_in(tmp_path / "helper"), secure={"patience": 30.0})
    world = Secure(spec, digits(10, 0), ROUNDS, tmp_path, noise="keyed")
    while world.service.engine.trained < 1:
        assert world.step()
    world.hub.sleep("helper")
    row = np.array(world.service.engine.rows[1])
    while world.service.engine.trained < 2:
        assert world.step()
    assert np.array_equal(world.service.engine.rows[2], row)
    world.hub.link("helper")
    run = world.run()
    assert [line["reports"] for line in map(json.loads, run.ledger.splitlines()[1:])] == [5, 0, 5, 5, 5]
    assert run.history[1]["dropped"] == {"no answer from the helper": 5}


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("fields", [{}, TURNED, {"pace": ft.Pace(goal=5, concurrency=8, staleness=2, separation=1)}])
def test_the_service_and_the_helper_end_in_the_simulator_s_model(mechanism, fields, tmp_path) -> None:
    spec = federation(key_in(tmp_path / "helper"), ft.central_dp(50, 1e-4, mechanism), **fields)
    fleet = digits(10, 0)
    want = ft.simulate(spec, fleet, ROUNDS)
    served = Secure(spec, fleet, ROUNDS, tmp_path, noise="keyed").run()
    assert np.array_equal(served.row, want.row)
    assert served.ledger == want.ledger
    for line, other in zip(served.history, want.history, strict=True):
        assert line == {**other, "time": line["time"]}
    assert (served.history[0]["loss"], served.history[0]["metrics"]) == (None, {})


def test_taken_up_again_both_have_the_noise_they_would_have_had() -> None:
    engine, other = Engine(federation(), 6), Engine(federation(), 6)
    dim = engine.releases.claim.dim
    engine.releases.hide(np.zeros(dim, np.uint32), 1.0, 5, alone=True)
    other.releases.restore(checkpoint.unpack(checkpoint.pack(engine.releases.snapshot())))
    one, two = np.zeros(dim, np.uint32), np.zeros(dim, np.uint32)
    engine.releases.hide(one, 2.0, 5, alone=True)
    other.releases.hide(two, 2.0, 5, alone=True)
    assert np.array_equal(one, two) and one.any()


def test_production_noise_of_each_server_is_its_own_secret(tmp_path) -> None:
    runs = []
    for name in ("one", "two"):
        spec = federation(key_in(tmp_path / name / "helper"))
        world = Secure(spec, digits(10, 0), 3, tmp_path / name)
        runs.append(world.run())
        assert world.service.engine.releases._other is None  # the leader does not know the helper's noise
    assert not np.array_equal(runs[0].row, runs[1].row)
    assert runs[0].summary["privacy"]["noise"] == "secure"


def test_what_the_leader_has_is_noise_without_its_own(tmp_path, monkeypatch) -> None:
    """The helper's answer, less all masks, is a whole noise; so nobody ever has the sum without one."""
    seen = []
    share = Leader.share
    monkeypatch.setattr(Leader, "share", lambda self, service: (seen.append(share(self, service)), seen[-1])[1])
    masks, split = [], shares.split

    def noted(arrays, *rest, **more):
        before = {name: row.copy() for name, row in arrays.items()}
        out = split(arrays, *rest, **more)
        masks.append(before["x"] - arrays["x"])
        return out

    monkeypatch.setattr("fedthings.device.report.split", noted)
    spec = federation(key_in(tmp_path / "helper"), claim=ft.central_dp(8, 1e-5, ft.independent()))
    world = Secure(spec, digits(10, 0), 1, tmp_path)
    world.run()
    claim = world.service.engine.releases.claim
    assert len(seen) == 1 and len(masks) == 5
    left = (seen[0]["x"] - np.sum(masks, axis=0, dtype=np.uint32)).view(np.int32).astype(float)
    assert left.std() == pytest.approx(claim.deviation, rel=0.1)


# ------------------------------------------------------------------------- killed


def disturbed(directory, fate: Fate, mechanism) -> tuple[Secure, str]:
    """Run to the end with secret noise; whoever is killed starts again with its directory."""
    claim, everyone = ft.central_dp(8, 1e-5, mechanism), ft.Pace(goal=5, patience=1e6)
    spec = federation(key_in(directory / "helper"), claim, {"min_batch": 5}, pace=everyone, devices=5)
    world = Secure(spec, digits(5, 0), 3, directory, noise="keyed")
    fate.seen, killed = 0, ""
    while not world.service.done:
        try:
            if not world.step():
                raise AssertionError(f"stuck after {killed!r} was killed: {status(world.service, world.now)}")
        except Killed as death:
            killed = victim(death, world)
            world.mail = type(world.mail)((to, arrival) for to, arrival in world.mail if to != killed)
            world.agenda = [e for e in world.agenda if killed != COORDINATOR and e[3].sender != killed]
            world.serve() if killed == COORDINATOR else world.help() if killed == NAME else world.join(killed)
            world.drain()
    return world, killed


@pytest.mark.parametrize("mechanism", MECHANISMS[:2])
def test_killed_at_any_point_each_server_has_the_same_noise_again(mechanism, tmp_path, monkeypatch) -> None:
    points = (*THINGS, (HelperStore, "commit"), (Stream, "at"), (Leader, "ask"))
    fate = Fate(monkeypatch, points)
    world, _ = disturbed(tmp_path / "calm", fate, mechanism)
    want = world.result()
    assert np.array_equal(want.row, ft.simulate(world.federation, digits(5, 0), 3).row)
    moments = fate.seen
    victims = set()
    for moment in sorted(keyed("private moments", str(mechanism)).choice(moments - 1, 16, replace=False) + 1):
        for before in (True, False):
            fate.at = int(moment) if before else -int(moment)
            world, killed = disturbed(tmp_path / f"{moment}-{before}", fate, mechanism)
            victims.add(killed)
            served = world.result()
            assert np.array_equal(served.row, want.row), (moment, before, killed)
            assert served.ledger == want.ledger
            assert len(list((world.home / "noise").iterdir())) == 1
    assert {COORDINATOR, NAME} & victims


def test_a_helper_gives_no_device_more_noise_than_its_claim_has(tmp_path) -> None:
    """A leader that asks too often for a device, or for a version twice, has nothing from it."""
    spec = federation(key_in(tmp_path / "helper"), secure={"patience": 100.0})
    world = Secure(spec, digits(10, 0), ROUNDS, tmp_path)
    while world.service.engine.trained < 1:
        assert world.step()
    with sqlite3.connect(tmp_path / "helper" / FILE) as db:
        who = [name for (name,) in db.execute("SELECT device FROM released")]
        assert len(who) == 5
        db.execute("UPDATE released SET version = 2 WHERE device = ?", (who[0],))
        db.execute("INSERT INTO released VALUES ((SELECT federation FROM noise), ?, 0)", (who[1],))
        db.execute("INSERT INTO released VALUES ((SELECT federation FROM noise), ?, -1)", (who[1],))
    run = world.run()
    assert sum(line["dropped"].get("too often", 0) for line in run.history) >= 2


def test_a_device_stands_once_in_a_sum_with_noise() -> None:
    claim = Engine(federation(), 10).phases[0].claim
    tickets = tuple(Ticket(0, 0, name, attempt) for name, attempt in (("a", 0), ("b", 0), ("b", 1)))
    batch = Batch(b"", b"", tickets, {}, 32, claim.size, 0, 3, version=1, claim=distributed.written(claim))
    scope = Scope("fed", b"", 3, False, 32, claim.size, 0)
    assert helper._claim(replace(batch, tickets=tickets[:2]), scope) == claim
    with pytest.raises(WireError, match="stands twice"):
        helper._claim(batch, scope)


def test_a_helper_gives_nothing_for_another_claim_or_for_none(tmp_path, monkeypatch) -> None:
    spec = federation(key_in(tmp_path / "helper"))
    world = Secure(spec, digits(10, 0), ROUNDS, tmp_path)
    while world.service.engine.trained < 1:
        assert world.step()
    for other in (replace(world.service.engine.phases[0].claim, planned=ROUNDS + 1), None):
        with monkeypatch.context() as patch:
            scope = leader.scope_of
            patch.setattr(leader, "scope_of", lambda *args, other=other, scope=scope: scope(*args[:4], other))
            patch.setattr(leader, "written", lambda claim, other=other: distributed.written(other) if other else b"")
            while not world.service.settlement.fixed:
                assert world.step()
            world.service.leader.ask(world.service, False)
            world.service.leader.refusal = ""
            while not world.service.leader.refusal:
                assert world.step()
            assert world.service.leader.refusal == "another claim"
    world.service.leader.ask(world.service, False)
    run = world.run()
    assert [line["updates"] for line in run.history] == [5] * ROUNDS


def test_a_report_is_never_longer_than_what_epsilon_is_computed_from() -> None:
    spec = federation(secure={"bits": 16}, stages=(ft.clip(0.5), ft.rotate()), claim=ft.central_dp(**WEAK))
    the = rings(Engine(spec, 3).phases[0])._replace(cut=0.0)
    row = keyed("long").normal(0, 1, (1, the.dim)).astype(np.float32)
    row *= np.float32(0.5) / np.linalg.norm(row)
    loose, _ = ring_sums.encode(the, {"x": row}, np.ones(1, np.int64), {}, [Key(0, "a", 0, 0)])
    length = np.linalg.norm(loose["x"].view(np.int16).astype(float))
    for cut in (length + 1, length - 0.01, np.linalg.norm(row) / the.unit, 3.0):
        found, _ = ring_sums.encode(the._replace(cut=cut), {"x": row}, np.ones(1, np.int64), {}, [Key(0, "a", 0, 0)])
        assert np.linalg.norm(found["x"].view(np.int16).astype(float)) <= cut
        assert found["x"].any() == (cut > 3)


def test_a_report_of_bad_values_does_not_show() -> None:
    engine = Engine(federation(), 3)

    out = Outgoing(engine.phases[0])
    rows = np.full((2, engine.partial.ring.dim), np.nan, np.float32)
    rows[0] = 0.001
    keys = [Key(0, name, 0, 0) for name in "ab"]
    sent = out.encode(Fit({"x": rows}, np.ones(2, np.int64), {}), [out.stage.init()] * 2, keys)
    assert sent.fit.report["exact"].tolist() == [[1, 1], [1, 1]]
    assert sent.fit.report["x"][0].any() and not sent.fit.report["x"][1].any()


def test_the_ledger_says_what_it_rests_on(tmp_path, capsys) -> None:
    run = ft.simulate(federation(), digits(10, 0), 3, out=tmp_path / "run")
    assert main(["privacy", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    for words in (
        "times the clipping bound, from each of two servers",
        "coordinator and helper do not work together",
        "which the coordinator enforces, and the helper too",
        "discrete noise as a Gaussian mechanism",
        "of updates, with the helper's noise",
        "epsilon now   8.000 at delta 1e-05, after 3 releases of 15 reports",
    ):
        assert words in said
    claim, lines = ledger.read(tmp_path / "run")
    assert claim.shared and len(lines) == 3
    assert distributed.spread(claim) > 9 * sqrt(2) * claim.deviation
    alone = ft.simulate(
        ft.Federation(TASK, ft.fedavg(weight="equal"), PACE, stages=(ft.clip(0.5),), privacy=CLAIM, devices=10),
        digits(10, 0),
        3,
    )
    assert run.summary["privacy"]["multiplier"] == pytest.approx(alone.summary["privacy"]["multiplier"], rel=0.01)
