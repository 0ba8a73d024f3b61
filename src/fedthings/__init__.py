"""Federated learning for fleets of things: one model, trained together, while the data stays on the devices.

The public names are found here when they are first asked for, so that `import fedthings` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# ruff: noqa: N813 (a user writes ft.momentum(...); the spec it makes is the struct Momentum)
if TYPE_CHECKING:
    from fedthings.aggregate.step import Adagrad as adagrad
    from fedthings.aggregate.step import Adam as adam
    from fedthings.aggregate.step import Constant as constant
    from fedthings.aggregate.step import Decay as decay
    from fedthings.aggregate.step import Hinge as hinge
    from fedthings.aggregate.step import Momentum as momentum
    from fedthings.aggregate.step import Polynomial as polynomial
    from fedthings.aggregate.step import Sgd as sgd
    from fedthings.aggregate.step import Yogi as yogi
    from fedthings.baseline import baselines
    from fedthings.compress.delta import Delta as delta
    from fedthings.compress.low_rank import LowRank as low_rank
    from fedthings.compress.quantize import int4, int8
    from fedthings.compress.rotate import Eden as eden
    from fedthings.compress.rotation import Rotate as rotate
    from fedthings.compress.rows import SeenRows as seen_rows
    from fedthings.compress.sign import Sign as sign
    from fedthings.compress.sparsify import RandomMask as random_mask
    from fedthings.compress.sparsify import TopK as top_k
    from fedthings.errors import (
        DataError,
        FedthingsError,
        SpecError,
        StoreError,
        TransportError,
        WireError,
    )
    from fedthings.federation import Federation, dumps, load
    from fedthings.learn import catalogue, partition
    from fedthings.learn.fleet import Fleet
    from fedthings.learn.forecasting import dlinear, rnn, tcn
    from fedthings.learn.lift import lift
    from fedthings.learn.metrics import register as metric
    from fedthings.learn.model import (
        avg_pool,
        batch_norm,
        centroids,
        conv1d,
        conv2d,
        cyclic,
        decompose,
        dense,
        dropout,
        embedding,
        flatten,
        forest,
        gaussians,
        group_norm,
        gru,
        impute,
        layer_norm,
        log1p,
        max_pool,
        mlp,
        one_hot,
        prototypes,
        relu,
        rescale,
        sequential,
        sigmoid,
        softmax,
        standardise,
        tanh,
    )
    from fedthings.learn.own import own
    from fedthings.learn.series import Window as window
    from fedthings.learn.synthetic import clusters, synthetic
    from fedthings.learn.task import Recipe, Task
    from fedthings.learn.with_jax import with_jax
    from fedthings.learn.with_keras import with_keras
    from fedthings.learn.with_sklearn import with_sklearn
    from fedthings.learn.with_torch import with_torch
    from fedthings.privacy.blt import Blt as blt
    from fedthings.privacy.central import CentralDp as central_dp
    from fedthings.privacy.clip import AdaptiveClip as adaptive_clip
    from fedthings.privacy.clip import Clip as clip
    from fedthings.privacy.local import LocalDp as local_dp
    from fedthings.privacy.mechanism import Independent as independent
    from fedthings.privacy.mechanism import Tree as tree
    from fedthings.privacy.secagg import SecAgg as secagg
    from fedthings.privacy.shares import TwoServers as two_servers
    from fedthings.protocol.pace import Edge, Pace
    from fedthings.protocol.selection import Forecast as forecast
    from fedthings.protocol.selection import Uniform as uniform
    from fedthings.run import Run, compare
    from fedthings.simulation.ask import query
    from fedthings.simulation.availability import Always as always
    from fedthings.simulation.availability import Diurnal as diurnal
    from fedthings.simulation.availability import DutyCycle as duty_cycle
    from fedthings.simulation.devices import Device
    from fedthings.simulation.links import Link
    from fedthings.simulation.recorded import Trace as trace
    from fedthings.simulation.simulator import simulate
    from fedthings.simulation.stragglers import LogNormal as log_normal
    from fedthings.simulation.stragglers import Pareto as pareto
    from fedthings.simulation.sweep import sweep
    from fedthings.simulation.things import Group, Things
    from fedthings.strategy import (
        Strategy,
        boosting,
        ditto,
        fedadagrad,
        fedadam,
        fedasync,
        fedavg,
        fedavgm,
        fedbuff,
        feddyn,
        fednova,
        fedprox,
        fedsgd,
        fedyogi,
        finetune,
        ifca,
        k_means,
        logistic,
        mixing,
        naive_bayes,
        nearest_mean,
        pca,
        qffl,
        ridge,
        scaffold,
    )

__all__ = [
    "DataError",
    "Device",
    "Edge",
    "Federation",
    "FedthingsError",
    "Fleet",
    "Group",
    "Link",
    "Pace",
    "Recipe",
    "Run",
    "SpecError",
    "StoreError",
    "Strategy",
    "Task",
    "Things",
    "TransportError",
    "WireError",
    "adagrad",
    "adam",
    "adaptive_clip",
    "always",
    "avg_pool",
    "baselines",
    "batch_norm",
    "blt",
    "boosting",
    "catalogue",
    "central_dp",
    "centroids",
    "clip",
    "clusters",
    "compare",
    "constant",
    "conv1d",
    "conv2d",
    "cyclic",
    "decay",
    "decompose",
    "delta",
    "dense",
    "ditto",
    "diurnal",
    "dlinear",
    "dropout",
    "dumps",
    "duty_cycle",
    "eden",
    "embedding",
    "fedadagrad",
    "fedadam",
    "fedasync",
    "fedavg",
    "fedavgm",
    "fedbuff",
    "feddyn",
    "fednova",
    "fedprox",
    "fedsgd",
    "fedyogi",
    "finetune",
    "flatten",
    "forecast",
    "forest",
    "gaussians",
    "group_norm",
    "gru",
    "hinge",
    "ifca",
    "impute",
    "independent",
    "int4",
    "int8",
    "k_means",
    "layer_norm",
    "lift",
    "load",
    "local_dp",
    "log1p",
    "log_normal",
    "logistic",
    "low_rank",
    "max_pool",
    "metric",
    "mixing",
    "mlp",
    "momentum",
    "naive_bayes",
    "nearest_mean",
    "one_hot",
    "own",
    "pareto",
    "partition",
    "pca",
    "polynomial",
    "prototypes",
    "qffl",
    "query",
    "random_mask",
    "relu",
    "rescale",
    "ridge",
    "rnn",
    "rotate",
    "scaffold",
    "secagg",
    "seen_rows",
    "sequential",
    "sgd",
    "sigmoid",
    "sign",
    "simulate",
    "softmax",
    "standardise",
    "sweep",
    "synthetic",
    "tanh",
    "tcn",
    "top_k",
    "trace",
    "tree",
    "two_servers",
    "uniform",
    "window",
    "with_jax",
    "with_keras",
    "with_sklearn",
    "with_torch",
    "yogi",
]

_MODULES = {
    "compress.quantize": "int8 int4",
    "errors": "FedthingsError SpecError DataError TransportError StoreError WireError",
    "federation": "Federation load dumps",
    "learn.fleet": "Fleet",
    "learn.forecasting": "dlinear rnn tcn",
    "learn.lift": "lift",
    "learn.model": (
        "mlp sequential dense conv1d conv2d max_pool avg_pool flatten relu tanh sigmoid softmax "
        "layer_norm dropout standardise impute batch_norm group_norm embedding gru prototypes log1p cyclic one_hot "
        "decompose rescale centroids gaussians forest"
    ),
    "learn.own": "own",
    "learn.synthetic": "synthetic clusters",
    "learn.task": "Task Recipe",
    "learn.with_jax": "with_jax",
    "learn.with_keras": "with_keras",
    "learn.with_sklearn": "with_sklearn",
    "learn.with_torch": "with_torch",
    "protocol.pace": "Edge Pace",
    "run": "Run compare",
    "simulation.ask": "query",
    "simulation.devices": "Device",
    "simulation.links": "Link",
    "simulation.simulator": "simulate",
    "simulation.sweep": "sweep",
    "simulation.things": "Things Group",
    "strategy": (
        "Strategy fedavg fedprox fedavgm fedadam fedyogi fedadagrad fedbuff fedasync mixing "
        "fedsgd fednova scaffold feddyn qffl ditto finetune ifca "
        "ridge logistic pca naive_bayes nearest_mean k_means boosting"
    ),
}
_STEPS = "sgd momentum adam yogi adagrad constant polynomial hinge decay"
# Where each public name lives: a module and the name in it, or None for the module itself.
_HOMES: dict[str, tuple[str, str | None]] = {
    "partition": ("learn.partition", None),
    "catalogue": ("learn.catalogue", None),
    "baselines": ("baseline", "baselines"),
    "clip": ("privacy.clip", "Clip"),
    "delta": ("compress.delta", "Delta"),
    "adaptive_clip": ("privacy.clip", "AdaptiveClip"),
    "central_dp": ("privacy.central", "CentralDp"),
    "local_dp": ("privacy.local", "LocalDp"),
    "blt": ("privacy.blt", "Blt"),
    "tree": ("privacy.mechanism", "Tree"),
    "independent": ("privacy.mechanism", "Independent"),
    "eden": ("compress.rotate", "Eden"),
    "rotate": ("compress.rotation", "Rotate"),
    "secagg": ("privacy.secagg", "SecAgg"),
    "two_servers": ("privacy.shares", "TwoServers"),
    "top_k": ("compress.sparsify", "TopK"),
    "random_mask": ("compress.sparsify", "RandomMask"),
    "seen_rows": ("compress.rows", "SeenRows"),
    "sign": ("compress.sign", "Sign"),
    "low_rank": ("compress.low_rank", "LowRank"),
    "metric": ("learn.metrics", "register"),
    "window": ("learn.series", "Window"),
    "uniform": ("protocol.selection", "Uniform"),
    "forecast": ("protocol.selection", "Forecast"),
    "always": ("simulation.availability", "Always"),
    "duty_cycle": ("simulation.availability", "DutyCycle"),
    "diurnal": ("simulation.availability", "Diurnal"),
    "trace": ("simulation.recorded", "Trace"),
    "log_normal": ("simulation.stragglers", "LogNormal"),
    "pareto": ("simulation.stragglers", "Pareto"),
    **{name: ("aggregate.step", name.capitalize()) for name in _STEPS.split()},
    **{name: (module, name) for module, names in _MODULES.items() for name in names.split()},
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedthings' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    home = import_module(f"fedthings.{module}")
    value = home if attribute is None else getattr(home, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
