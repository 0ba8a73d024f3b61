"""scikit-learn: a user's own estimator as named arrays, of each kind what its mean over devices means.

A kind is an entry in `_kinds`. scikit-learn is imported only where it is used.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedthings.errors import SpecError
from fedthings.learn.element import Shape
from fedthings.learn.lift import Lifted, framework, guarded, lift, shape
from fedthings.vector import Array, Key

if TYPE_CHECKING:
    from fedthings.learn.data import Shard
    from fedthings.learn.task import Recipe

Arrays = dict[str, Array]
FAINT = 1e-6
"""The share of a device's samples by which a cluster without any holds its place."""


class Kind(NamedTuple):
    """How an estimator travels.

    `begin(estimator, seed)` gives the first arrays; `put(estimator, arrays)` puts arrays into it; `train(estimator,
    arrays, X, y, recipe, draw)` gives them trained; `predict(estimator, arrays, X)` outputs `(n, outputs)`.
    """

    begin: Callable[[Any, int], Arrays]
    put: Callable[[Any, Arrays], None]
    train: Callable[[Any, Arrays, Array, Array, Recipe, np.random.RandomState], Arrays]
    predict: Callable[[Any, Arrays, Array], Array]


def with_sklearn(build: Callable[[], Any], *, input: int | Shape, outputs: int = 1, flops: int = 0) -> Lifted:
    """Return the model that is the estimator `build()` makes, for samples of shape `input`, flattened.

    `outputs` are the classes; 1 for two classes (loss binary_cross_entropy) and for regression; the clusters' samples
    themselves (as many as `input` has numbers, loss reconstruction) for MiniBatchKMeans. Where an estimator has them,
    rate, batch, optimiser and epochs are those of the recipe; all else is as `build` says. `flops` as in `lift`.

    What is averaged, weighted by samples: coefficients and intercepts of SGDClassifier, SGDRegressor (`recipe.epochs`
    passes), LogisticRegression (`recipe.epochs` steps of its solver) and MLPClassifier; of GaussianNB the share, the
    sums and the sums of squares of each class, and of MiniBatchKMeans the share and the sums of each cluster, whose
    mean is what one machine would have of all samples. Raises SpecError.
    """
    framework("sklearn", "with_sklearn")
    takes = shape(input)
    with guarded("with_sklearn: `build`"):
        first = build()
    kind = _kind(first, prod(takes), outputs)

    def made() -> Any:
        return copy.deepcopy(first)

    def flat(X: Array) -> Array:
        return np.asarray(X, np.float64).reshape(len(X), -1)

    def train(params: Arrays, data: Shard, recipe: Recipe, key: Key) -> tuple[Arrays, None, Mapping[str, Any]]:
        if recipe.weight_decay:
            raise SpecError(
                f"recipe.weight_decay is {recipe.weight_decay}: leave it at 0, and give the estimator alpha"
            )
        draw = np.random.RandomState(key.word("sklearn") % 2**32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a few steps are not to converge
            return kind.train(made(), params, flat(data.X), np.asarray(data.y).reshape(-1), recipe, draw), None, {}

    def fitted(params: Arrays) -> Any:
        estimator = made()
        kind.put(estimator, params)
        return estimator

    import sklearn

    return lift(
        lambda seed: {name: np.asarray(array, np.float32) for name, array in kind.begin(made(), seed).items()},
        train,
        lambda params, X: kind.predict(made(), params, flat(X)),
        input=input,
        outputs=outputs,
        flops=flops,
        engine=f"scikit-learn {sklearn.__version__} numpy {np.__version__}",
        fitted=fitted,
    )


def _kind(estimator: Any, width: int, outputs: int) -> Kind:
    """Return how `estimator` travels. Raises SpecError."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.linear_model import LogisticRegression, SGDClassifier, SGDRegressor
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neural_network import MLPClassifier

    kinds: dict[type, Callable[[Any, int, int], Kind]] = {
        SGDClassifier: _sgd,
        SGDRegressor: _sgd,
        LogisticRegression: _logistic,
        MLPClassifier: _mlp,
        GaussianNB: _bayes,
        MiniBatchKMeans: _means,
    }
    known = next((kind for kind in kinds if isinstance(estimator, kind)), None)
    if known is None:
        names = ", ".join(kind.__name__ for kind in kinds)
        raise SpecError(
            f"with_sklearn: `build` returned {type(estimator).__name__}: return one of {names}, or use lift"
        )
    classes = known in (SGDClassifier, LogisticRegression, MLPClassifier)
    due = {SGDRegressor: 1, MiniBatchKMeans: width}.get(known)
    if due is not None and outputs != due:
        raise SpecError(f"with_sklearn: outputs is {outputs}: {known.__name__} has {due}")
    if outputs == 2 and classes:
        raise SpecError("with_sklearn: outputs is 2: two classes are 1 output, with the loss binary_cross_entropy")
    if outputs < 2 and known is GaussianNB:
        raise SpecError(f"with_sklearn: outputs is {outputs}: GaussianNB has one for each class, at least 2")
    return kinds[known](estimator, width, outputs)


# ------------------------------------------------------------------ by coefficients


def _sgd(estimator: Any, width: int, outputs: int) -> Kind:
    """Passes of `partial_fit`, a sample at a time, at a constant rate: FedAvg of linear models."""
    if estimator.average:
        raise SpecError("with_sklearn: average is on: leave it out, the devices' coefficients are averaged")
    regression = not hasattr(estimator, "decision_function")
    labels: dict[str, Any] = {} if regression else {"classes": _labels(outputs)}

    def put(fresh: Any, arrays: Arrays) -> None:
        # Of releases before 1.8 eta0 is 0 where it is not given, which a constant rate may not be.
        fresh.set_params(learning_rate="constant", eta0=fresh.eta0 or 0.01)
        fresh.partial_fit(np.zeros((1, width)), np.zeros(1), **labels)  # makes all that the arrays go into
        _fill(fresh, arrays, regression)

    def train(fresh: Any, arrays: Arrays, X: Array, y: Array, recipe: Recipe, draw: np.random.RandomState) -> Arrays:
        put(fresh, arrays)
        fresh.set_params(eta0=recipe.lr, random_state=draw)
        for _ in range(recipe.epochs):
            fresh.partial_fit(X, y)
        return {"coef": np.atleast_2d(fresh.coef_), "intercept": fresh.intercept_}

    return Kind(_zeros(width, outputs), put, train, _linear)


def _logistic(estimator: Any, width: int, outputs: int) -> Kind:
    """`recipe.epochs` steps of the solver from the model received: FedAvg; the penalty is each device's own."""
    if estimator.solver == "liblinear":
        raise SpecError('with_sklearn: solver is "liblinear", which begins at 0 each time: use "lbfgs"')
    classes = _labels(outputs)

    def put(fresh: Any, arrays: Arrays) -> None:
        fresh.classes_, fresh.n_features_in_ = classes, width
        _fill(fresh, arrays, False)

    def train(fresh: Any, arrays: Arrays, X: Array, y: Array, recipe: Recipe, draw: np.random.RandomState) -> Arrays:
        put(fresh, arrays)
        fresh.set_params(warm_start=True, max_iter=recipe.epochs, random_state=draw)
        # A sample of each class that weighs nothing: the device may lack some, and the rest must keep their place.
        weight = np.r_[np.ones(len(X)), np.zeros(len(classes))]
        fresh.fit(np.r_[X, np.zeros((len(classes), width))], np.r_[y, classes], sample_weight=weight)
        return {"coef": fresh.coef_, "intercept": fresh.intercept_}

    return Kind(_zeros(width, outputs), put, train, _linear)


def _mlp(estimator: Any, width: int, outputs: int) -> Kind:
    """Passes of `partial_fit` in batches, moments anew in each task: FedAvg of networks."""
    classes = _labels(outputs)

    def blank(fresh: Any) -> None:
        fresh.set_params(solver="sgd", learning_rate_init=1e-30)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one sample is less than a batch
            fresh.partial_fit(np.zeros((1, width)), np.zeros(1), classes=classes)

    def arrays_of(fresh: Any) -> Arrays:
        pairs = enumerate(zip(fresh.coefs_, fresh.intercepts_, strict=True))
        return {
            f"{i}.{name}": array for i, pair in pairs for name, array in zip(("coef", "intercept"), pair, strict=True)
        }

    def begin(fresh: Any, seed: int) -> Arrays:
        fresh.set_params(random_state=seed % 2**32)
        blank(fresh)
        return arrays_of(fresh)

    def put(fresh: Any, arrays: Arrays) -> None:
        blank(fresh)
        del fresh._optimizer  # it holds the rate above; the next partial_fit makes another
        fresh.coefs_ = [arrays[f"{i}.coef"].astype(np.float64) for i in range(len(fresh.coefs_))]
        fresh.intercepts_ = [arrays[f"{i}.intercept"].astype(np.float64) for i in range(len(fresh.coefs_))]

    def train(fresh: Any, arrays: Arrays, X: Array, y: Array, recipe: Recipe, draw: np.random.RandomState) -> Arrays:
        put(fresh, arrays)
        adam, momentum = recipe.optimizer == "adam", recipe.momentum if recipe.optimizer == "momentum" else 0.0
        fresh.set_params(solver="adam" if adam else "sgd", momentum=momentum, nesterovs_momentum=False)
        fresh.set_params(beta_1=recipe.beta1, beta_2=recipe.beta2, epsilon=recipe.eps, learning_rate="constant")
        fresh.set_params(learning_rate_init=recipe.lr, batch_size=min(recipe.batch or len(X), len(X)))
        fresh.set_params(random_state=draw)
        for _ in range(recipe.epochs):
            fresh.partial_fit(X, y)
        return arrays_of(fresh)

    def predict(fresh: Any, arrays: Arrays, X: Array) -> Array:
        bend = _BENDS[fresh.activation]
        for i in range(len(arrays) // 2):
            X = (bend(X) if i else X) @ arrays[f"{i}.coef"] + arrays[f"{i}.intercept"]
        return X

    return Kind(begin, put, train, predict)


_BENDS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda z: z,
    "logistic": lambda z: np.asarray(0.5 + 0.5 * np.tanh(z / 2)),
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
}


def _labels(outputs: int) -> Array:
    return np.arange(max(outputs, 2))


def _zeros(width: int, outputs: int) -> Callable[[Any, int], Arrays]:
    return lambda fresh, seed: {"coef": np.zeros((outputs, width)), "intercept": np.zeros(outputs)}


def _fill(fresh: Any, arrays: Arrays, flat: bool) -> None:
    coef, intercept = (arrays[name].astype(np.float64) for name in ("coef", "intercept"))
    fresh.coef_, fresh.intercept_ = coef[0] if flat else coef, intercept


def _linear(fresh: Any, arrays: Arrays, X: Array) -> Array:
    return np.asarray(X @ arrays["coef"].T + arrays["intercept"])


# ------------------------------------------------------------------ by counts and moments


def _bayes(estimator: Any, width: int, outputs: int) -> Kind:
    """Shares of the classes, sums and sums of squares a sample: after one round the model of all samples together."""

    def begin(fresh: Any, seed: int) -> Arrays:
        share = np.full(outputs, 1 / outputs)
        return {"share": share, "sum": np.zeros((outputs, width)), "square": np.outer(share, np.ones(width))}

    def put(fresh: Any, arrays: Arrays) -> None:
        share, total, square = (arrays[name].astype(np.float64) for name in ("share", "sum", "square"))
        samples = np.maximum(share, 1e-12)[:, None]
        fresh.theta_ = total / samples
        whole = np.maximum(square.sum(0) - total.sum(0) ** 2, 0).max()  # the variance of all samples: they sum to 1
        fresh.epsilon_ = fresh.var_smoothing * whole or np.finfo(np.float32).tiny
        fresh.var_ = np.maximum(square / samples - fresh.theta_**2, 0) + fresh.epsilon_
        fresh.class_count_, fresh.classes_, fresh.n_features_in_ = share, np.arange(outputs), width
        fresh.class_prior_ = np.asarray(fresh.priors) if fresh.priors is not None else np.maximum(share, 1e-12)

    def train(fresh: Any, arrays: Arrays, X: Array, y: Array, recipe: Recipe, draw: np.random.RandomState) -> Arrays:
        each = np.eye(outputs)[y.astype(int)].T / len(X)
        return {"share": each.sum(1), "sum": each @ X, "square": each @ (X * X)}

    def predict(fresh: Any, arrays: Arrays, X: Array) -> Array:
        put(fresh, arrays)
        return np.asarray(fresh.predict_joint_log_proba(X))

    return Kind(begin, put, train, predict)


def _means(estimator: Any, width: int, outputs: int) -> Kind:
    """Shares of the clusters and sums a sample: the mean of centres, each weighted by the samples nearest to it.

    With batch 0 and 1 epoch it is Lloyd's step on all samples together.
    """
    init = estimator.init
    if not isinstance(init, np.ndarray) or init.shape != (estimator.n_clusters, width):
        raise SpecError(
            f"with_sklearn: init is {init!s:.40}: give an array {(estimator.n_clusters, width)}, the same on all "
            "devices, for their clusters are averaged one by one"
        )

    def begin(fresh: Any, seed: int) -> Arrays:
        return {"share": np.full(len(init), FAINT), "sum": FAINT * init}

    def centres(arrays: Arrays) -> Array:
        return np.asarray(arrays["sum"].astype(np.float64) / np.maximum(arrays["share"], FAINT / 10)[:, None])

    def put(fresh: Any, arrays: Arrays) -> None:
        fresh.set_params(init=centres(arrays), n_init=1, reassignment_ratio=0.0)
        fresh.partial_fit(centres(arrays))  # each centre is nearest to itself, and stays
        fresh._counts = np.zeros_like(fresh._counts)

    def train(fresh: Any, arrays: Arrays, X: Array, y: Array, recipe: Recipe, draw: np.random.RandomState) -> Arrays:
        put(fresh, arrays)
        fresh.set_params(random_state=draw)
        size = recipe.batch or len(X)
        for _ in range(recipe.epochs):
            order = draw.permutation(len(X)) if size < len(X) else np.arange(len(X))
            for at in range(0, len(X), size):
                fresh.partial_fit(X[order[at : at + size]])
        share = fresh._counts / recipe.epochs / len(X)
        return {"share": share + FAINT, "sum": share[:, None] * fresh.cluster_centers_ + FAINT * centres(arrays)}

    def predict(fresh: Any, arrays: Arrays, X: Array) -> Array:
        found = centres(arrays)
        far = ((X * X).sum(1)[:, None] - 2 * X @ found.T) + (found * found).sum(1)
        return np.asarray(found[far.argmin(1)])

    return Kind(begin, put, train, predict)
