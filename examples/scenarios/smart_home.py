"""Smart home: is there motion in the room this minute? 45 rooms, from CO2, humidity, light and temperature."""

import sys

import fedthings as ft

MINUTE, DAY = 4, 4  # `cyclic` takes the minute of the day away, so the day of the week stands in its place
FRONT = ft.log1p((0, 1, 2, 3)), ft.cyclic(MINUTE, 1440), ft.cyclic(DAY, 7)
MODEL = ft.sequential(6, *FRONT, ft.dense(64, "relu"), ft.dense(1))
ROUNDS, LAST = 100, 10


def federation(seed: int = 0) -> ft.Federation:
    recipe = ft.Recipe(lr=0.5, batch=4096)  # few local steps: motion is rare, and more of them drift apart
    task = ft.Task(model=MODEL, loss="binary_cross_entropy", normalise="fleet", recipe=recipe)
    return ft.Federation(task, ft.fedavgm(momentum=0.9), ft.Pace(goal=45), seed=seed, name="smart_home")


def train(folder: str, seed: int = 0) -> tuple[ft.Run, ft.Fleet]:
    rooms = ft.catalogue.fleet("keti_rooms", folder)
    return ft.simulate(federation(seed), rooms, ROUNDS), rooms


def late_auc(run: ft.Run) -> float:
    """The AUC of the last versions: single ones jump."""
    return sum(line["metrics"]["auc"] for line in run.history[-LAST:]) / LAST


def main(folder: str) -> dict:
    run, rooms = train(folder)
    print(f"AUC, mean of the last {LAST} versions: {late_auc(run):.4f}")
    return compared(run, rooms)


def compared(run: ft.Run, rooms: ft.Fleet) -> dict:
    alone, personal, pooled = (ft.Recipe(lr=0.2, batch=64, epochs=epochs) for epochs in (5, 1, 5))
    return ft.baselines(run, rooms, alone, personal, pooled)


if __name__ == "__main__":
    for way, found in main(sys.argv[1]).items():
        print(f"{way:22} AUC {found.metrics['auc']:.4f}, worst tenth of the rooms {found.worst_decile['auc']:.4f}")
