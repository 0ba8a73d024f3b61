"""Security: is this flow of a thing in the house malicious? 9 hosts (IoT-23), as classifier and as anomaly detector.

Three hosts are benign alone and two are mostly malicious, so each host counts the same, whatever its traffic.
"""

import sys

import numpy as np

import fedthings as ft
from fedthings.learn.model import prepare

LOGISTIC = ft.sequential(49, ft.log1p(), ft.dense(1))
MLP = ft.sequential(49, ft.log1p(), ft.dense(64, "relu"), ft.dense(1))
HIDDEN = ft.dense(16, "tanh"), ft.dense(4, "tanh"), ft.dense(16, "tanh")
AUTOENCODER = ft.sequential(49, ft.log1p(), *HIDDEN, ft.dense(49))
EQUAL = ft.Strategy(weight="equal", step=ft.momentum(1.0, 0.9))
ROUNDS, LAST = 60, 10


def federation(model, seed: int = 0) -> ft.Federation:
    recipe = ft.Recipe(lr=0.02, batch=512)
    task = ft.Task(model=model, loss="binary_cross_entropy", normalise="fleet", recipe=recipe)
    return ft.Federation(task, EQUAL, ft.Pace(goal=9), seed=seed, name="security")


def detector(seed: int = 0) -> ft.Federation:
    recipe = ft.Recipe(lr=0.1, batch=32)
    task = ft.Task(model=AUTOENCODER, loss="reconstruction", normalise="fleet", recipe=recipe)
    return ft.Federation(task, ft.fedavgm(), ft.Pace(goal=9), seed=seed, name="anomalies")


def late_auc(folder: str, model, seed: int = 0) -> float:
    """The AUC of a classifier, mean of the last versions."""
    run = ft.simulate(federation(model, seed), ft.catalogue.fleet("iot23", folder), ROUNDS)
    return sum(line["metrics"]["auc"] for line in run.history[-LAST:]) / LAST


def anomalies(folder: str, seed: int = 0) -> tuple[float, float, float, float]:
    """How well the error tells malicious test flows, with which an autoencoder of benign traffic gives flows back.

    AUC; the error that 99 % of the benign training flows of all hosts are below, which the hosts find together: each
    scores its own flows, and counts alone leave it; the shares of benign and of malicious test flows above it.
    """
    held = ft.catalogue.arrays("iot23", folder)
    X, y, host, test = held["X"], held["y"], held["device"], held["split"] == 1
    benign = y == 0
    fleet = ft.Fleet.from_arrays(X[benign], y[benign], host[benign], held["split"][benign])
    run = ft.simulate(detector(seed), fleet, 60)
    errors = np.square(run.predict(X) - prepare(run.model, X[None])[0]).mean(1, dtype=np.float32)
    own = benign & ~test
    scores = ft.Fleet.from_arrays(errors[own, None], np.zeros(own.sum(), int), host[own])
    bar = ft.query(scores, "quantiles(0, [.99])").value[0]
    alarms = errors > bar
    return auc(errors[test], y[test]), bar, alarms[test & benign].mean(), alarms[test & ~benign].mean()


def auc(scores: np.ndarray, y: np.ndarray) -> float:
    """The share of pairs of a malicious and a benign flow where the malicious one scores more."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    bad = int(y.sum())
    return float((ranks[y == 1].sum() - bad * (bad + 1) / 2) / (bad * (len(y) - bad)))


def main(folder: str) -> dict:
    hosts = ft.catalogue.fleet("iot23", folder)
    run = ft.simulate(federation(MLP), hosts, ROUNDS)
    found, bar, false, true = anomalies(folder)
    print(f"anomaly detector: AUC {found:.4f}; above {bar:.3g}: {false:.1%} of benign, {true:.1%} of malicious flows")
    alone, personal, pooled = (ft.Recipe(lr=0.05, batch=64, epochs=epochs) for epochs in (20, 3, 10))
    return ft.baselines(run, hosts, alone, personal, pooled)


if __name__ == "__main__":
    for way, found in main(sys.argv[1]).items():
        print(f"{way:22} AUC {found.metrics['auc']:.4f}, accuracy {found.metrics['accuracy']:.4f}")
