"""The audit's mathematics, on mechanisms whose epsilon is known; then on federations with a claim and without."""

from __future__ import annotations

import json
from math import exp, log
from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fedthings.cli import main
from fedthings.privacy import accountant
from fedthings.privacy.audit import SHARES, chance, lower_bound, shown
from fedthings.simulation.audit import audit
from fedthings.vector import keyed

DEVICES = 300
CLIP = (ft.clip(0.5),)


def coins(m: int) -> np.ndarray:
    return keyed("coins", m).random(m) < 0.5


# ------------------------------------------------------------------ the mathematics


def test_without_delta_it_is_the_clopper_pearson_bound() -> None:
    beta = pytest.importorskip("scipy.stats").beta
    for guesses, correct in ((20, 20), (100, 90), (1000, 731)):
        p = beta.ppf(0.05, correct, guesses - correct + 1)
        assert lower_bound(guesses, guesses, correct, 0.0, 0.05) == pytest.approx(log(p / (1 - p)), rel=1e-9)


def test_the_chance_of_right_guesses_counts_delta() -> None:
    """By hand: 1 guess, right with q = e/(1+e); with delta, 2 m delta (1 - q) more."""
    q = exp(1) / (1 + exp(1))
    assert chance(5, 1, 1, 1.0, 0.0) == pytest.approx(q)
    assert chance(5, 1, 1, 1.0, 0.01) == pytest.approx(q + 2 * 5 * 0.01 * (1 - q))
    assert chance(5, 1, 0, 1.0, 0.0) == pytest.approx(1)
    assert lower_bound(100, 100, 99, 1e-3, 0.05) < lower_bound(100, 100, 99, 0.0, 0.05)


def test_guesses_no_better_than_chance_show_nothing() -> None:
    assert shown(keyed("noise").normal(size=1000), coins(1000), 0.0, 0.95).epsilon == 0
    assert shown(np.zeros(0), np.zeros(0, bool), 0.0, 0.95) == (0, 0, 0, 0)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0, 4.0])
def test_randomised_response_is_bounded_from_below_and_closely(epsilon: float) -> None:
    inside = coins(4000)
    told = inside ^ (keyed("lies", str(epsilon)).random(4000) > exp(epsilon) / (1 + exp(epsilon)))
    found = shown(told.astype(float), inside, 0.0, 0.95)
    assert 0.6 * epsilon < found.epsilon <= epsilon


@pytest.mark.parametrize("deviation", [0.5, 1.0, 2.0])
def test_a_gaussian_mechanism_is_bounded_from_below(deviation: float) -> None:
    inside = coins(2000)
    scores = inside + deviation * keyed("gauss", str(deviation)).normal(size=2000)
    found = shown(scores, inside, 1e-5, 0.95)
    assert 0.1 < found.epsilon < accountant.epsilon(1 / deviation, 1e-5)


def test_it_is_seldom_wrong() -> None:
    """At confidence 0.9, of 200 audits of randomised response at epsilon 1 at most 20 may say more, but for luck."""
    wrong = 0
    for i in range(200):
        rng = keyed("often", i)
        inside = rng.random(200) < 0.5
        told = inside ^ (rng.random(200) > exp(1) / (1 + exp(1)))
        wrong += shown(told + rng.normal(0, 1e-3, 200), inside, 0.0, 0.9).epsilon > 1
    assert wrong <= 30


def test_without_noise_it_shows_all_that_so_many_guesses_can() -> None:
    inside = coins(500)
    found = shown(inside + keyed("little").normal(0, 0.01, 500), inside, 0.0, 0.95)
    right = (0.05 / len(SHARES)) ** (1 / 500)
    assert found[:3] == (pytest.approx(log(right / (1 - right))), 500, 500) and found.epsilon == found.most > 4.7


# -------------------------------------------------------------------- in a federation


def fleet(devices: int = DEVICES) -> ft.Fleet:
    rng = keyed("audited")
    X = rng.normal(0, 1, (10 * devices, 64)).astype(np.float32)
    return ft.Fleet.from_arrays(X, (X[:, 0] > 0).astype(np.int64), np.arange(len(X)) % devices)


def federation(claim=None, stages=CLIP, pace=None, **more) -> ft.Federation:
    task = ft.Task(model=ft.mlp(64, 10, 2), loss="cross_entropy", recipe=ft.Recipe(lr=0.3, batch=16))
    pace = pace or ft.Pace(goal=30, separation=4, cap=2)
    strategy = more.pop("strategy", ft.fedavg(weight="equal"))
    return ft.Federation(task, strategy, pace, stages=stages, privacy=claim, devices=DEVICES, **more)


@pytest.mark.parametrize(
    "spec",
    [
        federation(),
        federation(stages=(), strategy=ft.fedavg()),
        federation(strategy=ft.fedavgm()),
        federation(stages=(ft.clip(0.5), ft.int8())),
        federation(pace=ft.Pace(goal=20, concurrency=30, staleness=2)),
    ],
    ids=["clip", "plain", "momentum", "int8", "asynchronous"],
)
def test_without_noise_the_canaries_are_found(spec: ft.Federation) -> None:
    found = audit(spec, fleet(), 15)
    assert found.claimed is None and found.canaries == 150 and found.reported > 100
    assert found.shown.epsilon > 2


@pytest.mark.parametrize("mechanism", [ft.blt(), ft.tree(), ft.independent(), ft.independent(amplified=True)])
@pytest.mark.parametrize("stages", [(ft.clip(0.5),), (ft.adaptive_clip(initial=0.5),)], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("epsilon", [0.5, 4])
def test_a_claim_is_not_contradicted(mechanism, stages, epsilon) -> None:
    pace = ft.Pace(goal=30) if getattr(mechanism, "amplified", False) else None
    found = audit(federation(ft.central_dp(epsilon, 1e-5, mechanism), stages, pace), fleet(), 10)
    assert found.claimed == pytest.approx(epsilon, rel=0.01) and found.shown.epsilon <= found.claimed
    assert found.shown.epsilon < found.shown.most


def test_weak_noise_shows_and_strong_noise_hides() -> None:
    weak, strong = (
        audit(federation(ft.central_dp(epsilon, 1e-5)), fleet(), 10).shown.epsilon for epsilon in (100, 0.5)
    )
    assert weak > 2.5 and strong < 0.5


def test_noise_that_is_less_than_claimed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedthings.privacy import noise

    monkeypatch.setattr(noise, "draw", lambda key, n, *factors: np.zeros(n, np.int64))
    found = audit(federation(ft.central_dp(1, 1e-5)), fleet(), 10)
    assert found.claimed == pytest.approx(1) and found.shown.epsilon > 2.5


def test_the_command(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    things = fleet()
    shards = [things.shard(name) for name in things.names]
    X, y = np.concatenate([s.X for s in shards]), np.concatenate([s.y for s in shards])
    np.savez(tmp_path / "fleet.npz", X=X, y=y, device=np.repeat(things.names, 10), split=np.zeros(len(y)))
    (tmp_path / "fed.toml").write_text(ft.dumps(federation(ft.central_dp(2, 1e-5))))
    words = ["audit", str(tmp_path / "fed.toml"), "--fleet", str(tmp_path / "fleet.npz"), "--rounds", "10"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "claimed       epsilon 2.000 at delta 1e-05" in told and "does not contradict the claim" in told
    assert main([*words, "--json", "--canaries", "100", "--seed", "3"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["canaries"] == 100 and found["holds"] and 0 <= found["epsilon"] <= found["claimed"] <= 2

    monkeypatch.setattr("fedthings.privacy.noise.draw", lambda key, n, *factors: np.zeros(n, np.int64))
    assert main(words) == 1
    assert "THE CLAIM DOES NOT HOLD" in capsys.readouterr().out


def test_bad_input(tmp_path: Path, capsys) -> None:
    with pytest.raises(ft.SpecError, match="canaries is 301: give 2 to 300"):
        audit(federation(), fleet(), 5, 301)
    with pytest.raises(ft.SpecError, match=r"confidence is 1.0: give 0.5 or more, and less than 1"):
        audit(federation(), fleet(), 5, confidence=1.0)
    with pytest.raises(ft.SpecError, match="rounds is 0"):
        audit(federation(), fleet(), 0)
    with pytest.raises(ft.SpecError, match="devices is 300, the fleet has 20"):
        audit(federation(), fleet(20), 5)
    edges = ft.Federation(federation().task, pace=ft.Pace(goal=2), edge=ft.Edge(goal=3))
    with pytest.raises(ft.SpecError, match="edge is set: an edge's report is that of many"):
        audit(edges, fleet().under(10), 5)
    assert main(["audit", str(tmp_path / "none.toml"), "--fleet", str(tmp_path / "none.npz")]) == 2
    assert "there is no file" in capsys.readouterr().err
