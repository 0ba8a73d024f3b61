"""PyTorch on a GPU: what is trained there is what is trained on the CPU, to float tolerance, and is really there.

Without a GPU all of this is skipped: no other test needs one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedthings as ft
from differentiated import keys, shards, task
from fedthings.errors import SpecError
from fedthings.learn import torch_descent
from fedthings.learn.digits import digits
from fedthings.learn.lift import Lifted
from fedthings.learn.own import Own
from fedthings.vector import Array
from own_models import Follower, Gated

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: PyTorch sees none here")

SIZES = [1, 23, 8, 8, 1, 13, 5, 21]
EFFORTS = [1.0, 0.3, 1.0, 0.5, 0.01, 1.0, 0.7, 1.0]
Build = Callable[[], nn.Module]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def images() -> nn.Module:
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(8, 3)
    return nn.Sequential(*layers)


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))


def made(build: Build, shape: tuple[int, ...], device: Any, at_once: bool | None = None) -> Lifted:
    return ft.with_torch(build, input=shape, device=device, at_once=at_once)


def trained(lifted: Lifted, shape: tuple[int, ...], **recipe: Any) -> tuple[Array, Array]:
    """Return what devices report of the first model `(n, dim)`, and what they have seen `(n, 2)`."""
    start = np.repeat(lifted.begin(3)[None], len(SIZES), 0)
    change = np.full_like(start, np.nan)
    asked = task("net", **recipe)  # of which the recipe and the loss are read
    run = lifted.steps(asked, 0.3)
    _, seen = run(start[0].copy(), start, shards(SIZES, shape), keys(len(SIZES)), EFFORTS, change)
    return change, seen


def near(have: tuple[Array, Array], want: tuple[Array, Array]) -> None:
    assert np.abs(want[0]).max() > 1e-2
    np.testing.assert_allclose(have[0], want[0], rtol=1e-4, atol=5e-6)
    np.testing.assert_array_equal(have[1][:, 0], want[1][:, 0])
    np.testing.assert_allclose(have[1][:, 1], want[1][:, 1], rtol=1e-4, atol=16)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("batch", [0, 1, 5])
@pytest.mark.parametrize(("build", "shape"), [(net, (6,)), (images, (1, 8, 8))])
def test_a_cohort_on_the_gpu_is_the_cohort_on_the_cpu(
    build: Build, shape: tuple[int, ...], batch: int, optimizer: str, at_once: bool
) -> None:
    recipe = {"optimizer": optimizer, "lr": 0.02, "batch": batch, "epochs": 3, "weight_decay": 0.01}
    have = trained(made(build, shape, "cuda", at_once), shape, **recipe)
    near(have, trained(made(build, shape, "cpu", False), shape, **recipe))


@pytest.mark.parametrize(("build", "shape"), [(normed, (6,)), (Gated, (6, 1)), (Follower, (6,))])
def test_modules_that_cannot_train_at_once_train_one_by_one(build: Build, shape: tuple[int, ...]) -> None:
    """Statistics of batches, gates and buffers that are assigned anew, which `vmap` cannot take."""
    have = trained(made(build, shape, "auto"), shape)
    near(have, trained(made(build, shape, "cpu"), shape))


def test_it_is_on_the_gpu_and_at_once_where_nothing_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    places, groups = set(), []

    class Watched(nn.Linear):
        def forward(self, x: Any) -> Any:
            places.add((x.device.type, self.weight.device.type))
            return super().forward(x)

    def together(net: Any, ask: Any, start: Array, *rest: Any) -> Array:
        groups.append(len(start))
        return first(net, ask, start, *rest)

    first = torch_descent.together
    monkeypatch.setattr(torch_descent, "together", together)
    lifted = made(lambda: Watched(6, 3), (6,), "auto")
    places.clear()  # what making it has seen, which is on the CPU
    trained(lifted, (6,))
    out = lifted.predict(lifted.begin(3), np.ones((2, 6), "f4"))
    assert places == {("cuda", "cuda")} and groups == [len(SIZES)] and isinstance(out, np.ndarray)
    assert torch.cuda.get_device_name() in lifted.engine()
    assert lifted.fitted is not None and lifted.fitted(lifted.begin(3)).weight.device.type == "cpu"


def test_a_group_is_no_larger_than_the_room_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lifted, asked = made(images, (1, 8, 8), "cuda"), task("images", batch=16)
    assert lifted.together(asked) == torch_descent.MANY
    want = trained(lifted, (1, 8, 8))
    monkeypatch.setattr(torch_descent, "ROOM", 3 * 4 * 16 * 64)  # three devices with a batch of 16 images each
    assert lifted.together(asked) == 3
    near(trained(lifted, (1, 8, 8), batch=16), trained(made(images, (1, 8, 8), "cpu"), (1, 8, 8), batch=16))
    near(trained(lifted, (1, 8, 8)), want)


def test_how_pytorch_convolves_is_left_as_it_was() -> None:
    before, seen = torch.backends.cudnn.allow_tf32, []

    class Watched(nn.Conv2d):
        def forward(self, x: Any) -> Any:
            if x.is_cuda:
                seen.append(torch.backends.cudnn.allow_tf32)
            return super().forward(x)

    lifted = made(lambda: nn.Sequential(Watched(1, 3, 8), nn.Flatten()), (1, 8, 8), "cuda", at_once=False)
    try:
        for allowed in (True, False):
            torch.backends.cudnn.allow_tf32 = allowed
            trained(lifted, (1, 8, 8))
            assert torch.backends.cudnn.allow_tf32 == allowed
    finally:
        torch.backends.cudnn.allow_tf32 = before
    assert set(seen) == {False}


def test_outputs_are_those_of_the_cpu() -> None:
    X = np.random.default_rng(0).normal(size=(50, 1, 8, 8)).astype("f4")
    ours, theirs = (made(images, (1, 8, 8), device) for device in ("cuda", "cpu"))
    assert ours.predict is not None and theirs.predict is not None
    np.testing.assert_allclose(ours.predict(ours.begin(3), X), theirs.predict(ours.begin(3), X), rtol=1e-4, atol=1e-5)


def test_dropout_is_keyed_there_too_and_the_generator_left_as_it_was() -> None:
    torch.cuda.manual_seed(5)
    before = torch.cuda.get_rng_state()
    lifted = made(dropping, (6,), "cuda")
    first, again = (trained(lifted, (6,))[0] for _ in range(2))
    np.testing.assert_allclose(first, again, rtol=1e-4, atol=5e-6)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_a_simulation_there_is_the_simulation_on_the_cpu(named: Callable[[Any], Own]) -> None:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
        )

    runs = []
    for device in ("cuda", "cpu"):
        model = named(made(build, (64,), device))
        asked = ft.Task(model=model, loss="cross_entropy", recipe=ft.Recipe(lr=0.1, batch=16))
        runs.append(ft.simulate(ft.Federation(asked, pace=ft.Pace(goal=10)), digits(devices=10, seed=0), rounds=3))
    there, here = runs
    assert torch.cuda.get_device_name() in there.summary["engine"]["trains"]
    np.testing.assert_allclose(there.row, here.row, rtol=1e-3, atol=1e-4)
    assert there.summary["metrics"]["accuracy"] == pytest.approx(here.summary["metrics"]["accuracy"], abs=0.01)


def test_forked_workers_are_refused_there(named: Callable[[Any], Own]) -> None:
    asked = ft.Task(model=named(made(net, (6,), "auto")), loss="cross_entropy")
    fleet = ft.Fleet.from_arrays(np.ones((40, 6), "f4"), np.arange(40) % 3, np.arange(40) % 4)
    federation = ft.Federation(asked, pace=ft.Pace(goal=4))
    with pytest.raises(SpecError, match=r"workers is 2, and the model is on a GPU, .*: use workers=1"):
        ft.simulate(federation, fleet, rounds=1, workers=2)
