"""Air quality: how much PM2.5 in the next hour? 12 stations of Beijing, from the last hour, with gaps."""

import sys

import fedthings as ft

HOUR, MONTH = 14, 14  # the hour leaves, and the month stands in its place
MODEL = ft.sequential(16, ft.cyclic(HOUR, 24), ft.cyclic(MONTH, 12), ft.dense(64, "relu"), ft.dense(1), ft.rescale())
ROUNDS = 100


def federation(seed: int = 0) -> ft.Federation:
    task = ft.Task(model=MODEL, loss="mse", normalise="fleet", recipe=ft.Recipe(lr=0.01, batch=64))
    return ft.Federation(task, ft.fedavgm(momentum=0.9), ft.Pace(goal=12), seed=seed, name="air_quality")


def main(folder: str) -> dict:
    stations = ft.catalogue.fleet("beijing_air", folder)
    run = ft.simulate(federation(), stations, ROUNDS)
    alone, pooled = (ft.Recipe(lr=0.01, batch=64, epochs=epochs) for epochs in (30, 10))
    return ft.baselines(run, stations, alone, ft.Recipe(lr=0.001, batch=64, epochs=3), pooled)


if __name__ == "__main__":
    for way, found in main(sys.argv[1]).items():
        print(f"{way:22} RMSE {found.metrics['rmse']:.3f} ug/m3, worst tenth {found.worst_decile['rmse']:.2f}")
