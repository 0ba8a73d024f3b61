"""The mechanisms: how the noise of one version hangs together with that of the others, and what that costs.

Each is a spec, a squared sensitivity for each number of versions, and a stream of whole-numbered noise.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from fedthings.privacy import blt
from fedthings.privacy.blt import Blt, Participation, Row, Toeplitz

Noise: TypeAlias = NDArray[np.int64]
State: TypeAlias = dict[str, Any]


class Independent(Struct, frozen=True, tag_field="kind", tag="independent", forbid_unknown_fields=True):
    """Fresh noise for each version (McMahan et al. 2018).

    `amplified`: the claim rests on each version's devices being a random sample of the fleet, which no fleet is.
    """

    amplified: bool = False


class Tree(Struct, frozen=True, tag_field="kind", tag="tree", forbid_unknown_fields=True):
    """One noise for each node of a binary tree over the versions (Kairouz et al. 2021, alg. 2, without restarts)."""


Mechanism: TypeAlias = Blt | Tree | Independent


def fitted(spec: Mechanism, participation: Participation) -> Toeplitz | None:
    """Return the parameters that suit `participation`, of a mechanism that has any."""
    return blt.fitted(spec.buffers, participation) if isinstance(spec, Blt) else None


def squares(spec: Mechanism, fit: Toeplitz | None, participation: Participation) -> Row:
    """Return `(n,)` the squared sensitivity of the first 1 to n versions, for reports of norm 1."""
    n, apart, times = participation
    if fit is not None:
        return blt.squares(blt.column(fit.theta, fit.omega, n), participation)
    versions = np.arange(1, n + 1)
    often = np.minimum(times, -(-versions // apart)).astype(float)
    if isinstance(spec, Independent):
        return often
    # A node of 2^h versions has at most ceil(2^h / apart) reports of one device, which has at most `often` in all.
    widths = 2 ** np.arange(n.bit_length())
    inside = np.minimum(-(-widths // apart), often[:, None])
    return np.asarray(often * np.where(widths <= versions[:, None], inside, 0).sum(-1))


def begin(spec: Mechanism, fit: Toeplitz | None, participation: Participation, dim: int) -> State:
    """Return what the stream remembers before the first version."""
    if fit is not None:
        return {"buffers": np.zeros((len(fit.theta), dim))}
    if isinstance(spec, Tree):
        return {"nodes": np.zeros((participation.versions.bit_length(), dim), np.int64)}
    return {}


def go_on(spec: Mechanism, fit: Toeplitz | None, state: State, version: int, fresh: Noise) -> Noise:
    """Return the noise `(dim,)` of `version`, from 1 on, made of what is `fresh`; `state` changes in place."""
    if fit is not None:
        return blt.stream(fit, state["buffers"], fresh)
    if isinstance(spec, Tree):
        # The prefix sum of t versions is that of a node for each bit of t; one more version merges the lowest ones.
        level = (version & -version).bit_length() - 1
        nodes = state["nodes"]
        noise: Noise = fresh - nodes[:level].sum(0)
        nodes[level] = fresh
        nodes[:level] = 0
        return noise
    return fresh


def growth(spec: Mechanism, fit: Toeplitz | None, participation: Participation) -> float:
    """Return the largest deviation of the noise of one version, over that of fresh noise."""
    if fit is not None:
        return blt.growth(fit, participation.versions)
    return float(np.sqrt(1 + participation.versions.bit_length())) if isinstance(spec, Tree) else 1.0


def prefix_error(spec: Mechanism, participation: Participation) -> float:
    """Return the root mean square error of the prefix sums, at noise multiplier 1 of the whole mechanism."""
    n = participation.versions
    fit = fitted(spec, participation)
    if fit is not None:
        return blt.error(fit, participation)
    versions = np.arange(1, n + 1)
    nodes = versions if isinstance(spec, Independent) else np.bitwise_count(versions)
    return float(np.sqrt(squares(spec, None, participation)[-1] * np.mean(nodes)))
