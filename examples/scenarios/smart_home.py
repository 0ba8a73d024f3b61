"""Smart home: is there motion in the room this minute? 45 rooms, from CO2, humidity, light and temperature."""

import sys

import fedthings as ft

CO2, LIGHT, MINUTE, DAY = 0, 2, 4, 4  # `cyclic` takes the minute away, so the day of the week stands in its place
MODEL = ft.sequential(
    6, ft.log1p((CO2, LIGHT)), ft.cyclic(MINUTE, 1440), ft.one_hot(DAY, 7), ft.dense(64, "relu"), ft.dense(1)
)
ROUNDS = 60


def federation(seed: int = 0) -> ft.Federation:
    recipe = ft.Recipe(lr=0.05, batch=64)
    task = ft.Task(model=MODEL, loss="binary_cross_entropy", normalise="fleet", recipe=recipe)
    return ft.Federation(task, ft.fedavgm(momentum=0.9), ft.Pace(goal=15), seed=seed, name="smart_home")


def main(folder: str) -> dict:
    rooms = ft.catalogue.fleet("keti_rooms", folder)
    run = ft.simulate(federation(), rooms, ROUNDS)
    last = [line["metrics"]["auc"] for line in run.history[-10:]]
    print(f"AUC over the last {len(last)} versions, each on the rooms that took part: {sum(last) / len(last):.4f}")
    alone, more, pooled = (ft.Recipe(lr=0.05, batch=64, epochs=epochs) for epochs in (10, 3, 5))
    return ft.baselines(run, rooms, alone, more, pooled)


if __name__ == "__main__":
    for way, found in main(sys.argv[1]).items():
        print(f"{way:22} AUC {found.metrics['auc']:.4f}, worst tenth of the rooms {found.worst_decile['auc']:.4f}")
