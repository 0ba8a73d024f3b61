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


def anomaly_auc(folder: str, seed: int = 0) -> float:
    """The AUC of the error with which an autoencoder of benign traffic alone gives back all test flows."""
    held = ft.catalogue.arrays("iot23", folder)
    X, y, test = held["X"], held["y"], held["split"] == 1
    benign = y == 0
    fleet = ft.Fleet.from_arrays(X[benign], y[benign], held["device"][benign], held["split"][benign])
    run = ft.simulate(detector(seed), fleet, 60)
    seen = prepare(run.model, X[None, test])[0]
    return auc(np.square(run.predict(X[test]) - seen).mean(1), y[test])


def auc(scores: np.ndarray, y: np.ndarray) -> float:
    """The share of pairs of a malicious and a benign flow where the malicious one scores more."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    bad = int(y.sum())
    return float((ranks[y == 1].sum() - bad * (bad + 1) / 2) / (bad * (len(y) - bad)))


def main(folder: str) -> dict:
    hosts = ft.catalogue.fleet("iot23", folder)
    run = ft.simulate(federation(MLP), hosts, ROUNDS)
    print(f"anomaly detector: AUC {anomaly_auc(folder):.4f}")
    alone, personal, pooled = (ft.Recipe(lr=0.05, batch=64, epochs=epochs) for epochs in (20, 3, 10))
    return ft.baselines(run, hosts, alone, personal, pooled)


if __name__ == "__main__":
    for way, found in main(sys.argv[1]).items():
        print(f"{way:22} AUC {found.metrics['auc']:.4f}, accuracy {found.metrics['accuracy']:.4f}")
