"""Smart traffic: how fast in the next 15 minutes? 207 loop detectors of Los Angeles, from their last hour."""

import sys

import fedthings as ft

STEPS = 3  # of 5 minutes
MODEL = ft.sequential(12, ft.dense(64, "relu"), ft.dense(64, "relu"), ft.dense(STEPS), ft.rescale())
ROUNDS = 300


def federation(seed: int = 0) -> ft.Federation:
    task = ft.Task(model=MODEL, loss="mse", normalise="fleet", recipe=ft.Recipe(lr=0.02, batch=32))
    return ft.Federation(task, ft.fedavgm(momentum=0.9), ft.Pace(goal=100), seed=seed, name="smart_traffic")


def detectors(folder: str) -> ft.Fleet:
    week = ft.catalogue.arrays("metr_la", folder)
    return ft.Fleet.from_arrays(week["X"], week["y"][:, :STEPS], week["device"], week["split"])


def main(folder: str) -> dict:
    fleet = detectors(folder)
    run = ft.simulate(federation(), fleet, ROUNDS)
    alone, pooled = (ft.Recipe(lr=0.02, batch=32, epochs=epochs) for epochs in (20, 20))
    return ft.baselines(run, fleet, alone, ft.Recipe(lr=0.005, batch=32, epochs=3), pooled)


if __name__ == "__main__":
    for way, found in main(sys.argv[1]).items():
        print(f"{way:22} RMSE {found.metrics['rmse']:.3f} mph, worst tenth {found.worst_decile['rmse']:.2f}")
