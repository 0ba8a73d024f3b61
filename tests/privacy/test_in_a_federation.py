"""A privacy claim in a federation: as data, what is refused, what is silent, the ledger, the end of the budget."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fedthings.bodies import Report
from fedthings.cli import main
from fedthings.engine import Engine
from fedthings.federation import phases
from fedthings.learn.digits import digits
from fedthings.partial import expect
from fedthings.phase import measures
from fedthings.privacy import ledger, noise
from fedthings.run import read
from fedthings.server.models import Models
from fedthings.server.store import Store
from fedthings.vector import Key, keyed
from gateways import Tree
from virtual import Virtual

TASK = ft.Task(model=ft.mlp(64, 16, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.3, batch=16))
EQUAL = ft.fedavg(weight="equal")
CLIP = (ft.clip(0.5),)
PACE = ft.Pace(goal=5, separation=1, cap=3)
LATE = ft.Pace(goal=5, staleness=2, separation=1)
CLAIM = ft.central_dp(epsilon=8, delta=1e-5)
MECHANISMS = [ft.blt(), ft.tree(), ft.independent(), ft.independent(amplified=True)]


def federation(claim=CLAIM, stages=CLIP, strategy=EQUAL, pace=PACE, task=TASK, devices=10, **more):
    return ft.Federation(task, strategy, pace, stages=stages, privacy=claim, devices=devices, **more)


def sampled(**more) -> ft.Federation:
    return federation(ft.central_dp(8, 1e-5, ft.independent(amplified=True)), pace=ft.Pace(goal=5), **more)


# ------------------------------------------------------------------------ as data


@pytest.mark.parametrize("stages", [(ft.clip(0.5),), (ft.adaptive_clip(quantile=0.7), ft.int8())])
@pytest.mark.parametrize("mechanism", MECHANISMS[:3])
def test_it_travels_as_toml(mechanism, stages, tmp_path: Path) -> None:
    spec = federation(ft.central_dp(4, 1e-6, mechanism, spent=(1, 1e-7)), stages)
    (tmp_path / "fed.toml").write_text(ft.dumps(spec))
    assert ft.load(tmp_path / "fed.toml") == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": ()}, "privacy is claimed, but stages has no clip"),
        ({"stages": (ft.int8(),)}, "privacy is claimed, but stages has no clip"),
        ({"stages": (ft.clip(1.0), ft.clip(2.0))}, "stages clip twice"),
        ({"strategy": ft.fedavg()}, 'strategy.weight is "samples" beside privacy: how many samples'),
        (
            {"strategy": ft.fedasync(), "pace": ft.Pace(1, 4, staleness=2, separation=1)},
            "step is mixing beside privacy",
        ),
        (
            {"task": ft.Task(model=ft.mlp(64, 10), loss="cross_entropy", normalise="fleet")},
            'normalise is "fleet" beside',
        ),
        ({"pace": ft.Pace(goal=5, staleness=2)}, "a device could stand twice in one version; set pace.separation to 1"),
        (
            {"pace": LATE, "stages": (ft.adaptive_clip(),)},
            "late reports were clipped to another bound",
        ),
        ({"claim": None, "stages": (ft.adaptive_clip(),)}, "adaptive_clip stands without privacy"),
    ],
)
def test_what_would_void_the_claim_is_refused_when_it_is_built(change, message) -> None:
    with pytest.raises(ft.SpecError, match=message):
        federation(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"devices": 0}, "devices is 0: set it to the size of the fleet, at least pace.goal 5"),
        ({"pace": ft.Pace(goal=5, separation=1)}, "with pace.separation 1 it is not chance"),
        ({"pace": ft.Pace(goal=5, concurrency=8)}, "with pace.concurrency 8 it is not chance"),
        ({"pace": ft.Pace(goal=5, selection=ft.forecast())}, "pace.selection prefers some"),
    ],
)
def test_what_amplification_cannot_assume_is_refused(change, message) -> None:
    claim = ft.central_dp(8, 1e-5, ft.independent(amplified=True))
    with pytest.raises(ft.SpecError, match=message):
        federation(claim, **{"pace": ft.Pace(goal=5), **change})


def test_a_target_that_only_devices_could_measure_is_refused() -> None:
    with pytest.raises(ft.SpecError, match="devices report no metrics: give a central test set"):
        ft.simulate(federation(), digits(10, 0), 3, stop={"accuracy": 0.5})


# ---------------------------------------------------------------- what is released


def test_devices_report_nothing_but_the_clipped_change() -> None:
    spec = federation()
    assert [phase.kind for phase in phases(spec)] == ["train"]
    assert measures(phases(spec)[0]) == {}
    run = ft.simulate(spec, digits(10, 0), 4)
    assert [line["updates"] for line in run.history] == [5] * 4
    for line in run.history:
        assert (line["loss"], line["metrics"], line["worst_decile"]) == (None, {}, {})
    engine = Engine(spec, 4)
    good = engine._template
    with pytest.raises(ft.WireError, match="metrics"):
        expect(Report(good.ticket, good.arrays, good.weight, {"loss": np.ones(2, np.int64)}), good)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_model_is_the_sum_over_the_goal_with_the_noise_of_the_ledger(mechanism) -> None:
    """At epsilon 1,000 the noise is small; what it is, and what it should be, in the same unit."""
    pace = ft.Pace(goal=5) if mechanism == MECHANISMS[3] else PACE
    plain = ft.simulate(federation(None, pace=pace), digits(10, 0), 1)
    noisy = ft.simulate(federation(ft.central_dp(900, 1e-2, mechanism), pace=pace), digits(10, 0), 1)
    claim, _ = read_text(noisy.ledger)
    error = (noisy.row - plain.row).astype(float)
    want = claim.multiplier * 0.5 / 5
    assert np.sqrt(np.square(error).mean()) == pytest.approx(want, rel=0.1)
    assert abs(error.mean()) < 5 * want / np.sqrt(len(error))


def read_text(text: str) -> tuple[ledger.Claim, list[dict]]:
    first, *lines = [json.loads(line) for line in text.splitlines()]
    return ledger.decode(first, ledger.Claim), lines


def test_a_report_of_any_values_moves_the_sum_by_the_bound_at_most() -> None:
    """The coordinator bounds what it decodes: neither rounding nor a device that does not clip can void the claim."""
    engine = Engine(federation(stages=(ft.clip(0.5), ft.int4())), 3)
    dim = TASK.model.layout.dim
    wild = keyed("wild").normal(0, 1, (1, dim)).astype(np.float32)
    phase_stage = engine.partial.stage
    sent, _ = phase_stage.encode({"x": np.minimum(wild, 0.5)}, [phase_stage.init()], [Key(0, "a", 0, 0)])
    sent = {**sent, "quantize.scale": sent["quantize.scale"] * 1000}
    assert engine.keep(sent, np.ones(1, np.int64), {}, [0]).tolist() == [""]
    scale = engine.partial.fields[0].scale
    assert np.linalg.norm(engine.partial.sums.limbs["x"][0] * 2.0**-scale) <= 0.5 * (1 + 1e-6)
    heavy = engine.keep(sent, np.full(1, 2), {}, [0])
    assert heavy.tolist() == ["weight out of range"]


def test_a_report_that_is_refused_by_its_value_leaves_no_trace_in_the_history() -> None:
    engine = Engine(federation(), 3)
    rows = np.full((2, TASK.model.layout.dim), np.nan, np.float32)
    rows[0] = 0.01
    assert engine.keep({"x": rows}, np.ones(2, np.int64), {}, [0, 0]).tolist() == ["", "not finite"]
    engine.advance(1.0)
    assert engine.pending["updates"] == 2
    assert engine.pending["dropped"] == {}
    engine.advance(2.0)  # nobody's report is a release too: that it is so may not show
    assert [line["reports"] for line in engine.releases.lines] == [2, 0]
    assert not np.array_equal(engine.rows[1], engine.rows[2])


def test_the_adaptive_bound_goes_down_with_the_model_and_finds_its_place() -> None:
    stages = (ft.adaptive_clip(initial=0.01, rate=0.5), ft.int8())
    spec = federation(ft.central_dp(500, 1e-2), stages, pace=ft.Pace(goal=5, separation=1), down=ft.int8())
    run = ft.simulate(spec, digits(10, 0), 15)
    _, lines = read_text(run.ledger)
    bounds = [line["bound"] for line in lines]
    assert bounds[0] == 0.01
    assert bounds[-1] > 0.2
    engine = Engine(spec, 15)
    assert engine.model(0)["below"].tolist() == [np.float32(0.01)]


# -------------------------------------------------------------------- the budget


@pytest.mark.parametrize("mechanism", MECHANISMS[:3])
def test_training_stops_before_the_budget_is_passed(mechanism) -> None:
    pace = ft.Pace(goal=5, separation=1)
    whole, _ = read_text(ft.simulate(federation(ft.central_dp(8, 1e-5, mechanism), pace=pace), digits(10, 0), 8).ledger)
    claim = ft.central_dp(8, 1e-5, mechanism, multiplier=0.9 * whole.multiplier)
    run = ft.simulate(federation(claim, pace=pace), digits(10, 0), 8)
    assert run.summary["reason"] == "privacy budget"
    assert 0 < run.summary["rounds"] < 8
    privacy = run.summary["privacy"]
    assert privacy["epsilon"] == privacy["projected"] <= 8
    assert privacy["releases"] == privacy["allowed"] == len(run.history) == run.summary["rounds"]


def test_the_ledger_is_in_the_run_directory_and_the_command_prints_it(tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    run = ft.simulate(federation(), digits(10, 0), 6, out=out)
    assert (out / ledger.FILE).read_text() == run.ledger
    assert main(["privacy", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["epsilon"] == pytest.approx(8)
    assert [line["version"] for line in found["ledger"]] == [1, 2, 3, 4, 5, 6]
    assert {line["reports"] for line in found["ledger"]} == {5}
    assert found["noise"] == "keyed"
    assert main(["privacy", str(out)]) == 0
    said = capsys.readouterr().out
    for words in ("epsilon now   8.000 at delta 1e-05, after 6 releases of 30 reports", "unit          a device"):
        assert words in said
    assert "3 times in 6 versions, at least 2 versions apart, which the coordinator enforces" in said
    assert "who knows the seed can take the noise away" in said
    saved = tmp_path / "saved"
    run.save(saved)
    assert (saved / ledger.FILE).read_text() == run.ledger == read(saved).ledger


def test_a_directory_without_a_claim_is_told_so(tmp_path: Path, capsys) -> None:
    assert main(["privacy", str(tmp_path)]) == ft.StoreError.exit_code
    assert "makes no privacy claim" in capsys.readouterr().err
    (tmp_path / ledger.FILE).write_text("{")
    assert main(["privacy", str(tmp_path)]) == ft.StoreError.exit_code
    assert "is damaged" in capsys.readouterr().err


def test_an_interrupted_simulation_goes_on_with_the_same_noise_and_one_ledger(tmp_path: Path) -> None:
    want = ft.simulate(federation(), digits(10, 0), 6)

    def stop(line) -> None:
        if line["version"] == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        ft.simulate(federation(), digits(10, 0), 6, out=tmp_path, on_version=stop)
    made = len((tmp_path / ledger.FILE).read_text().splitlines()) - 1
    assert 2 <= made < 6
    run = ft.simulate(federation(), digits(10, 0), 6, out=tmp_path)
    assert np.array_equal(run.row, want.row)
    assert run.ledger == want.ledger == (tmp_path / ledger.FILE).read_text()


# -------------------------------------------------------------- laws 2, 5 and 8


@pytest.mark.parametrize("stages", [(ft.clip(0.5),), (ft.adaptive_clip(), ft.int8())])
def test_the_service_with_keyed_noise_ends_in_the_simulator_s_model(stages, tmp_path: Path) -> None:
    spec, fleet = federation(stages=stages), digits(10, 0)
    want = ft.simulate(spec, fleet, 5)
    served = Virtual(spec, fleet, 5, tmp_path, noise="keyed").run()
    assert np.array_equal(served.row, want.row)
    assert served.history == want.history
    assert served.ledger == want.ledger


def test_production_noise_is_secret_and_different_in_each_run(tmp_path: Path) -> None:
    spec, fleet = federation(), digits(10, 0)
    one, two = (Virtual(spec, fleet, 3, tmp_path / name).run() for name in ("one", "two"))
    assert not np.array_equal(one.row, two.row)
    assert one.summary["privacy"]["noise"] == "secure"
    texts = [file.read_bytes() for file in (tmp_path / "one").glob("*.json*")]
    assert texts
    assert all(b'"key"' not in text for text in texts)


class Killed(BaseException):
    """kill -9."""


@pytest.mark.parametrize("stages", [(ft.clip(0.5),), (ft.adaptive_clip(),)])
@pytest.mark.parametrize("mechanism", MECHANISMS[:3])
@pytest.mark.parametrize("owner", [(Store, "checkpoint"), (Models, "__setitem__"), (noise, "draw")])
@pytest.mark.parametrize("before", [True, False])
def test_killed_while_it_releases_a_restart_releases_the_same(mechanism, stages, owner, before, tmp_path, monkeypatch):
    """Law 8 with noise that nobody can draw again: each version's model is the one that was written before the kill."""
    spec, fleet = federation(ft.central_dp(8, 1e-5, mechanism), stages), digits(10, 0)
    world = Virtual(spec, fleet, 5, tmp_path)
    kind, name = owner
    original, seen = getattr(kind, name), []

    def watched(*args):
        seen.append(1)
        if len(seen) == 3 and before:
            raise Killed
        result = original(*args)
        if len(seen) == 3:
            raise Killed
        return result

    drawn: dict[bytes, bytes] = {}
    draw = noise.draw

    def noted(key, count, factors):
        z = draw(key, count, factors)
        assert drawn.setdefault(key, z.tobytes()) == z.tobytes()
        return z

    monkeypatch.setattr(noise, "draw", noted)
    if kind is noise:
        original = noted
    monkeypatch.setattr(kind, name, watched)
    made: dict[int, np.ndarray] = {}
    killed = False
    while not world.service.done:
        try:
            assert world.step()
        except Killed:
            killed = True
            made = {int(file.stem): world.service.engine.rows[int(file.stem)] for file in _models(tmp_path)}
            world.mail.clear()
            world.agenda = []
            world.serve()
            world.drain()
    run = world.result()
    assert killed
    assert run.summary["privacy"]["releases"] == 5
    assert [json.loads(line)["version"] for line in run.ledger.splitlines()[1:]] == [1, 2, 3, 4, 5]
    assert (tmp_path / ledger.FILE).read_text() == run.ledger
    assert len(drawn) == 5  # no key of a version was drawn anew: what was killed drew the same again
    assert made


def _models(directory: Path) -> list[Path]:
    return [file for file in (directory / "models").iterdir() if file.stem.isdigit()]


@pytest.mark.parametrize("stages", [(ft.clip(0.5), ft.int8()), (ft.adaptive_clip(),)])
def test_gateways_bound_what_they_sum_and_the_model_is_the_same(stages, tmp_path: Path) -> None:
    spec, fleet = federation(stages=stages), digits(10, 0)
    want = ft.simulate(spec, fleet, 4)
    under = {"top": "", "west": "top", "south": ""}
    tree = Tree(spec, fleet, 4, tmp_path, under, noise="keyed")
    served = tree.run()
    assert np.array_equal(served.row, want.row)
    assert served.ledger == want.ledger
    assert sum(gateway.merged for gateway in tree.gateways.values()) > 0


def test_a_count_beyond_one_half_counts_as_one_half() -> None:
    partial = Engine(federation(stages=(ft.adaptive_clip(),)), 4).partial
    rows = {"x": np.zeros((1, TASK.model.layout.dim), np.float32), "below": np.full((1, 1), 30.0, np.float32)}
    assert partial.keep(rows, np.ones(1, np.int64), {}, [0]).tolist() == [""]
    assert partial.sums.limbs["below"][0] * 2.0 ** -partial.fields[1].scale == 0.5


@pytest.mark.parametrize("mechanism", MECHANISMS[:3])
def test_asynchronous_training_makes_the_same_claim(mechanism, tmp_path: Path) -> None:
    """Late reports count for less, so never for more; a device stands in no version twice."""
    pace = ft.Pace(goal=3, concurrency=6, staleness=2, separation=1)
    spec = federation(ft.central_dp(8, 1e-5, mechanism), strategy=ft.fedbuff(), pace=pace)
    run = ft.simulate(spec, digits(10, 0), 6)
    assert run.summary["privacy"]["epsilon"] == pytest.approx(8, rel=1e-6)
    assert np.array_equal(Virtual(spec, digits(10, 0), 6, tmp_path, noise="keyed").run().row, run.row)
