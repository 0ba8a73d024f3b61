"""Security of unlike things: a fridge, a garage door, a GPS tracker, ... have different columns; is one attacked?

Of the 17 columns a thing has 2 to 4. The others are gaps, which the fleet's scaling fills with the fleet's mean.
"""

import sys

import fedthings as ft

MODEL = ft.sequential(17, ft.dense(64, "relu"), ft.dense(1))
ROUNDS = 60


def federation(seed: int = 0) -> ft.Federation:
    recipe = ft.Recipe(lr=0.1, batch=512)
    task = ft.Task(model=MODEL, loss="binary_cross_entropy", normalise="fleet", recipe=recipe)
    return ft.Federation(task, ft.fedavgm(momentum=0.9), ft.Pace(goal=7), seed=seed, name="mixed_things")


def main(folder: str) -> dict:
    things = ft.catalogue.fleet("ton_iot", folder)
    run = ft.simulate(federation(), things, ROUNDS)
    alone, personal, pooled = (ft.Recipe(lr=0.05, batch=64, epochs=epochs) for epochs in (10, 3, 5))
    return ft.baselines(run, things, alone, personal, pooled)


if __name__ == "__main__":
    for way, found in main(sys.argv[1]).items():
        print(f"{way:22} AUC {found.metrics['auc']:.4f}, worst thing {found.worst_decile['auc']:.4f}")
