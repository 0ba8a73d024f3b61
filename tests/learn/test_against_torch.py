"""Every layer, forward and backward, is what PyTorch computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedthings.learn import with_torch
from fedthings.learn.model import (
    Sequential,
    avg_pool,
    backward,
    conv1d,
    conv2d,
    dense,
    dropout,
    flatten,
    forward,
    impute,
    layer_norm,
    max_pool,
    outputs,
    relu,
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
    "dropout_0": sequential(5, dense(7), dropout(0.0), dense(3)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("kind", "tolerance"), [("f4", 1e-5), ("f8", 1e-11)])
def test_forward_and_backward_are_those_of_pytorch(name: str, kind: str, tolerance: float) -> None:
    model, batch = MODELS[name], 4
    rng = np.random.default_rng(7)
    row = (model.init(3) + rng.normal(0, 0.1, model.layout.dim)).astype(kind)
    X = rng.normal(size=(batch, *model.input)).astype(kind)
    if name in ("standardise", "impute"):
        X[1, 2] = X[3, 0] = np.nan
    dY = rng.normal(size=(batch, *model.outputs)).astype(kind)

    theirs = with_torch.module(model).to(torch.float64 if kind == "f8" else torch.float32)
    with torch.no_grad():
        for part, array in model.layout.views(row).items():
            turned = array if array.ndim == 1 else np.moveaxis(array, (-1, -2), (0, 1))
            with_torch._parameter(theirs, part).copy_(torch.from_numpy(turned.copy()))
    expected = theirs(torch.from_numpy(X))
    expected.backward(torch.from_numpy(dY))
    slope = np.concatenate(
        [with_torch._back(with_torch._parameter(theirs, p.name).grad.numpy()).ravel() for p in model.layout.parts]
    )

    rows, gradient = row[None], np.full((1, model.layout.dim), np.nan, kind)
    given = X.copy()
    weights = model.split(rows)
    Y, tape = forward(model, weights, given[None])
    answer = Y[0].copy()
    backward(model, weights, tape, dY[None].copy(), model.split(gradient))
    assert answer.dtype == kind
    np.testing.assert_allclose(answer, expected.detach().numpy(), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(gradient[0], slope, rtol=10 * tolerance, atol=10 * tolerance)
    np.testing.assert_array_equal(given, X)  # the data was not written to
    np.testing.assert_array_equal(outputs(model, row, X), answer)


def test_of_equal_numbers_in_a_window_the_first_takes_the_gradient() -> None:
    model = sequential((4, 4, 1), conv2d(2, 1), max_pool(2), flatten())
    row = np.array([0, 0, 1, -1], np.float64)  # every window holds four equal numbers
    theirs = with_torch.module(model, row.astype("f4")).double()
    images = torch.arange(16, dtype=torch.float64).reshape(1, 4, 4, 1).requires_grad_()
    with torch.no_grad():
        with_torch._parameter(theirs, "0.conv2d.weight").fill_(0)
    inner = theirs[0](images)
    inner.retain_grad()
    theirs[2](theirs[1](inner)).sum().backward()

    step = model.passes[1]
    Y, kept = step.forward({}, inner.detach().numpy()[None], None)
    dX = step.backward({}, kept, np.ones_like(Y), {}, True)
    assert dX is not None
    np.testing.assert_array_equal(dX[0], inner.grad.numpy())


@pytest.mark.parametrize("name", ["dense_relu", "conv1d_same", "conv2d_norm", "standardise"])
def test_a_module_gives_its_row_back(name: str) -> None:
    model = MODELS[name]
    row = model.init(5) + np.arange(model.layout.dim, dtype=np.float32)
    theirs = with_torch.module(model, row)
    np.testing.assert_array_equal(with_torch.row(theirs), row)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(2)
    np.testing.assert_array_equal(with_torch.row(theirs), 2 * row)


@pytest.mark.parametrize("name", ["dense_tanh", "layer_norm", "conv1d", "conv2d_same", "avg_pool_2d", "dense_softmax"])
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
