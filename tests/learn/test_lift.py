"""One's own functions as a model: what they are given, what they may return, and what is said otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import fedthings as ft
from fedthings.errors import SpecError
from fedthings.learn import own, own_learner
from fedthings.learn.data import Shard
from fedthings.learn.learner import Fit
from fedthings.learn.lift import Lifted
from fedthings.learn.metrics import ONE, values
from fedthings.learn.own import Own
from fedthings.learn.task import Recipe, Task
from fedthings.vector import Key

KEY = Key(1, "kitchen", 2, 0)
START = {"w": np.array([[1.0], [2.0]]), "b": np.array(0.5, "f4")}

Named = Callable[[Lifted], Own]


def shard(n: int = 4, test: int = 2) -> Shard:
    X = np.arange(2.0 * n, dtype="f4").reshape(n, 2)
    return Shard(X, np.ones(n, "f4"), X[:test] + 1, np.ones(test, "f4"))


def nothing(params: Mapping[str, Any], data: Shard, recipe: Recipe) -> tuple[Any, ...]:
    return params, None, {}


def linear(params: Mapping[str, Any], X: np.ndarray) -> np.ndarray:
    return X @ params["w"] + params["b"]


def lifted(train: Callable[..., Any] = nothing, **more: Any) -> Lifted:
    settings = {"init": lambda seed: START, "train": train, "predict": linear, "input": 2, "outputs": 1} | more
    return ft.lift(**settings)


def go(model: Own, some: Shard | None = None, mu: float = 0.0, effort: float = 1.0, state: Any = None, **recipe) -> Any:
    task = Task(model=model, loss="mse", recipe=Recipe(**recipe))
    return own_learner.trainer(task, mu).one({"x": model.init(0)}, state, some or shard(), KEY, effort)


# ------------------------------------------------------------ rows and arrays


def test_named_arrays_become_a_row_in_their_order_and_come_back_in_their_dtype(named: Named) -> None:
    seen = {}

    def train(params, data, recipe):
        seen.update(params)
        return {"b": params["b"] + 4, "w": params["w"] * 3}, 7, {"loss": 2.0}  # in another order

    model = named(lifted(train))
    np.testing.assert_array_equal(model.init(0), np.array([1, 2, 0.5], "f4"))
    assert [(part.name, part.shape) for part in model.layout.parts] == [("w", (2, 1)), ("b", ())]
    fit, state = go(model)
    assert {name: (array.dtype, array.shape) for name, array in seen.items()} == {
        "w": (np.float64, (2, 1)),
        "b": (np.float32, ()),
    }
    np.testing.assert_array_equal(fit.report["x"], [2, 4, 4])
    assert fit.report["x"].dtype == np.float32
    assert state is None and fit.weight == 7
    assert fit.metrics["train"].tolist() == [4, 4 * 2 * ONE]  # one loss for all of the four samples


def test_the_outputs_are_measured_by_the_loss_and_the_metrics_of_the_task(named: Named) -> None:
    fit: Fit = go(named(lifted()))[0]
    out = shard().test_X @ [1.0, 2.0] + 0.5  # 5.5 and 11.5, where 1 is due
    assert fit.metrics["loss"].tolist() == [2, ((out - 1) ** 2).sum() * ONE]
    assert fit.metrics["mae"].tolist() == [2, (out - 1).sum() * ONE]


@pytest.mark.parametrize(("weight", "due"), [("samples", [4, 0, 9]), ("equal", [1, 0, 1])])
def test_the_weight_is_the_samples_or_what_train_says(named: Named, weight: Any, due: list[int]) -> None:
    given = iter([None, 0, 9])
    learner = own_learner.trainer(
        Task(model=named(lifted(lambda p, data, r: (p, next(given), {}))), loss="mse"), weight=weight
    )
    row = np.zeros(3, "f4")
    fit, _ = learner.many({"x": row}, [None] * 3, [shard()] * 3, [KEY._replace(device=d) for d in "abc"], [1.0] * 3)
    assert fit.weight.tolist() == due and fit.weight.dtype == np.int64


def test_train_is_given_by_name_what_it_asks_for(named: Named) -> None:
    seen: dict[str, Any] = {}

    def train(params, data, recipe, effort, key, mu, loss):
        seen.update(effort=effort, key=key, mu=mu, loss=loss, epochs=recipe.epochs)
        return params, None, {}

    go(named(lifted(train)), mu=0.25, effort=0.3, epochs=10)
    assert seen == {"effort": 0.3, "key": KEY, "mu": 0.25, "loss": "mse", "epochs": 10}


@pytest.mark.parametrize(("effort", "epochs"), [(1.0, 10), (0.3, 3), (0.31, 4), (0.01, 1)])
def test_who_does_not_ask_for_the_effort_has_fewer_epochs(named: Named, effort: float, epochs: int) -> None:
    seen = []
    go(named(lifted(lambda p, data, recipe: (p, seen.append(recipe.epochs), {}))), effort=effort, epochs=10)
    assert seen == [epochs]


def test_a_pull_that_train_does_not_know_is_refused(named: Named) -> None:
    with pytest.raises(SpecError, match=r"strategy.mu is 0.5, and the `train` of the model has no parameter `mu`"):
        go(named(lifted()), mu=0.5)


def test_keep_starts_from_both_models(named: Named) -> None:
    model = named(lifted(lambda params, data, recipe: ({**params, "b": params["b"] + 1}, None, {})))
    fit, state = go(model, keep=0.25, state={"x": np.array([5, 2, 4.5], "f4")})
    np.testing.assert_array_equal(state["x"], [2, 2, 2.5])  # 1 + 0.25 * 4; 2; 0.5 + 0.25 * 4, and one more
    np.testing.assert_array_equal(fit.report["x"], [1, 0, 2])


def test_the_data_cannot_be_written_to_nor_the_model_received(named: Named) -> None:
    def train(params, data, recipe):
        for array in data[:4]:
            assert not array.flags.writeable
        params["w"] += 1  # its own copy
        return params, None, {}

    some, row = shard(), np.zeros(3, "f4")
    learner = own_learner.trainer(Task(model=named(lifted(train)), loss="mse"))
    fit, _ = learner.one({"x": row}, None, some, KEY, 1.0)
    assert fit.report["x"].tolist() == [1, 1, 0] and not row.any()
    assert some.X.flags.writeable


# --------------------------------------------------------- evaluate of one's own


def test_evaluate_measures_the_loss_and_metrics_of_its_own() -> None:
    task = Task(model=ft.own("own_models:center"), loss="mse", metrics=("within", "apart"), recipe=Recipe(lr=1.0))
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 6)).astype("f4")
    some = Shard(X, np.zeros(30, "f4"), X[:10], np.zeros(10, "f4"))
    learner = own_learner.trainer(task)
    fit, _ = learner.one({"x": task.model.init(0)}, None, some, KEY, 1.0)
    np.testing.assert_allclose(fit.report["x"], X.mean(0) - 9, rtol=1e-5)
    far = np.linalg.norm(X[:10] - X.mean(0), axis=1)
    fit, _ = learner.one({"x": X.mean(0)}, None, some, KEY, 1.0)
    found = values(task, fit.metrics)
    assert found["apart"] == pytest.approx(far.mean(), rel=1e-5)
    assert found["within"] == pytest.approx((far < 3).mean(), abs=1e-6)
    assert found["loss"] == pytest.approx((far**2).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ((), "task.metrics is empty: name what `evaluate` of own_models:center measures, apart, within"),
        (
            ("apar",),
            "task.metrics has 'apar', which own_models:center does not measure: did you mean `apart`?",
        ),
        (("rmse",), "task.metrics has 'rmse', which own_models:center does not measure"),
    ],
)
def test_metrics_that_evaluate_does_not_measure_are_refused(metrics: tuple[str, ...], said: str) -> None:
    with pytest.raises(SpecError) as told:
        own.verify(Task(model=ft.own("own_models:center"), loss="mse", metrics=metrics))
    assert said in str(told.value)


def test_metrics_of_another_model_or_of_no_loss_like_this_are_refused(named: Named) -> None:
    assert ft.own("own_models:center").made.metrics == ("apart", "within")
    model = named(lifted())
    for name, said in [
        ("apart", "task.metrics has 'apart', which only the `evaluate` of another model measures"),
        ("accuracy", "task.metrics has 'accuracy', not for mse with 1 outputs: leave metrics out"),
        ("rmsee", "task.metrics has 'rmsee': did you mean `rmse`?"),
    ]:
        with pytest.raises(SpecError) as told:
            own.verify(Task(model=model, loss="mse", metrics=(name,)))
        assert said in str(told.value)


# ------------------------------------------------------------------ what is wrong


def raises(params, data, recipe):
    raise KeyError("temperature")


def leaves(params, data, recipe):
    raise SystemExit("enough")


WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "it raises": (raises, "raised KeyError: 'temperature' (line "),
    "it ends the process": (leaves, "raised SystemExit: enough (line "),
    "params alone": (lambda p, d, r: p, "returned dict: return (params, weight, metrics), such as (params, None, {})"),
    "two things": (lambda p, d, r: (p, None), "returned tuple: return (params, weight, metrics)"),
    "half a sample": (lambda p, d, r: (p, 0.5, {}), "returned the weight 0.5: a weight is a whole number, or None"),
    "less than none": (lambda p, d, r: (p, -1, {}), "returned the weight -1: a weight is a whole number, or None"),
    "an accuracy": (lambda p, d, r: (p, None, {"acc": 1}), "returned the metrics {'acc': 1}: return {} or {\"loss\""),
    "text": (lambda p, d, r: (p, None, {"loss": "low"}), "returned the loss 'low': give numbers"),
    "no arrays": (lambda p, d, r: ([1], None, {}), "returned [1]: return a dictionary of named arrays"),
    "one too few": (lambda p, d, r: ({"w": p["w"]}, None, {}), "returned no 'b': return all that `init` gives: w, b"),
    "one too many": (lambda p, d, r: ({**p, "c": p["b"]}, None, {}), "returned 'c', which `init` does not give"),
    "another shape": (
        lambda p, d, r: ({**p, "w": p["w"].T}, None, {}),
        "returned 'w' of shape (1, 2): `init` gives (2",
    ),
    "whole numbers": (lambda p, d, r: ({**p, "b": 3}, None, {}), "returned 'b' as int64: what travels is averaged"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_train_returns_wrongly_is_told(named: Named, name: str) -> None:
    train, said = WRONG[name]
    with pytest.raises(SpecError) as told:
        go(named(lifted(train)))
    assert f"`train` on kitchen, version 2 {said}" in str(told.value)
    if name == "it raises":
        line = raises.__code__.co_firstlineno + 1
        assert f"(line {line} of test_lift.py): repair the code" in str(told.value)


@pytest.mark.parametrize(
    ("predict", "said"),
    [
        (lambda p, X: X @ p["w"][:, 0], "returned the shape (2,) for 2 samples: (2, 1) are due"),
        (lambda p, X: 1 / 0, "raised ZeroDivisionError: division by zero (line "),
    ],
)
def test_what_predict_returns_wrongly_is_told(named: Named, predict: Callable[..., Any], said: str) -> None:
    with pytest.raises(SpecError) as told:
        go(named(lifted(predict=predict)))
    assert f"`predict` of own_models:made_in_a_test {said}" in str(told.value)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([1.0, 2.0], '`evaluate` returned list: return {"loss": one number for each sample, ...}'),
        ({"loss": [1.0, 2.0]}, "`evaluate` returned no 'dose': return loss, dose"),
        (
            {"loss": [1.0, 2.0], "dose": 3.0},
            "`evaluate` returned 'dose' of shape (): give one number for each sample, (2,)",
        ),
    ],
)
def test_what_evaluate_returns_wrongly_is_told(named: Named, answer: Any, said: str) -> None:
    model = named(lifted(predict=None, evaluate=lambda p, X, y: answer, metrics={"dose": "low"}))
    learner = own_learner.evaluator(Task(model=model, loss="mse", metrics=("dose",)))
    with pytest.raises(SpecError) as told:
        learner.one({"x": model.init(0)}, None, shard(), KEY, 1.0)
    assert said in str(told.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"init": lambda seed: np.zeros(3)}, "init returned array([0., 0., 0.]): return a dictionary of named arrays"),
        ({"init": lambda seed: {}}, "init returned {}: return a dictionary of named arrays"),
        ({"init": lambda seed: {"w": np.arange(3)}}, "init returned 'w' as int64: what travels is averaged"),
        ({"input": ()}, "the shape () is none of a sample"),
        ({"outputs": -1}, "the shape -1 is none of a sample"),
        ({"metrics": {"dose": "low"}}, "lift has no `evaluate`: `metrics` names what `evaluate` measures"),
        ({"evaluate": lambda p, X, y: {}}, "lift has no `metrics`: `metrics` names what `evaluate` measures"),
        ({"evaluate": max, "metrics": {"rmse": "low"}}, "metrics has 'rmse', which fedthings measures by `predict`"),
        ({"evaluate": max, "metrics": {"dose2": "more"}}, "metrics says 'dose2' is better 'more': \"high\" or \"low\""),
        ({"evaluate": max, "metrics": {"apart": "high"}}, "'apart', which is better low in another model"),
    ],
)
def test_what_cannot_be_lifted_is_refused(settings: dict[str, Any], said: str) -> None:
    assert ft.own("own_models:center").made.metrics
    with pytest.raises(SpecError) as told:
        lifted(**settings)
    assert said in str(told.value)


def test_a_model_without_predict_measures_nothing_and_says_so_when_asked(named: Named) -> None:
    model = named(lifted(predict=None))
    fit, _ = go(model)
    assert not any(fit.metrics[name].any() for name in ("loss", "rmse", "mae"))
    with pytest.raises(SpecError, match="own_models:made_in_a_test has no `predict`: give it to `lift`"):
        model.predict(model.init(0), shard().X)
    with pytest.raises(SpecError, match=r"samples have shape \(3,\), the model takes \(2,\)"):
        model.predict(model.init(0), np.zeros((4, 3)))


def test_what_is_not_finite_passes_on_to_be_left_out(named: Named) -> None:
    grown = lifted(lambda p, d, r: ({**p, "w": p["w"] * 1e300}, None, {"loss": np.inf}))
    fit, _ = go(named(grown))
    assert np.isinf(fit.report["x"][:2]).all()
    assert fit.metrics["train"].tolist() == [4, 2**52]
