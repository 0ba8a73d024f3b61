"""Queries with noise of each device: unbiased, with the error that is told, the same in both worlds, and paid for."""

from __future__ import annotations

import json
from math import exp, inf, nan, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedthings as ft
from fedthings.device.rules import Rules
from fedthings.device.spending import FILE, SPENT, Spending
from fedthings.device.training import Training
from fedthings.errors import SpecError
from fedthings.federation import dumps, load, phases, question
from fedthings.learn.data import Shard
from fedthings.phase import Phase, learner
from fedthings.privacy import local
from fedthings.protocol.events import Ticket
from fedthings.spelling import decode, encode
from fedthings.statistics import randomised
from fedthings.vector import Array, Key, keyed
from gateways import Tree
from secure import Secure, key_in
from virtual import Virtual

N = 120
ASKED = {
    "mean": ("mean(0)", ft.local_dp(1.0, (0.0, 10.0))),
    "response": ("labels(2)", ft.local_dp(2.0)),
    "unary": ("histogram(0, [0, 1, 2, 3, 4, 6, 8, 9, 10])", ft.local_dp(0.5)),
}
WAYS = {"mean": "one bit", "response": "randomised response", "unary": "unary encoding"}


def fleet(devices: int = N) -> ft.Fleet:
    """Devices of 1 to 5 samples: values from -2 to 12, some of them missing, and labels 0 to 2."""
    rng = keyed("randomised", devices)
    device = np.repeat(np.arange(devices), 1 + np.arange(devices) % 5)
    X = (rng.uniform(-2, 12, devices)[device] + rng.normal(0, 0.3, len(device)))[:, None].astype("f4")
    X[rng.random(len(X)) < 0.1] = np.nan
    return ft.Fleet.from_arrays(X, rng.integers(0, 3, len(device)), device)


def truth(name: str, things: ft.Fleet) -> Array:
    """Return what an answer without noise would be: each device counts once, by the shares of its samples."""
    of_each = []
    for device in things.names:
        x, y = things.shard(device).X[:, 0].astype("f8"), things.shard(device).y
        whole = np.clip(x[~np.isnan(x)], 0, 10)
        if name == "mean":
            of_each.append([whole.mean() if len(whole) else 5.0])
        elif name == "response":
            of_each.append([(y == 2).mean(), (y == 0).mean(), (y == 1).mean(), 0])
        else:
            edges = [-inf, 0, 1, 2, 3, 4, 6, 8, 9, np.nextafter(10, 11), inf]
            of_each.append([*np.histogram(x[~np.isnan(x)], edges)[0] / len(x), np.isnan(x).mean()])
    return np.mean(of_each, 0) if name == "mean" else np.sum(of_each, 0)


def numbers(value: Any, missing: float | None) -> Array:
    """Return the numbers of an answer in the order of `truth`."""
    if isinstance(value, float):
        return np.array([value])
    inner = [value["below"], *value["counts"], value["above"]] if "below" in value else [value["others"]]
    return np.array([*inner, *(value["counts"] if "others" in value else []), missing])


def errors_of(error: Any) -> Array:
    """Return the standard errors in the order of `truth`."""
    return numbers(error, None if isinstance(error, float) else error["missing"])


@pytest.mark.parametrize("name", ASKED)
def test_an_answer_has_no_bias_and_the_error_that_is_told(name: str) -> None:
    text, spec = ASKED[name]
    things, made, times = fleet(), randomised.build(text, spec), 300
    noise = made.noise
    assert noise is not None
    shares = [made.measure(np.zeros(0, "f4"), things.shard(device))["ones"] for device in things.names]
    found, errors = [], []
    for turn in range(times):
        words = keyed("words", turn).integers(0, 2**64, (N, noise.words), np.uint64)
        ones = sum(noise.add(share, row).astype("f8") for share, row in zip(shares, words, strict=True))
        known = {"devices": np.array([N]), "ones": np.asarray(ones)}
        answer = randomised.answer(text, spec, known, 2)
        assert answer["mechanism"] == WAYS[name]
        found.append(numbers(answer["value"], answer["missing"]))
        errors.append(errors_of(answer["error"]))
    spread, told = np.std(found, 0), np.mean(errors, 0)
    assert (np.abs(np.mean(found, 0) - truth(name, things)) < 5 * spread / sqrt(times)).all()
    assert (spread < 1.25 * told).all() and (spread > 0.75 * told).all()  # of 300, +- 4% is one deviation


def test_the_error_is_that_of_the_papers() -> None:
    _, error = local.estimate(np.array([50.0]), 100, local.bit_chances(1.0))
    assert error[0] == pytest.approx((exp(1) + 1) / (exp(1) - 1) / 2 / sqrt(100))  # Ding et al. 2017, section 3.1
    least = local.unary_chances(1.0).least
    _, error = local.estimate(np.array([100 * least]), 100, local.unary_chances(1.0))
    assert error[0] == pytest.approx(2 * exp(0.5) / (exp(1) - 1) / sqrt(100))  # Wang et al. 2017, equation 9
    _, error = local.estimate(np.array([0.0]), 2, local.bit_chances(1.0))
    assert error[0] > 0  # of two devices that say the same, it is not known to be so


@pytest.mark.parametrize("name", ASKED)
def test_whatever_a_device_has_it_tells_bits_of_a_fixed_number(name: str) -> None:
    text, spec = ASKED[name]
    phase = phases(question(text, local=spec))[0]
    nothing = np.zeros((0, 1), "f4")
    shards = [
        Shard(np.full((n, 1), x, "f4"), np.zeros(n, "i8"), nothing, nothing[:, 0].astype("i8"))
        for n, x in ((0, 0), (1, nan), (1, 1e30), (50, -inf))
    ]
    for shard in shards:
        fit, _ = learner(phase).one({"x": np.zeros(0, "f4")}, None, shard, Key(0, "a", 0, 0), 1.0)
        assert fit.report["devices"].tolist() == [1]
        assert set(fit.report["ones"].tolist()) <= {0.0, 1.0}
        assert int(fit.weight) == 1 and not fit.metrics


@pytest.mark.parametrize("name", ["mean", "unary"])
def test_two_devices_can_be_told_apart_no_better_than_epsilon_allows(name: str) -> None:
    text, spec = ASKED[name]
    made, n = randomised.build(text, spec), 20_000
    assert made.noise is not None
    often = []
    for low in (0.0, 10.0):
        shard = Shard(np.full((9, 1), low, "f4"), np.zeros(9), np.zeros((0, 1), "f4"), np.zeros(0))
        share = made.measure(np.zeros(0, "f4"), shard)["ones"]
        words = keyed("apart", name, int(low)).integers(0, 2**64, (n, made.noise.words), np.uint64)
        bits = np.array([made.noise.add(share, row) for row in words])
        often.append(bits[:, 0].mean() if name == "mean" else (bits[:, 1] > bits[:, 9 - 1]).mean())  # the best guess
    one, other = sorted(often)
    assert one > 0.01
    assert other / one < exp(spec.epsilon) * (1 + 5 * 2 / sqrt(n * one))
    assert other / one > 1 + 0.5 * (exp(spec.epsilon) - 1)  # it is not worse than it need be either


def test_noise_is_the_system_s_on_a_device_and_the_seed_s_in_a_simulation() -> None:
    text, spec = ASKED["unary"]
    phase = phases(question(text, local=spec))[0]
    shard, ticket = fleet().shard(fleet().names[0]), Ticket(0, 0, "device-0", 0)

    def bits(training: Training) -> list[list[float]]:
        reports = [training.train(phase, ticket, {"x": np.zeros(0, "f4")}, None, shard, inf, 1.0) for _ in range(8)]
        return [fit.report["ones"].tolist() for fit, _ in reports]

    secure = bits(Training())
    assert any(one != secure[0] for one in secure)
    tested = Training()
    tested.noise = "keyed"
    assert all(one == bits(tested)[0] for one in bits(tested))
    assert ft.query(fleet(), text, local=spec).value == ft.query(fleet(), text, local=spec).value
    assert ft.query(fleet(), text, local=spec).value != ft.query(fleet(), text, local=spec, seed=1).value


@pytest.mark.parametrize("name", ASKED)
def test_a_simulated_answer_is_near_the_truth_and_says_how_near(name: str) -> None:
    text, spec = ASKED[name]
    things = fleet(1000)
    answer = ft.query(things, text, local=spec)
    assert (answer.devices, answer.epsilon, answer.mechanism, answer.rounds) == (1000, spec.epsilon, WAYS[name], 1)
    off = numbers(answer.value, answer.missing) - truth(name, things)
    assert (np.abs(off) < 5 * errors_of(answer.error)).all()


# ------------------------------------------------------------------- simulated and served


def asked(name: str, **more: Any) -> ft.Federation:
    text, spec = ASKED[name]
    return question(text, devices=6, patience=1e6, local=spec, **more)


@pytest.mark.parametrize("name", ASKED)
def test_served_is_simulated_behind_gateways_and_behind_masks(tmp_path: Path, name: str) -> None:
    due = ft.simulate(asked(name), fleet(6), 1).summary["answer"]
    runs = {
        "plain": Virtual(asked(name), fleet(6), 1, tmp_path / "plain"),
        "gateways": Tree(asked(name), fleet(6), 1, tmp_path / "tree", {"west": "", "east": ""}, settings={"count": 3}),
        "helper": Secure(
            asked(name, secure=ft.two_servers(key_in(tmp_path / "two" / "helper"))), fleet(6), 1, tmp_path / "two"
        ),
        "secagg": Virtual(asked(name, secure=ft.secagg()), fleet(6), 1, tmp_path / "together"),
    }
    assert {world: made.run().summary["answer"] for world, made in runs.items()} == dict.fromkeys(runs, due)


def test_it_is_a_federation_in_toml(tmp_path: Path) -> None:
    for text, spec in ASKED.values():
        federation = question(text, local=spec)
        (tmp_path / "q.toml").write_text(dumps(federation))
        assert load(tmp_path / "q.toml") == federation


# ------------------------------------------------------------------------ what is refused

BETWEEN = {"epsilon": 1.0, "between": (0.0, 1.0)}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "nothing": (
        "mean(a)",
        {"epsilon": 0.0, "between": (0.0, 1.0)},
        "local.epsilon is 0.0: it must be from 0.001 to 30",
    ),
    "negative": ("mean(a)", {"epsilon": -1.0, "between": (0.0, 1.0)}, "local.epsilon is -1.0"),
    "no number": ("mean(a)", {"epsilon": nan, "between": (0.0, 1.0)}, "local.epsilon is nan"),
    "no bounds": ("mean(a)", {"epsilon": 1.0}, "needs bounds beside local"),
    "turned bounds": ("mean(a)", {"epsilon": 1.0, "between": (1.0, 0.0)}, "the lower one first"),
    "one bound": ("mean(a)", {"epsilon": 1.0, "between": (1.0,)}, "give two finite numbers"),
    "no finite bound": ("mean(a)", {"epsilon": 1.0, "between": (0.0, inf)}, "give two finite numbers"),
    "several": ("mean(a, b)", BETWEEN, "has 2 columns beside local"),
    "bounds of labels": ("labels(3)", BETWEEN, "it is of means; leave it out"),
    "quantiles": ("quantiles(a, [.5])", {"epsilon": 1.0}, "cannot be answered with noise of each device: one value"),
    "count": ("count()", {"epsilon": 1.0}, "cannot be answered with noise of each device"),
    "bins": ("histogram(a, 20)", {"epsilon": 1.0}, "its bins depend on the data; ask mean"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_the_remedy(case: str) -> None:
    text, fields, says = REFUSED[case]
    with pytest.raises(SpecError) as error:
        question(text, local=ft.local_dp(**fields))
    assert says in str(error.value)


def test_a_training_has_no_noise_of_devices() -> None:
    task = ft.Task(model=ft.mlp(2, 1), loss="mse")
    with pytest.raises(SpecError, match="local is set without a query"):
        ft.Federation(task, local=ft.local_dp(1.0))
    with pytest.raises(SpecError, match="local is set without a query"):
        ft.Federation(task, ft.ridge(0.5), local=ft.local_dp(1.0))
    with pytest.raises(SpecError, match="5 of the devices have answered, below the quorum of 6"):
        randomised.answer(*ASKED["mean"], {"devices": np.array([5]), "ones": np.array([2])}, 6)


# ------------------------------------------------------------------------ what it costs


def test_a_device_counts_what_it_has_spent_and_stops_there(tmp_path: Path) -> None:
    rules = {"device-2": Rules(epsilon=2.5)}
    spending: dict[str, Spending] = {}
    for turn in range(3):
        world = Virtual(asked("mean"), fleet(6), 1, tmp_path / str(turn), rules=rules)
        if turn:
            for agent in world.agents.values():  # one device, asked by one federation after another
                agent.spending = spending[agent.name]
        run = world.run()
        spending = {name: agent.spending for name, agent in world.agents.items()}
        assert spending["device-1"].total == turn + 1
        assert spending["device-2"].total == min(turn + 1, 2)
        assert run.summary["answer"]["devices"] == 6 - (turn == 2)
        assert run.history[0]["dropped"] == ({SPENT: 1} if turn == 2 else {})
    assert json.loads((tmp_path / "0" / "devices" / "device-1" / FILE).read_text()) == {"mean(0)": 3.0}


def test_a_device_with_a_budget_gives_no_exact_answers(tmp_path: Path) -> None:
    rules = {"device-2": Rules(epsilon=2.5)}
    world = Virtual(question("mean(0)", devices=6, patience=1e6), fleet(6), 1, tmp_path, rules=rules)
    assert world.run().history[0]["dropped"] == {"owner: only with noise of its own": 1}
    with pytest.raises(SpecError, match=r"rules.epsilon is -1"):
        Rules(epsilon=-1.0)


def test_a_task_from_the_network_that_claims_noise_it_cannot_have_is_refused() -> None:
    spec = encode(phases(asked("mean"))[0])
    assert decode(spec, Phase).local == ASKED["mean"][1]
    for wrong in ({"query": "median(0)"}, {"query": ""}, {"local": {"epsilon": 1000.0, "between": [0, 1]}}):
        with pytest.raises(SpecError):
            decode({**spec, **wrong}, Phase)
