"""Ten steps of each optimiser are ten steps of PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedthings.errors import SpecError
from fedthings.learn.optimisers import build
from fedthings.learn.task import Recipe

RECIPES = {
    "sgd": (Recipe(lr=0.1), lambda p, d: torch.optim.SGD(p, 0.1, weight_decay=d)),
    "momentum": (
        Recipe(optimizer="momentum", lr=0.1, momentum=0.8),
        lambda p, d: torch.optim.SGD(p, 0.1, momentum=0.8, weight_decay=d),
    ),
    "adam": (
        Recipe(optimizer="adam", lr=0.01, beta1=0.8, beta2=0.95, eps=1e-6),
        lambda p, d: torch.optim.Adam(p, 0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=d),
    ),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(("kind", "tolerance"), [("f4", 1e-5), ("f8", 1e-12)])
def test_steps_are_those_of_pytorch(name: str, decay: float, kind: str, tolerance: float) -> None:
    recipe, theirs = RECIPES[name]
    recipe = Recipe(**{f: getattr(recipe, f) for f in recipe.__struct_fields__} | {"weight_decay": decay})
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(3, 8)).astype(kind)
    parameter = torch.nn.Parameter(torch.from_numpy(theta.copy()))
    optimizer = theirs([parameter], decay)
    optimiser = build(recipe)
    moments = tuple(np.zeros_like(theta) for _ in range(optimiser.moments))
    for count in range(1, 11):
        gradient = rng.normal(size=theta.shape).astype(kind)
        parameter.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        optimiser.step(theta, gradient, moments, np.full((3, 1), count))
    assert theta.dtype == kind
    np.testing.assert_allclose(theta, parameter.detach().numpy(), rtol=tolerance, atol=tolerance)


def test_each_row_counts_its_own_steps() -> None:
    step = build(Recipe(optimizer="adam", lr=0.1)).step
    theta, moments = np.zeros((2, 1)), (np.array([[0.0], [0.5]]), np.array([[0.0], [0.25]]))
    step(theta, np.ones((2, 1)), moments, np.array([[1], [1000]]))
    # Row 0: both moments corrected to 1, so the step is lr. Row 1: m = 0.55, v = 0.25075, next to no correction.
    np.testing.assert_allclose(theta[:, 0], [-0.1, -0.1 * 0.55 / np.sqrt(0.25075 / (1 - 0.999**1000))], rtol=1e-6)


def test_an_unknown_optimiser_is_answered_with_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean `adam`"):
        Recipe(optimizer="adm")
