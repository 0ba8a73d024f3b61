"""Losses and their gradients are those of PyTorch, and are finite where the formulas overflow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedthings.errors import SpecError
from fedthings.learn.losses import LOSSES, scoring, target
from fedthings.learn.model import dense, mlp, sequential, softmax, standardise
from fedthings.learn.task import Task

THEIRS = {
    "cross_entropy": functional.cross_entropy,
    "binary_cross_entropy": functional.binary_cross_entropy_with_logits,
    "mse": functional.mse_loss,
    "mae": functional.l1_loss,
    "huber": functional.huber_loss,
    "reconstruction": functional.mse_loss,
    "nearest": lambda outputs, y: -outputs.amax(-1).mean(),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("kind", "tolerance"), [("f4", 1e-5), ("f8", 1e-12)])
@pytest.mark.parametrize("batch", [1, 5])
def test_a_loss_is_that_of_pytorch(name: str, kind: str, tolerance: float, batch: int) -> None:
    rng = np.random.default_rng(3)
    n = 1 if name == "binary_cross_entropy" else 4
    outputs = (3 * rng.normal(size=(2, batch, n))).astype(kind)
    if name == "cross_entropy":
        y = rng.integers(0, n, (2, batch))
    elif name == "binary_cross_entropy":
        y = rng.integers(0, 2, (2, batch, n)).astype(kind)
    else:
        y = rng.normal(size=(2, batch, n)).astype(kind)
    costs, slope = LOSSES[name].of(outputs, y)
    assert costs.shape == (2, batch)
    assert costs.dtype == slope.dtype == kind
    for k in range(2):
        theirs = torch.from_numpy(outputs[k]).requires_grad_()
        value = THEIRS[name](theirs, torch.from_numpy(y[k]))
        value.backward()
        assert costs[k].mean() == pytest.approx(value.item(), rel=tolerance)
        np.testing.assert_allclose(slope[k], theirs.grad.numpy(), rtol=tolerance, atol=tolerance)


def test_large_logits_stay_finite() -> None:
    z = np.array([[[1000.0, -1000.0], [-1000.0, 1000.0]]], np.float32)
    costs, slope = LOSSES["cross_entropy"].of(z, np.array([[0, 0]]))
    np.testing.assert_array_equal(costs, [[0, 2000]])
    np.testing.assert_array_equal(slope, [[[0, 0], [-0.5, 0.5]]])
    costs, slope = LOSSES["binary_cross_entropy"].of(z[..., :1], np.array([[[1.0], [1.0]]], np.float32))
    np.testing.assert_array_equal(costs, [[0, 1000]])
    np.testing.assert_array_equal(slope, [[[0], [-0.5]]])


def test_a_final_softmax_or_sigmoid_is_part_of_its_loss_and_of_no_other() -> None:
    plain = sequential(4, dense(3))
    for model in (sequential(4, dense(3, "softmax")), sequential(4, dense(3), softmax())):
        assert scoring(model, LOSSES["cross_entropy"]) == plain
        assert scoring(model, LOSSES["mse"]) == model
        assert model.layout.parts == plain.layout.parts
    assert scoring(sequential(4, dense(1, "sigmoid")), LOSSES["binary_cross_entropy"]) == sequential(4, dense(1))


def test_what_is_reconstructed_is_the_scaled_sample() -> None:
    model = sequential(2, standardise([1, 2], [2, 4]), dense(2))
    X = np.array([[[3, np.nan], [1, 10]]], np.float32)
    np.testing.assert_array_equal(target(model, LOSSES["reconstruction"], X, X), [[[1, 0], [0, 2]]])


@pytest.mark.parametrize(
    ("loss", "model", "words"),
    [
        ("cross_entropy", mlp(4, 1), r"'cross_entropy'.*\(1,\).*at least 2.*binary_cross_entropy"),
        ("binary_cross_entropy", mlp(4, 2), r"'binary_cross_entropy'.*\(2,\).*1 output"),
        ("reconstruction", mlp(4, 3), r"'reconstruction'.*\(3,\).*as many outputs.*4"),
        ("crossentropy", mlp(4, 3), r"did you mean `cross_entropy`"),
    ],
)
def test_a_loss_that_does_not_fit_the_outputs_is_refused(loss: str, model: object, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        Task(model=model, loss=loss)  # type: ignore[arg-type]


def test_a_metric_that_does_not_fit_the_loss_is_refused() -> None:
    with pytest.raises(SpecError, match="'rmse', not for cross_entropy with 3 outputs: leave metrics out"):
        Task(model=mlp(4, 3), loss="cross_entropy", metrics=("rmse",))
    with pytest.raises(SpecError, match="'auc', not for cross_entropy"):
        Task(model=mlp(4, 3), loss="cross_entropy", metrics=("auc",))
    assert Task(model=mlp(4, 2), loss="cross_entropy", metrics=("auc", "accuracy")).metrics
