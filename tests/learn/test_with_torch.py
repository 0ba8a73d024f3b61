"""A user's own PyTorch module: what of it travels, what is left alone, and what cannot be a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedthings as ft
import own_models
from differentiated import go, shards, task
from fedthings.errors import SpecError
from fedthings.learn import own_learner, save
from fedthings.learn.own import Own
from fedthings.learn.task import Recipe, Task


def test_statistics_of_batches_travel_and_counters_do_not() -> None:
    made = task("normed", epochs=1, batch=5)
    names = [part.name for part in made.model.layout.parts]
    assert names[-2:] == ["1.running_mean", "1.running_var"] and "1.num_batches_tracked" not in names
    row, (shard,) = made.model.init(0), shards([10])
    change = made.model.layout.views(go(own_learner.trainer(made), row, [shard])[0].report["x"][0])
    assert change["1.running_mean"].any() and change["1.running_var"].any()
    # By hand: one step at a rate of 0 moves the mean by a tenth of the way to the batch's.
    still = task("normed", epochs=1, batch=0, lr=1e-30)
    arrays = still.model.layout.views(row)
    inner = shard.X @ arrays["0.weight"].T + arrays["0.bias"]
    change = still.model.layout.views(go(own_learner.trainer(still), row, [shard])[0].report["x"][0])
    np.testing.assert_allclose(change["1.running_mean"], 0.1 * inner.mean(0), atol=1e-6)
    # They count where the model is used: another mean, other outputs.
    shifted = row.copy()
    still.model.layout.views(shifted)["1.running_mean"][...] = 3
    assert (still.model.predict(shifted, shard.X) != still.model.predict(row, shard.X)).any()


def test_a_batch_of_one_is_left_out_where_a_batch_is_normalised() -> None:
    made = task("normed", epochs=1, batch=4)
    fit, _ = go(own_learner.trainer(made), made.model.init(0), shards([9, 1]))
    assert fit.metrics["train"][:, 0].tolist() == [8, 0]
    assert fit.weight.tolist() == [9, 1]
    assert fit.report["x"][0].any() and not fit.report["x"][1].any()


def test_frozen_layers_stay_as_they_are_made_and_count() -> None:
    made = task("frozen", lr=0.5)
    assert [part.name for part in made.model.layout.parts] == ["head.weight", "head.bias"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = own_models.Frozen().features
    shard = shards([20])[0]
    fit, _ = go(own_learner.trainer(made), made.model.init(3), [shard])
    row = made.model.init(3) + fit.report["x"][0]
    arrays = made.model.layout.views(row)
    with torch.no_grad():
        inner = torch.relu(features(torch.from_numpy(shard.X))).numpy()
    want = inner @ arrays["head.weight"].T + arrays["head.bias"]
    np.testing.assert_allclose(made.model.predict(row, shard.X), want, atol=1e-5)


def test_a_normalisation_that_is_frozen_neither_moves_nor_travels(named: Callable[[Any], Own]) -> None:
    def build() -> nn.Module:
        base = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)).requires_grad_(False)
        return nn.Sequential(base, nn.ReLU(), nn.Linear(8, 3))

    model = named(ft.with_torch(build, input=6))
    assert [part.name for part in model.layout.parts] == ["2.weight", "2.bias"]
    made, row = Task(model=model, loss="cross_entropy", recipe=Recipe(lr=0.1, batch=4)), model.init(0)
    before = model.predict(row, shards([5])[0].X)
    fit, _ = go(own_learner.trainer(made), row, shards([9, 1]))
    np.testing.assert_array_equal(model.predict(row, shards([5])[0].X), before)
    assert fit.report["x"].any(-1).all()  # a batch of one is trained on: no variance is sought in it
    fitted = model.fitted(row + fit.report["x"][0])
    assert not fitted.training and (fitted[0][1].running_mean == 0).all()


def test_of_adapted_layers_only_the_thin_matrices_are_learnt() -> None:
    """LoRA (Hu et al. 2022, eq. 3): W x + B A x, with B zero at first; the row has A and B and nothing else."""
    made = task("adapted", lr=0.5, settings={"rank": 2, "width": 64})
    names = [part.name for part in made.model.layout.parts]
    assert names == [f"{layer}.thin.{i}.weight" for layer in (0, 2) for i in (0, 1)]
    assert made.model.layout.dim == 2 * (6 + 64) + 2 * (64 + 3)
    shard, row = shards([20])[0], made.model.init(3)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        first, last = own_models.Adapted(6, 64, 2), own_models.Adapted(64, 3, 2)
        want = nn.functional.linear(torch.from_numpy(shard.X), first.weight, first.bias).tanh()
        want = nn.functional.linear(want, last.weight, last.bias).numpy()
    np.testing.assert_allclose(made.model.predict(row, shard.X), want, atol=1e-5)
    fit, _ = go(own_learner.trainer(made), row, [shard])
    change = made.model.layout.views(fit.report["x"][0])
    assert change["0.thin.1.weight"].any() and change["2.thin.1.weight"].any()


def test_a_buffer_that_is_assigned_anew_travels_and_a_counter_begins_anew() -> None:
    made = task("follower", epochs=1, batch=0)
    shard, row = shards([10])[0], made.model.init(0)
    learner = own_learner.trainer(made)
    first, again = (go(learner, row, [shard])[0].report["x"][0] for _ in range(2))
    np.testing.assert_array_equal(first, again)  # what the first training has left in the module does not show
    change = made.model.layout.views(first)
    assert set(change) == {"layer.weight", "layer.bias", "seen"}
    np.testing.assert_allclose(change["seen"], 0.5 * shard.X.mean(0), atol=1e-6)


def test_the_first_model_is_that_of_pytorch_at_the_seed() -> None:
    model = ft.own("own_models:net")
    with torch.random.fork_rng():
        torch.manual_seed(12)
        want = np.concatenate([p.detach().numpy().ravel() for p in nn.Linear(6, 8).parameters()])
    np.testing.assert_array_equal(model.init(12)[: want.size], want)
    assert (model.init(13) != model.init(12)).any()
    assert model.flops == 2 * (6 * 8 + 8 * 3)


def test_the_file_of_a_model_goes_back_into_the_module(tmp_path) -> None:
    model = ft.own("own_models:normed")
    row = model.init(1) + 0.1
    save.save(tmp_path / "model.safetensors", model, row, {})
    from safetensors.torch import load_file

    layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    module = nn.Sequential(*layers).eval()
    module.load_state_dict(load_file(tmp_path / "model.safetensors"))
    X = shards([9])[0].X
    with torch.no_grad():
        want = module(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(model.predict(row, X), want, rtol=1e-6)


# ---------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"build": lambda: 3}, "`build` returned int: return a torch.nn.Module"),
        ({"build": nn.Linear(6, 3)}, "`build` is a module: give a function that makes one"),
        ({"build": lambda: nn.Linear(6, 3).double()}, "weight is torch.float64: make the module float32"),
        ({"build": lambda: nn.Linear(6, 3).requires_grad_(False)}, "nothing to train: leave requires_grad of some"),
        ({"build": lambda: nn.GRU(6, 3)}, "the module gives tuple: let `forward` return one tensor"),
        ({"build": lambda: nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))}, "gives the shape (1,) for 1 sample"),
        ({"input": 0}, "the shape 0 is none of a sample"),
        ({"device": "tpu"}, "device is 'tpu': did you mean `cpu`?"),
    ],
)
def test_what_cannot_be_a_model_is_refused(settings: dict, said: str) -> None:
    with pytest.raises(SpecError) as told:
        ft.with_torch(**{"build": lambda: nn.Linear(6, 3), "input": 6} | settings)
    assert said in str(told.value)


def test_a_module_that_is_not_made_anew_is_refused() -> None:
    module = nn.Linear(6, 3)
    lifted = ft.with_torch(lambda: module, input=6)
    with pytest.raises(SpecError, match="the same module again: make a new one in each call"):
        lifted.begin(1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_missed_where_it_is_needed() -> None:
    lifted = ft.with_torch(lambda: nn.Linear(6, 3), input=6, device="cuda")
    with pytest.raises(SpecError, match='device is "cuda", and there is none'):
        lifted.predict(lifted.begin(0), np.zeros((1, 6), "f4"))
