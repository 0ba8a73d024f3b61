"""Estimators of scikit-learn as rows: each does what scikit-learn does, and the mean means what the page says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fedthings as ft
from fedthings.errors import SpecError
from fedthings.learn import own_learner
from fedthings.learn.data import Shard
from fedthings.learn.own import Own
from fedthings.learn.task import Recipe, Task
from fedthings.vector import Key
from installed import needs

needs("sklearn")
from sklearn.base import clone  # noqa: E402
from sklearn.cluster import KMeans, MiniBatchKMeans  # noqa: E402
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier, SGDRegressor  # noqa: E402
from sklearn.naive_bayes import GaussianNB  # noqa: E402
from sklearn.neural_network import MLPClassifier  # noqa: E402

KEY = Key(4, "kitchen", 2, 0)
CENTRES = np.random.default_rng(3).normal(size=(3, 6))


@pytest.fixture
def named(named: Callable[[Any], Own]) -> Callable[..., Own]:
    """Give an estimator a name."""
    return lambda build, **settings: named(ft.with_sklearn(build, input=6, **settings))


def shard(n: int = 40, classes: int = 3, seed: int = 1) -> Shard:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    X = (rng.normal(size=(n, 6)) + y[:, None]).astype("f4")
    return Shard(X, y, X[:5], y[:5])


def go(model: Own, some: Shard, loss: str = "cross_entropy", row: Any = None, **recipe: Any) -> np.ndarray:
    """Return the row after training."""
    start = model.init(0) if row is None else row
    task = Task(model=model, loss=loss, recipe=Recipe(**recipe))
    fit, _ = own_learner.trainer(task).one({"x": start}, None, some, KEY, 1.0)
    assert fit.weight == len(some.X)
    return start + fit.report["x"]


def draw() -> np.random.RandomState:
    return np.random.RandomState(KEY.word("sklearn") % 2**32)


# ------------------------------------------------------------ as scikit-learn does it


@pytest.mark.parametrize("outputs", [1, 3])
def test_sgd_makes_the_passes_of_partial_fit(named: Callable[..., Own], outputs: int) -> None:
    classes = max(outputs, 2)
    model = named(lambda: SGDClassifier(loss="log_loss", alpha=0.01), outputs=outputs)
    some, loss = shard(classes=classes), "cross_entropy" if outputs > 1 else "binary_cross_entropy"
    row = go(model, some, loss, lr=0.05, epochs=3)
    theirs = SGDClassifier(
        loss="log_loss", alpha=0.01, learning_rate="constant", eta0=0.05, random_state=draw(), shuffle=True
    )
    for _ in range(3):
        theirs.partial_fit(some.X.astype(float), some.y, classes=np.arange(classes))
    arrays = model.layout.views(row)
    np.testing.assert_allclose(arrays["coef"], theirs.coef_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(arrays["intercept"], theirs.intercept_, rtol=1e-4, atol=1e-5)
    due = theirs.decision_function(some.X).reshape(len(some.X), -1)
    np.testing.assert_allclose(model.predict(row, some.X), due, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(model.fitted(row).predict(some.X), theirs.predict(some.X))


def test_the_rate_is_that_of_the_recipe_where_the_estimator_has_none(named: Callable[..., Own]) -> None:
    some, rows = shard(), []
    for eta0 in (0.5, 0.0):
        model = named(lambda eta0=eta0: SGDClassifier(eta0=eta0), outputs=3)
        rows.append(go(model, some, lr=0.05))
        assert np.array_equal(model.fitted(rows[-1]).predict(some.X), model.predict(rows[-1], some.X).argmax(1))
    assert rows[0].any()
    np.testing.assert_array_equal(*rows)


def test_sgd_regresses(named: Callable[..., Own]) -> None:
    model, some = named(lambda: SGDRegressor(alpha=0)), shard()
    some = some._replace(y=some.X @ np.arange(6, dtype="f4") + 2, test_y=np.zeros(5, "f4"))
    row = go(model, some, "mse", lr=0.01, epochs=200)
    np.testing.assert_allclose(row, [0, 1, 2, 3, 4, 5, 2], atol=1e-3)
    np.testing.assert_allclose(model.fitted(row).predict(some.X), model.predict(row, some.X)[:, 0], rtol=1e-4)


def test_logistic_regression_goes_on_from_what_it_received(named: Callable[..., Own]) -> None:
    model, some = named(lambda: LogisticRegression(C=2.0), outputs=3), shard()
    row = model.init(0)
    for _ in range(40):
        row = go(model, some, row=row, epochs=5)
    theirs = LogisticRegression(C=2.0, max_iter=1000, tol=1e-8).fit(some.X.astype(float), some.y)
    np.testing.assert_allclose(model.fitted(row).predict_proba(some.X), theirs.predict_proba(some.X), atol=2e-3)


def test_a_device_that_lacks_a_class_trains_the_others(named: Callable[..., Own]) -> None:
    some = shard(classes=2)
    for build in (
        lambda: LogisticRegression(),
        lambda: SGDClassifier(loss="log_loss"),
        lambda: MLPClassifier((4,)),
        lambda: GaussianNB(),
    ):
        model = named(build, outputs=3)
        row = go(model, some, lr=0.1, epochs=30)
        assert np.isfinite(row).all()
        out = model.predict(row, some.X)
        assert out.shape == (40, 3) and (out.argmax(1) < 2).all()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
def test_a_network_makes_the_passes_of_partial_fit(named: Callable[..., Own], optimizer: str, activation: str) -> None:
    def build() -> MLPClassifier:
        return MLPClassifier((5, 4), activation=activation, alpha=0.01)

    model, some = named(build, outputs=3), shard()
    row = go(model, some, lr=0.05, batch=16, epochs=2, optimizer=optimizer, momentum=0.8)
    theirs = build().set_params(
        solver="adam" if optimizer == "adam" else "sgd",
        momentum=0.8 if optimizer == "momentum" else 0,
        nesterovs_momentum=False,
        learning_rate_init=1e-30,
        random_state=0,
    )
    X = some.X.astype(float)
    theirs.partial_fit(np.repeat(X, 5, 0), np.repeat(some.y, 5), classes=[0, 1, 2])
    start = model.fitted(model.init(0))
    theirs.coefs_, theirs.intercepts_ = start.coefs_, start.intercepts_
    del theirs._optimizer
    theirs.set_params(learning_rate_init=0.05, batch_size=16, random_state=draw())
    for _ in range(2):
        theirs.partial_fit(X, some.y)
    for mine, other in zip(model.fitted(row).coefs_, theirs.coefs_, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)
    logits = model.predict(row, some.X)
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(odds, theirs.predict_proba(X), atol=1e-5)


def test_the_first_network_is_drawn_by_the_seed(named: Callable[..., Own]) -> None:
    model = named(lambda: MLPClassifier((5,)), outputs=3)
    np.testing.assert_array_equal(model.init(3), model.init(3))
    assert (model.init(3) != model.init(4)).any()


# ------------------------------------------------------ the mean is that of all samples


def averaged(model: Own, shards: list[Shard], **recipe: Any) -> np.ndarray:
    """Return the mean of the rows of `shards`, weighted by samples: what FedAvg makes of them."""
    rows, sizes = [go(model, some, **recipe) for some in shards], [len(some.X) for some in shards]
    return np.average(rows, axis=0, weights=sizes).astype("f4")


SHARDS = [shard(30, 3, 1), shard(12, 2, 2), shard(55, 3, 3)]
X, y = np.concatenate([s.X for s in SHARDS]).astype(float), np.concatenate([s.y for s in SHARDS])


def test_naive_bayes_of_the_mean_is_that_of_all_samples(named: Callable[..., Own]) -> None:
    model = named(lambda: GaussianNB(var_smoothing=1e-3), outputs=3)
    row = averaged(model, SHARDS)
    theirs, mine = GaussianNB(var_smoothing=1e-3).fit(X, y), model.fitted(row)
    np.testing.assert_allclose(mine.theta_, theirs.theta_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mine.var_, theirs.var_, rtol=1e-3)
    np.testing.assert_allclose(mine.class_prior_, theirs.class_prior_, rtol=1e-5)
    np.testing.assert_array_equal(mine.predict(X), theirs.predict(X))
    np.testing.assert_allclose(model.predict(row, X), theirs.predict_joint_log_proba(X), rtol=1e-3)


def test_clusters_of_the_mean_are_those_of_lloyds_step_on_all_samples(named: Callable[..., Own]) -> None:
    far = np.r_[CENTRES[:2], CENTRES[2:] + 100]  # a cluster that nobody has samples of
    model = named(lambda: MiniBatchKMeans(3, init=far), outputs=6)
    row = averaged(model, SHARDS, loss="reconstruction", batch=0)
    nearest = ((X[:, None] - far) ** 2).sum(2).argmin(1)
    due = [X[nearest == k].mean(0) if (nearest == k).any() else far[k] for k in range(3)]
    np.testing.assert_allclose(model.fitted(row).cluster_centers_, due, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.predict(row, X), np.take(due, nearest2(due), 0), rtol=1e-4, atol=1e-4)


def nearest2(centres: Any) -> np.ndarray:
    return ((X[:, None] - np.asarray(centres)) ** 2).sum(2).argmin(1)


def test_clusters_in_batches_come_as_near_as_on_one_machine(named: Callable[..., Own]) -> None:
    model = named(lambda: MiniBatchKMeans(3, init=CENTRES), outputs=6)
    row = model.init(0)
    for _ in range(10):
        row = np.average(
            [go(model, some, "reconstruction", row, batch=8, epochs=2) for some in SHARDS], axis=0, weights=[30, 12, 55]
        ).astype("f4")
    whole = KMeans(3, init=CENTRES, n_init=1).fit(X)
    inertia = ((X - model.predict(row, X)) ** 2).sum()
    assert inertia <= 1.05 * whole.inertia_


# ---------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("build", "outputs", "said"),
    [
        (lambda: LinearRegression(), 1, "`build` returned LinearRegression: return one of SGDClassifier, "),
        (lambda: 3, 1, "`build` returned int: return one of"),
        (lambda: SGDClassifier(), 2, "two classes are 1 output, with the loss binary_cross_entropy"),
        (lambda: SGDRegressor(), 2, "outputs is 2: SGDRegressor has 1"),
        (lambda: GaussianNB(), 1, "outputs is 1: GaussianNB has one for each class, at least 2"),
        (lambda: MiniBatchKMeans(3, init=CENTRES), 3, "outputs is 3: MiniBatchKMeans has 6"),
        (lambda: MiniBatchKMeans(3), 6, "init is k-means++: give an array (3, 6), the same on all devices"),
        (lambda: SGDClassifier(average=True), 3, "average is on: leave it out"),
        (lambda: LogisticRegression(solver="liblinear"), 1, 'solver is "liblinear", which begins at 0 each time'),
    ],
)
def test_what_cannot_be_a_model_is_refused(build: Callable[[], Any], outputs: int, said: str) -> None:
    with pytest.raises(SpecError) as told:
        ft.with_sklearn(build, input=6, outputs=outputs)
    assert said in str(told.value)


def test_what_an_estimator_has_not_of_the_recipe_is_refused(named: Callable[..., Own]) -> None:
    model = named(lambda: SGDClassifier(), outputs=3)
    with pytest.raises(SpecError, match=r"recipe.weight_decay is 0.1: leave it at 0, and give the estimator alpha"):
        go(model, shard(), weight_decay=0.1)
    with pytest.raises(SpecError, match=r"strategy.mu is 0.5, and the `train` of the model has no parameter `mu`"):
        own_learner.trainer(Task(model=model, loss="cross_entropy"), 0.5)


def test_the_estimator_of_build_stays_as_it_is(named: Callable[..., Own]) -> None:
    made = SGDClassifier()
    model = named(lambda: made, outputs=3)
    go(model, shard(), lr=0.1)
    assert not hasattr(made, "coef_") and made.get_params() == clone(made).get_params()
