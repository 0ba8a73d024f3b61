"""Wearables: what is the phone's owner doing? 36 users, 6 activities, from 10 s of acceleration.

Beside weights, the users exchange vectors (FedProto): each has a network of its own, and 0.2 % of the bytes travel.
"""

import sys

import fedthings as ft

MODEL = ft.mlp(43, 512, 256, 32, 6)
VECTORS = ft.sequential(43, ft.prototypes(width=32, classes=6, bodies=((512, 256), (256, 128))))
ROUNDS = 60


def federation(model=MODEL, strategy: ft.Strategy | None = None, lr: float = 0.1, seed: int = 0) -> ft.Federation:
    recipe = ft.Recipe(lr=lr, batch=16)
    task = ft.Task(model=model, loss="cross_entropy", normalise="fleet", recipe=recipe)
    return ft.Federation(task, strategy or ft.fedavgm(), ft.Pace(goal=36), devices=36, seed=seed, name="wearables")


def vectors(folder: str, rounds: int = ROUNDS) -> tuple[ft.Run, ft.Run]:
    """The runs of weights and of vectors with as many versions, by plain averaging."""
    users = ft.catalogue.fleet("wisdm", folder)
    weights = ft.simulate(federation(strategy=ft.fedavg()), users, rounds)
    return weights, ft.simulate(federation(VECTORS, ft.fedavg()), users, rounds)


def sent(run: ft.Run) -> int:
    """The bytes that a run took, up and down."""
    return run.summary["total"]["bytes_up"] + run.summary["total"]["bytes_down"]


def main(folder: str) -> dict:
    users = ft.catalogue.fleet("wisdm", folder)
    run = ft.simulate(federation(), users, ROUNDS)
    weights, protos = vectors(folder)
    own, worst = (protos.summary[part]["accuracy"] for part in ("metrics", "worst_decile"))
    print(f"vectors: accuracy {own:.4f}, worst tenth {worst:.4f}, {sent(protos) / sent(weights):.2%} of the bytes")
    alone, personal, pooled = (ft.Recipe(lr=0.1, batch=16, epochs=epochs) for epochs in (60, 10, 30))
    return ft.baselines(run, users, alone, personal, pooled)


if __name__ == "__main__":
    for way, found in main(sys.argv[1]).items():
        worst = found.worst_decile["accuracy"]
        print(f"{way:22} accuracy {found.metrics['accuracy']:.4f}, worst tenth of the users {worst:.4f}")
