"""A user's own PyTorch module: the steps are those of our engine, what travels, and what is left alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import nn

import fedthings as ft
import own_models
from fedthings.errors import SpecError
from fedthings.learn import local, own, own_learner, save, to_torch, torch_descent
from fedthings.learn.data import Shard
from fedthings.learn.learner import Fit, Learner
from fedthings.learn.lift import Lifted
from fedthings.learn.metrics import ONE
from fedthings.learn.model import Sequential
from fedthings.learn.own import Own
from fedthings.learn.task import Recipe, Task
from fedthings.vector import Key
from own_models import PORTABLE

SIZES = [1, 23, 8, 8, 1, 13, 5, 21]
EFFORTS = [1.0, 0.3, 1.0, 0.5, 0.01, 1.0, 0.7, 1.0]


def shards(sizes: Sequence[int] = SIZES, shape: tuple[int, ...] = (6,)) -> list[Shard]:
    rng = np.random.default_rng(1)
    found = []
    for n in sizes:
        X, test = (rng.normal(size=(k, *shape)).astype("f4") for k in (n, n % 5))
        found.append(Shard(X, rng.integers(0, 3, n), test, rng.integers(0, 3, n % 5)))
    return found


def keys(n: int) -> list[Key]:
    return [Key(4, f"device-{i}", 2, 0) for i in range(n)]


def task(factory: str, loss: str = "cross_entropy", settings: dict | None = None, **recipe) -> Task:
    recipe = {"lr": 0.1, "batch": 4, "epochs": 2} | recipe
    return Task(model=ft.own(f"own_models:{factory}", **settings or {}), loss=loss, recipe=Recipe(**recipe))


def go(learner: Learner, row, some: list[Shard], efforts: list[float] | None = None) -> tuple[Fit, list]:
    n = len(some)
    return learner.many({"x": row}, [None] * n, some, keys(n), efforts or [1.0] * n)


Named = Callable[[Lifted], Own]


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Named:
    """Give what a factory has made a name."""

    def give(lifted: Lifted) -> Own:
        monkeypatch.setattr(own_models, "made_in_a_test", lambda: lifted, raising=False)
        own._made.cache_clear()
        return ft.own("own_models:made_in_a_test")

    return give


def turned(row: np.ndarray, model: Sequential = PORTABLE) -> np.ndarray:
    """Return rows of our layout in the order of the module, whose weights are (out, in)."""
    views = model.layout.views(row).values()
    flat = [np.moveaxis(view, -1, -2) if view.ndim > row.ndim else view for view in views]
    return np.concatenate([view.reshape(*row.shape[:-1], -1) for view in flat], -1)


# ------------------------------------------------------- the same steps as ours


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("batch", [0, 1, 5, 100])
def test_the_steps_are_those_of_our_engine(optimizer: str, batch: int, at_once: bool) -> None:
    recipe = {"optimizer": optimizer, "lr": 0.05, "batch": batch, "epochs": 3, "weight_decay": 0.01, "keep": 0.2}
    theirs = task("portable", settings={"at_once": at_once}, **recipe)
    ours = Task(model=PORTABLE, loss="cross_entropy", recipe=theirs.recipe)
    row = PORTABLE.init(3)
    want, states = go(local.trainer(ours, mu=0.3, engine="numpy"), row, shards(), EFFORTS)
    have, kept = go(own_learner.trainer(theirs, mu=0.3), turned(row), shards(), EFFORTS)
    np.testing.assert_allclose(have.report["x"], turned(want.report["x"]), rtol=1e-4, atol=2e-6)
    for mine, other in zip(states, kept, strict=True):
        np.testing.assert_allclose(other["x"], turned(mine["x"]), rtol=1e-4, atol=2e-6)
    np.testing.assert_array_equal(have.weight, want.weight)
    assert have.metrics.keys() == want.metrics.keys()
    for name, sums in want.metrics.items():
        np.testing.assert_array_equal(have.metrics[name][:, 0], sums[:, 0])
        np.testing.assert_allclose(have.metrics[name], sums, rtol=1e-4, atol=4)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("rows", ["shared", "one each"])
def test_each_device_may_begin_with_a_model_of_its_own(rows: str, at_once: bool) -> None:
    row = np.stack([PORTABLE.init(i) for i in range(len(SIZES))])
    row = row if rows == "one each" else row[0]
    theirs = task("portable", settings={"at_once": at_once})
    ours = Task(model=PORTABLE, loss="cross_entropy", recipe=theirs.recipe)
    want, _ = go(local.trainer(ours, mu=0.5, engine="numpy"), row, shards())
    have, _ = go(own_learner.trainer(theirs, mu=0.5), turned(row), shards())
    np.testing.assert_allclose(have.report["x"], turned(want.report["x"]), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mse", "mae", "huber", "reconstruction"])
@pytest.mark.parametrize("at_once", [False, True])
def test_every_loss_is_ours(loss: str, at_once: bool, named: Named) -> None:
    model = ft.mlp(6, 4, 6 if loss == "reconstruction" else 1)
    some = [s._replace(y=(s.y > 1).astype("f4"), test_y=(s.test_y > 1).astype("f4")) for s in shards()]
    lifted = ft.with_torch(lambda: to_torch.module(model), input=6, at_once=at_once)
    theirs = Task(model=named(lifted), loss=loss, recipe=Recipe(lr=0.1, batch=4, epochs=2))
    ours = Task(model=model, loss=loss, recipe=theirs.recipe)
    row = model.init(3)
    want, _ = go(local.trainer(ours, engine="numpy"), row, some)
    have, _ = go(own_learner.trainer(theirs), turned(row, model), some)
    np.testing.assert_allclose(have.report["x"], turned(want.report["x"], model), rtol=1e-4, atol=2e-6)
    for name, sums in want.metrics.items():
        np.testing.assert_allclose(have.metrics[name], sums, rtol=1e-4, atol=4)


def test_at_once_is_the_same_for_images_in_any_grouping(monkeypatch: pytest.MonkeyPatch) -> None:
    some = shards(shape=(1, 8, 8))
    row = task("images").model.init(0)
    want, _ = go(own_learner.trainer(task("images")), row, some)
    for group in (1, 3, 64):
        monkeypatch.setattr(torch_descent, "TOGETHER", group)
        have, _ = go(own_learner.trainer(task("images", settings={"at_once": True})), row, some)
        np.testing.assert_allclose(have.report["x"], want.report["x"], rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(have.metrics["train"][:, 0], want.metrics["train"][:, 0])


# ---------------------------------------------------------------- the laws


@pytest.mark.parametrize(
    ("factory", "shape"), [("net", (6,)), ("normed", (6,)), ("gated", (6, 1)), ("images", (1, 8, 8))]
)
def test_many_is_a_stack_of_one_bit_for_bit_and_the_same_again(factory: str, shape: tuple[int, ...]) -> None:
    some = shards(shape=shape)
    made = task(factory)
    learner, row = own_learner.trainer(made, mu=0.1), made.model.init(7)
    fit, _ = go(learner, row, some, EFFORTS)
    assert (np.abs(fit.report["x"]).max(-1) > 0).sum() >= len(some) - 2  # a BatchNorm learns nothing of one sample
    order = list(range(len(some)))[::-1]
    for i in order:
        one, _ = learner.one({"x": row}, None, some[i], keys(len(some))[i], EFFORTS[i])
        np.testing.assert_array_equal(one.report["x"], fit.report["x"][i])
        for name, sums in one.metrics.items():
            np.testing.assert_array_equal(sums, fit.metrics[name][i])
    only, _ = go(own_learner.evaluator(made), row, some)
    for name, sums in only.metrics.items():
        np.testing.assert_array_equal(sums, fit.metrics[name])


def test_dropout_is_keyed_by_device_and_version() -> None:
    made = task("normed", epochs=1, batch=0)
    learner, row, (shard,) = own_learner.trainer(made), made.model.init(7), shards([20])
    first, again, other = (
        learner.one({"x": row}, None, shard, Key(0, "a", version, 0), 1.0)[0].report["x"] for version in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_threads_and_the_generator_of_pytorch_are_left_as_they_were() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.manual_seed(5)
        before = torch.get_rng_state()
        lifted = ft.with_torch(lambda: nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 3)), input=6)
        lifted.begin(3)
        steps = lifted.steps(task("net"), 0.0)
        start, change = np.zeros((2, 2, lifted.layout.dim), "f4")
        steps(start[0].copy(), start, shards([5, 7]), keys(2), [1.0, 1.0], change)
        assert change.any()
        lifted.predict(start[0], np.zeros((2, 6), "f4"))
        lifted.engine()
        with pytest.raises(ZeroDivisionError):
            ft.with_torch(lambda: 1 / 0, input=6)
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.get_rng_state(), before)
    finally:
        torch.set_num_threads(threads)


def test_it_computes_on_one_thread() -> None:
    seen = []

    class Watched(nn.Linear):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return super().forward(x)

    lifted = ft.with_torch(lambda: Watched(6, 3), input=6)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        start, change = np.zeros((2, 1, lifted.layout.dim), "f4")
        lifted.steps(task("net"), 0.0)(start[0].copy(), start, shards([5]), keys(1), [1.0], change)
        lifted.predict(start[0], np.zeros((2, 6), "f4"))
    finally:
        torch.set_num_threads(threads)
    assert len(seen) >= 4 and set(seen) == {1}


# ------------------------------------------------------------- what travels


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


def test_a_normalisation_that_is_frozen_neither_moves_nor_travels(named: Named) -> None:
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


# ----------------------------------------------------- one's own loss, optimiser


def test_a_loss_and_an_optimiser_of_ones_own(named: Named) -> None:
    asked = []

    def optimizer(parameters, recipe):
        asked.append(recipe.lr)
        return torch.optim.SGD(parameters, 2 * recipe.lr)

    def loss(out, y):
        return 3 * nn.functional.cross_entropy(out, y, reduction="none")

    def build():
        return to_torch.module(PORTABLE)

    recipe = Recipe(lr=0.05, batch=4)
    model = named(ft.with_torch(build, input=6, loss=loss, optimizer=optimizer))
    have, _ = go(own_learner.trainer(Task(model=model, loss="cross_entropy", recipe=recipe)), model.init(0), shards())
    six = task("portable", lr=0.3, batch=4, epochs=1)
    want, _ = go(own_learner.trainer(six), model.init(0), shards())
    np.testing.assert_allclose(have.report["x"], want.report["x"], rtol=1e-4, atol=1e-6)
    assert asked == [0.05] * len(SIZES)  # a new one for each device: moments are nobody else's
    assert have.metrics["train"][1, 1] / ONE > 23  # the costs of the own loss, three times ours


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


class Random(nn.Linear):
    """A layer that draws without being known to."""

    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.5, self.training))


@pytest.mark.parametrize(
    ("build", "shape", "reason"),
    [
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), (6,), "it has the buffer running"),
        (own_models.Gated, (6, 1), "it has recurrent layers"),
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 3)), (6,), "vmap cannot take it"),
        (lambda: Random(6, 3), (6,), "vmap cannot take it"),
    ],
)
def test_modules_that_cannot_train_at_once_say_why(build, shape, reason: str, named: Named) -> None:
    model = named(ft.with_torch(build, input=shape, at_once=True))
    learner = own_learner.trainer(Task(model=model, loss="cross_entropy"))
    with pytest.raises(SpecError) as told:
        go(learner, model.init(0), shards(shape=shape))
    assert "at_once is True, and the module cannot: " in str(told.value) and reason in str(told.value)


@pytest.mark.parametrize("at_once", [False, True])
def test_a_loss_that_gives_one_number_for_all_is_told(at_once: bool, named: Named) -> None:
    lifted = ft.with_torch(lambda: nn.Linear(6, 3), input=6, loss=nn.functional.cross_entropy, at_once=at_once)
    learner = own_learner.trainer(Task(model=named(lifted), loss="cross_entropy"))
    with pytest.raises(SpecError, match=r"`loss` returned the shape \(\) for \d+ samples: return one cost for each"):
        go(learner, lifted.begin(0), shards())


def test_what_fails_in_a_module_says_whose_it_was_and_where(named: Named) -> None:
    class Fails(nn.Linear):
        def forward(self, x):
            if self.training:
                raise ValueError("too cold")
            return super().forward(x)

    model = named(ft.with_torch(lambda: Fails(6, 3), input=6))
    with pytest.raises(
        SpecError, match=r"training on device-0, version 2, raised ValueError: too cold \(line \d+ of tes"
    ):
        go(own_learner.trainer(Task(model=model, loss="cross_entropy")), model.init(0), shards())


def test_a_model_that_diverges_passes_on_without_warnings() -> None:
    made = task("net", lr=1e38, epochs=3)
    fit, _ = go(own_learner.trainer(made), made.model.init(0), shards())
    assert not np.isfinite(fit.report["x"]).all()
    assert (fit.metrics["train"][:, 1] > 0).all()
