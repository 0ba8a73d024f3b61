"""FedProto: the fleet's vectors are those of all samples, the local steps are PyTorch's, and no network leaves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fedthings as ft
from fedthings.aggregate import fold
from fedthings.errors import SpecError
from fedthings.learn import to_torch
from fedthings.learn.data import Shard
from fedthings.learn.model import forward, outputs
from fedthings.learn.prototypes import body, fleetwide, held, learner
from fedthings.phase import Phase, schema
from fedthings.vector import Key

BODIES = ((8,), (12, 6))
DP = ft.central_dp(8.0, 1e-5)


def task(pull: float = 0.5, bodies: tuple[tuple[int, ...], ...] = BODIES, **recipe) -> ft.Task:
    model = ft.sequential(5, ft.impute(0.5), ft.prototypes(4, 3, bodies, pull))
    return ft.Task(model=model, loss="cross_entropy", recipe=ft.Recipe(**{"lr": 0.1, "batch": 8, **recipe}))


def cohort(n: int) -> tuple[list[Shard], list[Key]]:
    rng = np.random.default_rng(n)
    shards = []
    for i in range(n):
        X, test_X = (rng.normal(size=(k, 5)).astype("f4") for k in (9 + 4 * i, i))
        X[0, 1] = np.nan
        shards.append(Shard(X, rng.integers(0, 3 if i else 2, len(X)), test_X, rng.integers(0, 3, len(test_X))))
    return shards, [Key(4, f"device-{i}", 1, 0) for i in range(n)]


def test_many_is_a_stack_of_one() -> None:
    spec, (shards, keys) = task(epochs=3), cohort(7)
    assert {body(spec, key.device).layers[0].units for key in keys} == {8, 12}  # networks differ
    made = learner(spec, "samples", True, False)
    row = np.random.default_rng(0).uniform(0, 1, spec.model.layout.dim).astype("f4")
    states: list = [None] * 7
    ones: list = [None] * 7
    for _ in range(2):
        fit, states = made.many({"x": row}, states, shards, keys, [1.0, 0.5] * 3 + [0.2])
        for i, effort in enumerate([1.0, 0.5] * 3 + [0.2]):
            one, ones[i] = made.one({"x": row}, ones[i], shards[i], keys[i], effort)
            np.testing.assert_array_equal(one.report["x"], fit.report["x"][i])
            np.testing.assert_array_equal(ones[i]["x"], states[i]["x"])
            for name, sums in one.metrics.items():
                np.testing.assert_array_equal(sums, fit.metrics[name][i])
        row = row + fit.report["x"].mean(0)


def test_the_mean_of_reports_is_that_of_all_samples() -> None:
    """Sums and counts merge: what the server makes is the mean vector of each class over all the fleet's samples."""
    spec, (shards, keys) = task(), cohort(6)
    row = spec.model.init(0)
    fit, states = learner(spec, "samples", True, True).many({"x": row}, [None] * 6, shards, keys, [1.0] * 6)
    phase = Phase(kind="train", task=spec, strategy=ft.fedavg(), stages=(), seed=0)
    fields = fold.announced(schema(phase), 6)
    sums = fold.init(fields)
    fold.keep(sums, fields, fit.report, fit.weight, np.zeros(6, int))
    made = fleetwide(spec, row + fold.done(sums, fields)["x"].astype("f4"))
    vectors, labels = [], []
    for shard, key, state in zip(shards, keys, states, strict=True):
        network = body(spec, key.device)
        X = np.where(np.isnan(shard.X), np.float32(0.5), shard.X)
        _, tape = forward(network, network.split(state["x"][None]), X[None])
        vectors.append(tape[-1][0][0])
        labels.append(shard.y)
    of_all, y = np.concatenate(vectors), np.concatenate(labels)
    for label in range(3):
        np.testing.assert_allclose(made.vectors[label], of_all[y == label].mean(0), rtol=1e-5, atol=1e-6)
    assert made.known.all()


@pytest.mark.parametrize("pull", [0.0, 2.0])
def test_a_step_is_that_of_pytorch(pull: float) -> None:
    spec, (shards, keys) = task(pull, ((8,),), batch=0, lr=0.3), cohort(3)
    rng = np.random.default_rng(1)
    row = rng.uniform(0, 1, spec.model.layout.dim).astype("f4")
    views = spec.model.layout.views(row)
    views["1.prototypes.shares"][2] = 0  # nobody has had the third class: nothing pulls there
    shard, key = shards[2], keys[2]
    network = body(spec, key.device)
    theirs = to_torch.module(network, network.init(key.seed))
    X = torch.from_numpy(np.where(np.isnan(shard.X), np.float32(0.5), shard.X))
    y = torch.from_numpy(shard.y)
    vectors = theirs[:-1](X)
    near = torch.from_numpy(views["1.prototypes.sums"][:2] / views["1.prototypes.shares"][:2, None])[y.clamp(max=1)]
    distance = ((vectors - near) ** 2).mean(1) * (y < 2)
    (torch.nn.functional.cross_entropy(theirs[-1](vectors), y) + pull * distance.mean()).backward()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter -= 0.3 * parameter.grad
    _, state = learner(spec, "samples", True, True).one({"x": row}, None, shard, key, 1.0)
    np.testing.assert_allclose(state["x"], to_torch.row(theirs), rtol=1e-4, atol=1e-6)


def test_a_federation_learns_and_the_closing_evaluation_is_of_the_devices_networks() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 5)) * 2
    y = rng.integers(0, 3, 600)
    X = (centres[y] + rng.normal(size=(600, 5))).astype("f4")
    fleet = ft.Fleet.from_arrays(X, y, np.arange(600) % 6, np.arange(600) >= 480)
    run = ft.simulate(ft.Federation(task(), pace=ft.Pace(goal=6), devices=6), fleet, 20)
    assert run.summary["metrics"]["accuracy"] > 0.9
    assert run.history[0]["metrics"]["accuracy"] < run.summary["metrics"]["accuracy"]
    assert run.row.size == 3 * 4 + 3
    with pytest.raises(SpecError, match="predicts on its devices alone"):
        run.predict(X)


@pytest.mark.parametrize(
    ("goal", "more"),
    [
        (6, {"stages": (ft.int8(),), "down": ft.int8()}),
        (6, {"stages": (ft.int4(),), "down": ft.int4()}),
        (6, {"stages": (ft.eden(3),), "down": ft.delta(4)}),
        (6, {"stages": (ft.clip(1.0), ft.rotate()), "secure": ft.secagg(bits=16), "strategy": ft.fedavg("equal")}),
        (2, {"edge": ft.Edge(3)}),
    ],
    ids=["8 bits", "4 bits", "3 bits", "16 bits, hidden", "edges"],
)
def test_it_goes_with_what_goes_with_a_mean(goal: int, more: dict) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 600)
    X = (rng.normal(size=(3, 5))[y] * 2 + rng.normal(size=(600, 5))).astype("f4")
    fleet = ft.Fleet.from_arrays(X, y, np.arange(600) % 6, np.arange(600) >= 480)
    federation = ft.Federation(task(), **{"pace": ft.Pace(goal=goal), **more})
    run = ft.simulate(federation, fleet.under(2) if "edge" in more else fleet, 20)
    assert run.summary["metrics"]["accuracy"] > 0.85


def test_what_rounding_leaves_of_a_class_that_no_device_of_a_version_has_pulls_nobody() -> None:
    """As the ratio of two errors a vector could be anything: networks went out of range, and 0.87 was reached."""
    spec = task()
    views = spec.model.layout.views(row := np.ones(spec.model.layout.dim, "f4"))
    views["1.prototypes.shares"][:] = 0.6, 0.4, 0.003
    assert fleetwide(spec, row).known.tolist() == [True, True, False]
    rng = np.random.default_rng(0)
    device = np.arange(1200) % 20
    y = (device + rng.integers(0, 2, 1200)) % 10  # two classes a device
    X = (rng.normal(size=(10, 5))[y] * 2 + rng.normal(size=(1200, 5))).astype("f4")
    fleet = ft.Fleet.from_arrays(X, y, device, np.arange(1200) >= 900)
    many = ft.Task(model=ft.sequential(5, ft.prototypes(16, 10, ((16,),))), loss="cross_entropy")
    run = ft.simulate(ft.Federation(many, pace=ft.Pace(goal=3), stages=(ft.int8(),)), fleet, 100)
    assert not any(line["dropped"] for line in run.history)
    assert run.summary["metrics"]["accuracy"] > 0.94


def test_what_a_device_keeps_for_predictions_is_its_own_network() -> None:
    spec, (shards, keys) = task(), cohort(2)
    row = spec.model.init(0)
    _, state = learner(spec, "samples", True, True).one({"x": row}, None, shards[1], keys[1], 1.0)
    model, own = held(spec, keys[1].device, keys[1].seed, state)
    network, filled = body(spec, keys[1].device), np.where(np.isnan(shards[1].X), np.float32(0.5), shards[1].X)
    np.testing.assert_array_equal(outputs(model, own, shards[1].X), outputs(network, state["x"], filled))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ft.sequential(5, ft.dense(4), ft.prototypes(4, 3)), r"layer 1 \(prototypes\) is not alone"),
        (lambda: ft.sequential(5, ft.prototypes(4, 3), ft.relu()), r"layer 0 \(prototypes\) is not alone"),
        (lambda: ft.sequential((5, 2), ft.prototypes(4, 3)), "put flatten"),
        (lambda: ft.sequential(5, ft.prototypes(0, 3)), "width is 0"),
        (lambda: ft.sequential(5, ft.prototypes(4, 3, ((8, 0),))), "bodies is 0"),
        (lambda: ft.sequential(5, ft.prototypes(4, 3, ())), "bodies names none"),
        (lambda: ft.sequential(5, ft.prototypes(4, 3, pull=-1)), "pull is -1"),
        (lambda: task(keep=0.5), "leave recipe.keep at 0"),
        (lambda: ft.Federation(task(), ft.fedadam()), "strategy.step is not ft.sgd"),
        (lambda: ft.Federation(task(), ft.fednova()), "strategy.method or task.local is set beside prototypes"),
        (lambda: ft.Federation(task(), pace=ft.Pace(staleness=2)), "pace.staleness is 2 beside prototypes"),
        (lambda: ft.Federation(task(), ft.fedprox()), "strategy.mu is set beside prototypes"),
        (
            lambda: ft.Federation(task(), ft.fedavg("equal"), stages=(ft.clip(1.0),), privacy=DP),
            "or train one model with",
        ),
        (lambda: ft.Federation(task(), stages=(ft.top_k(0.5),)), "stages has top_k beside prototypes: it leaves too"),
        (
            lambda: ft.Federation(task(), stages=(ft.random_mask(),)),
            r"stages has random_mask beside .* use ft.int8\(\)",
        ),
        (lambda: ft.Federation(task(), stages=(ft.low_rank(1),)), "stages has low_rank beside prototypes"),
        (lambda: ft.Federation(task(), stages=(ft.int8(), ft.sign())), "stages has sign beside prototypes"),
        (lambda: ft.Federation(task(), stages=(ft.eden(2),)), "stages has eden beside prototypes"),
    ],
)
def test_what_cannot_be_is_refused(make, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        make()
