"""Smart energy: what will the home take in the next hour? 17 homes, from 24 past hours, the sun, weather and clock."""

import sys

import fedthings as ft

HOUR, DAY, MONTH = 28, 28, 28  # each leaves, and the next stands in its place
CLOCKS = ft.cyclic(HOUR, 24), ft.one_hot(DAY, 9), ft.cyclic(MONTH, 12)
MODEL = ft.sequential(31, *CLOCKS, ft.dense(64, "relu"), ft.dense(1), ft.rescale())
ROUNDS = 60
PERSONAL = ft.Recipe(lr=0.002, batch=32, epochs=5)


def federation(seed: int = 0) -> ft.Federation:
    task = ft.Task(model=MODEL, loss="mse", normalise="fleet", recipe=ft.Recipe(lr=0.02, batch=32))
    return ft.Federation(task, ft.fedavgm(momentum=0.9), ft.Pace(goal=17), seed=seed, name="smart_energy")


def main(folder: str, seed: int = 0) -> dict:
    homes = ft.catalogue.fleet("citylearn", folder)
    run = ft.simulate(federation(seed), homes, ROUNDS)
    alone, pooled = (ft.Recipe(lr=0.02, batch=32, epochs=epochs) for epochs in (20, 10))
    return ft.baselines(run, homes, alone, PERSONAL, pooled)


if __name__ == "__main__":
    for way, found in main(sys.argv[1]).items():
        print(f"{way:22} RMSE {found.metrics['rmse']:.4f} kWh, worst tenth {found.worst_decile['rmse']:.3f} kWh")
