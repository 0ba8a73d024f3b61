"""Privacy claims of two servers: which are refused, and which a device and a helper believe."""

from __future__ import annotations

from math import sqrt

import pytest
from msgspec.structs import replace

import fedthings as ft
from claimed import CLAIM, MECHANISMS, TURNED, federation
from fedthings.engine import Engine
from fedthings.errors import SpecError, WireError
from fedthings.learn.digits import digits
from fedthings.phase import fits
from fedthings.privacy import distributed

REFUSED = {
    "amplified": (
        {"claim": ft.central_dp(8, 1e-5, ft.independent(amplified=True)), "pace": ft.Pace(goal=5)},
        "privacy.mechanism.amplified is set beside secure: it rests on nobody knowing",
    ),
    "norms": ({"secure": {"norms": True}}, "secure.norms is set beside privacy: both servers would see projections"),
    "no clip": ({"stages": ()}, "privacy is claimed, but stages has no clip"),
    "by samples": ({"strategy": ft.fedavg()}, 'strategy.weight is "samples" beside privacy'),
    "adaptive": ({"stages": (ft.adaptive_clip(),)}, "stages.adaptive_clip stands beside secure"),
    "stale": (
        {"strategy": ft.fedbuff(), "pace": ft.Pace(goal=5, concurrency=8, staleness=2, separation=1)},
        "strategy.staleness is set beside secure and privacy",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_void_the_claim_is_refused(case) -> None:
    fields, said = REFUSED[case]
    with pytest.raises(SpecError) as error:
        federation(**fields)
    assert said in str(error.value)


def test_sixteen_bits_that_would_wrap_are_refused_before_anything_runs() -> None:
    spec = federation(secure={"bits": 16}, pace=ft.Pace(goal=400, separation=1), devices=800)
    with pytest.raises(
        SpecError, match=r"secure\.bits is 16: sums of 401 reports with the noise of two servers would wrap"
    ):
        Engine(spec, 3)


@pytest.mark.parametrize("fields", [{}, TURNED])
def test_there_is_room_for_all_reports_and_both_noises(fields) -> None:
    for rounds in (1, 100, 1000):
        engine = Engine(federation(**fields), rounds)
        ring, claim = engine.partial.ring, engine.releases.claim
        assert (5 + 1) * ring.most + 9 * sqrt(2) * claim.deviation <= 2 ** (ring.bits - 1)
        assert claim.epsilon(rounds) <= 8


def test_a_device_does_not_believe_a_task_whose_noise_is_too_small() -> None:
    engine = Engine(federation(), 10)
    phase, shard = engine.phases[0], digits(10, 0).shard("device-0")
    fits(phase, shard, "device-0")
    for claim, said in (
        (None, "the task has no noise for what it claims"),
        (replace(phase.claim, unit=phase.claim.unit / 2), "the noise of the task is not enough for epsilon 8"),
        (replace(phase.claim, shared=False), "the task has no noise"),
        (replace(phase.claim, planned=1 << 40), "a claim of 10 of 1099511627776 versions"),
    ):
        with pytest.raises(SpecError, match=said):
            fits(replace(phase, claim=claim), shard, "device-0")


@pytest.mark.parametrize(
    "lie",
    [
        {"factors": (0, 0)},
        {"factors": (3, 3)},
        {"times": 0},
        {"apart": 0},
        {"goal": 0},
        {"share": 0.1},
        {"unit": -1e-3},
        {"unit": float("nan")},
        {"deviation": 1e12},
        {"theta": (0.5,), "omega": (-1.0,)},
        {"theta": (0.5,), "omega": (0.9, 0.05)},
        {"theta": (1.5,), "omega": (0.1,)},
        {"theta": (0.5, 0.6), "omega": (0.9, 0.9)},
        {"theta": (), "omega": ()},
    ],
    ids=str,
)
def test_a_claim_whose_noise_is_not_that_of_its_epsilon_is_refused_by_device_and_helper(lie) -> None:
    phase, shard = Engine(federation(), 10).phases[0], digits(10, 0).shard("device-0")
    claim = replace(phase.claim, **lie)
    with pytest.raises(SpecError):
        fits(replace(phase, claim=claim), shard, "device-0")
    with pytest.raises(WireError, match="malformed"):
        distributed.read(distributed.written(claim))


def test_the_claims_that_are_made_are_believed() -> None:
    for mechanism in MECHANISMS:
        for fields in ({}, TURNED):
            claim = Engine(federation(claim=replace(CLAIM, mechanism=mechanism), **fields), 10).phases[0].claim
            assert distributed.read(distributed.written(claim)) == claim


def test_a_task_cannot_train_and_ask_nor_claim_privacy_for_what_is_no_training() -> None:
    phase = Engine(federation(), 10).phases[0]
    for change, said in (({"query": "count()"}, "only one of the kind 'query' asks"), ({"kind": "evaluate"}, "claim")):
        with pytest.raises(SpecError, match=said):
            replace(phase, **change)


@pytest.mark.parametrize("data", [b"", b"{", b"{}", b"[1]", b"\xff"])
def test_a_claim_that_is_none_is_malformed(data) -> None:
    with pytest.raises(WireError, match="malformed"):
        distributed.read(data)
    claim = Engine(federation(), 3).releases.claim
    assert distributed.read(distributed.written(claim)) == claim
    with pytest.raises(WireError, match="malformed"):
        distributed.read(distributed.written(replace(claim, planned=1 << 40)))
