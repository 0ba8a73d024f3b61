"""Every layer, forward and backward, is what PyTorch computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedthings.learn import to_torch
from fedthings.learn.model import (
    Sequential,
    avg_pool,
    backward,
    batch_norm,
    conv1d,
    conv2d,
    cyclic,
    decompose,
    dense,
    dropout,
    embedding,
    flatten,
    forward,
    group_norm,
    gru,
    impute,
    layer_norm,
    log1p,
    max_pool,
    one_hot,
    outputs,
    relu,
    rescale,
    sequential,
    sigmoid,
    softmax,
    standardise,
    tanh,
)

STEPS = [0.5, -1.0, 2.0, 0.0, 3.5]
MODELS: dict[str, Sequential] = {
    "dense": sequential(5, dense(7), dense(3)),
    "one_by_one": sequential(1, dense(1), dense(1)),
    "dense_relu": sequential(5, dense(7, "relu"), dense(3)),
    "dense_tanh": sequential(5, dense(7, "tanh"), dense(3, "tanh")),
    "dense_sigmoid": sequential(5, dense(7, "sigmoid"), dense(1, "sigmoid")),
    "dense_softmax": sequential(5, dense(7, "softmax"), dense(3, "softmax")),
    "activations": sequential(5, dense(6), relu(), dense(6), tanh(), dense(6), sigmoid(), dense(4), softmax()),
    "activation_first": sequential(5, tanh(), dense(4)),
    "layer_norm": sequential(5, dense(6), layer_norm(), dense(3), layer_norm(1e-3)),
    "layer_norm_first": sequential((4, 3), layer_norm(), flatten(), dense(2)),
    "conv1d": sequential((11, 3), conv1d(4, 3), conv1d(5, 4, stride=2, activation="relu"), flatten(), dense(2)),
    "conv1d_same": sequential((11, 2), conv1d(4, 4, padding="same"), conv1d(3, 3, padding="same"), flatten(), dense(2)),
    "conv1d_uneven": sequential((12, 2), conv1d(3, 3, stride=3), conv1d(3, 3, stride=3, padding="same"), flatten()),
    "conv2d": sequential((9, 7, 2), conv2d(3, 3, activation="tanh"), conv2d(4, 2, stride=2), flatten(), dense(2)),
    "conv2d_same": sequential(
        (8, 7, 1),
        conv2d(3, 3, stride=2, padding="same"),
        conv2d(4, 4, padding="same", activation="relu"),
        flatten(),
    ),
    "conv2d_norm": sequential((6, 6, 2), conv2d(4, 3), layer_norm(), relu(), flatten(), dense(2)),
    "max_pool_2d": sequential((9, 8, 2), conv2d(3, 2), max_pool(2), conv2d(2, 2), max_pool(2, 1), flatten()),
    "max_pool_1d": sequential((12, 2), conv1d(3, 2), max_pool(3), conv1d(2, 1), max_pool(2, 1), flatten()),
    "max_pool_gaps": sequential((12, 2), conv1d(3, 1), max_pool(2, 3), flatten()),
    "avg_pool_2d": sequential((9, 8, 2), conv2d(3, 2), avg_pool(2), conv2d(2, 2), avg_pool(2, 1), flatten()),
    "avg_pool_1d": sequential((12, 2), conv1d(3, 2), avg_pool(3), conv1d(2, 1), avg_pool(2, 1), flatten()),
    "standardise": sequential(5, standardise(STEPS, [1, 2, 3, 4, 5], [0, 1, 2, 3, 4]), dense(3)),
    "standardise_later": sequential(5, dense(5), standardise(STEPS, [1, 2, 3, 4, 5]), dense(3)),
    "impute": sequential(5, impute(0.5), dense(3)),
    "group_norm": sequential((7, 6), conv1d(6, 2), group_norm(3), relu(), group_norm(1), flatten(), dense(2)),
    "group_norm_2d": sequential((5, 4, 4), group_norm(2, 1e-3), conv2d(2, 3), flatten()),
    "group_norm_flat": sequential(6, dense(6), group_norm(2), dense(3)),
    "batch_norm": sequential(5, dense(6), batch_norm(), relu(), dense(3), batch_norm(1e-3, 0.5)),
    "batch_norm_1d": sequential((7, 2), conv1d(4, 2), batch_norm(), flatten(), dense(2)),
    "batch_norm_2d": sequential((5, 4, 2), conv2d(3, 2), batch_norm(rate=1.0), flatten()),
    "causal": sequential((9, 2), conv1d(3, 3, padding="causal", dilation=2), conv1d(2, 2, 1, "causal", "relu", 4)),
    "causal_stride": sequential((10, 2), conv1d(3, 2, 2, "causal"), conv1d(2, 3, 2, "causal", dilation=2)),
    "dilated": sequential((14, 2), conv1d(3, 3, dilation=2), conv1d(4, 3, 2, dilation=3), flatten(), dense(2)),
    "dilated_same": sequential((9, 2), conv1d(3, 3, 2, "same", dilation=2), conv1d(2, 2, 1, "same", dilation=3)),
    "gru": sequential((6, 3), gru(4), dense(2)),
    "gru_sequence": sequential((6, 3), gru(4, True), gru(3, True), conv1d(2, 2), gru(5)),
    "gru_one": sequential((1, 1), gru(1)),
    "embedding": sequential(7, embedding(4, 3), gru(3), dense(2)),
    "embedding_column": sequential(5, embedding(4, 3, 2), embedding(3, 2, 0), dense(4)),
    "embedding_series": sequential((6, 3), embedding(4, 2, 1), gru(3), dense(2)),
    "log1p": sequential(5, log1p(), dense(3)),
    "transforms": sequential((4, 5), log1p((0, 3)), cyclic(1, 24), one_hot(1, 3), impute(), flatten(), dense(3)),
    "decompose": sequential((7, 2), decompose(3), flatten(), dense(3)),
    "decompose_wide": sequential((4, 3), log1p((1,)), decompose(11), gru(3), dense(2)),
    "decompose_gaps": sequential((6, 2), decompose(3), impute(0.5), decompose(1), flatten(), dense(2)),
    "rescale": sequential(5, dense(3), rescale([1, 2, 3], [0.5, 2, 4])),
    "dropout_0": sequential(5, dense(7), dropout(0.0), dense(3)),
}


def grad(tensor: torch.Tensor) -> np.ndarray:
    """The slope that PyTorch has found; a buffer has none."""
    return np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("kind", "tolerance"), [("f4", 1e-5), ("f8", 1e-11)])
def test_forward_and_backward_are_those_of_pytorch(name: str, kind: str, tolerance: float) -> None:
    model, batch = MODELS[name], 4
    rng = np.random.default_rng(7)
    row = (model.init(3) + rng.normal(0, 0.1, model.layout.dim)).astype(kind)
    X = rng.normal(size=(batch, *model.input)).astype(kind)
    if name in ("standardise", "impute", "decompose_gaps"):
        X[1, 2] = X[3, 0] = np.nan
    if "embedding" in name or name == "transforms":
        X = np.rint(X)  # some below 0, which has the vector of 0
    dY = rng.normal(size=(batch, *model.outputs)).astype(kind)

    theirs = to_torch.module(model).to(torch.float64 if kind == "f8" else torch.float32)
    with torch.no_grad():
        for part, array in model.layout.views(row).items():
            to_torch.tensor_of(theirs, part).copy_(torch.from_numpy(to_torch.turned(part, array).copy()))
    expected = theirs(torch.from_numpy(X))
    expected.backward(torch.from_numpy(dY))
    slope = np.concatenate(
        [to_torch.back(p.name, grad(to_torch.tensor_of(theirs, p.name))).ravel() for p in model.layout.parts]
    )

    rows, gradient = row[None], np.full((1, model.layout.dim), np.nan, kind)
    given = X.copy()
    weights = model.split(rows)
    training = None if "batch_norm" not in name else lambda layer, shape: rng.random(shape)
    before = model.layout.views(row.copy())
    Y, tape = forward(model, weights, given[None], training)
    answer = Y[0].copy()
    backward(model, weights, tape, dY[None].copy(), model.split(gradient))
    assert answer.dtype == kind
    np.testing.assert_allclose(answer, expected.detach().numpy(), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(gradient[0], slope, rtol=10 * tolerance, atol=10 * tolerance)
    np.testing.assert_array_equal(given, X)  # the data was not written to
    for part, array in model.layout.views(row).items():  # the running statistics have moved, and nothing else
        theirs_now = to_torch.tensor_of(theirs, part).detach().numpy()
        np.testing.assert_allclose(array, to_torch.back(part, theirs_now), rtol=tolerance, atol=tolerance)
        assert (array != before[part]).any() == part.endswith(("_norm.mean", "_norm.variance"))
    if training is None:
        np.testing.assert_array_equal(outputs(model, row, X), answer)
    in_use = theirs.eval()(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(outputs(model, row, X), in_use, rtol=tolerance, atol=tolerance)


def test_of_equal_numbers_in_a_window_the_first_takes_the_gradient() -> None:
    model = sequential((4, 4, 1), conv2d(2, 1), max_pool(2), flatten())
    row = np.array([0, 0, 1, -1], np.float64)  # every window holds four equal numbers
    theirs = to_torch.module(model, row.astype("f4")).double()
    images = torch.arange(16, dtype=torch.float64).reshape(1, 4, 4, 1).requires_grad_()
    with torch.no_grad():
        to_torch.tensor_of(theirs, "0.conv2d.weight").fill_(0)
    inner = theirs[0](images)
    inner.retain_grad()
    theirs[2](theirs[1](inner)).sum().backward()

    step = model.passes[1]
    Y, kept = step.forward({}, inner.detach().numpy()[None], None)
    dX = step.backward({}, kept, np.ones_like(Y), {}, True)
    assert dX is not None
    np.testing.assert_array_equal(dX[0], inner.grad.numpy())


@pytest.mark.parametrize(
    "name",
    ["dense_relu", "conv1d_same", "conv2d_norm", "standardise", "gru_sequence", "embedding_column", "batch_norm_2d"],
)
def test_a_module_gives_its_row_back(name: str) -> None:
    model = MODELS[name]
    row = model.init(5) + np.arange(model.layout.dim, dtype=np.float32)
    theirs = to_torch.module(model, row)
    np.testing.assert_array_equal(to_torch.row(theirs), row)
    with torch.no_grad():
        for part in model.layout.parts:
            to_torch.tensor_of(theirs, part.name).mul_(2)
    np.testing.assert_array_equal(to_torch.row(theirs), 2 * row)


@pytest.mark.parametrize(
    "name",
    [
        "dense_tanh",
        "layer_norm",
        "conv1d",
        "gru_sequence",
        "group_norm",
        "causal",
        "embedding_series",
        "conv2d_same",
        "avg_pool_2d",
        "dense_softmax",
    ],
)
def test_gradients_are_those_of_small_differences(name: str) -> None:
    model, rng = MODELS[name], np.random.default_rng(1)
    row = model.init(2).astype(np.float64) + rng.normal(0, 0.05, model.layout.dim)
    X = rng.normal(size=(1, 3, *model.input))
    dY = rng.normal(size=(1, 3, *model.outputs))
    gradient = np.empty((1, model.layout.dim))
    weights = model.split(row[None])
    _, tape = forward(model, weights, X)
    backward(model, weights, tape, dY.copy(), model.split(gradient))
    for i in rng.choice(model.layout.dim, min(25, model.layout.dim), replace=False):
        nudge = np.zeros_like(row)
        nudge[i] = 1e-6
        ahead, behind = (forward(model, model.split((row + s * nudge)[None]), X)[0] for s in (1, -1))
        assert gradient[0, i] == pytest.approx(float(((ahead - behind) * dY).sum() / 2e-6), rel=1e-5, abs=1e-7)


def test_dropout_keeps_the_mean_and_masks_the_gradient() -> None:
    model = sequential(4, dense(6), dropout(0.25), dense(2))
    step = model.passes[1]
    X = np.ones((2, 3, 6))
    drawn = np.random.default_rng(0).random(X.shape)
    Y, kept = step.forward({}, X, lambda layer, shape: drawn)
    np.testing.assert_allclose(Y, np.where(drawn < 0.25, 0, 1 / 0.75))
    dX = step.backward({}, kept, np.full(X.shape, 2.0), {}, True)
    np.testing.assert_allclose(dX, 2 * Y)
    assert step.forward({}, X, None)[0] is X
