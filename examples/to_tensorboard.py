"""Curves in TensorBoard while a federation trains (pip install tensorboard); look with `tensorboard --logdir runs`."""

import fedthings as ft
from fedthings.learn.digits import digits

federation = ft.Federation(
    task=ft.Task(model=ft.mlp(64, 32, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.3, batch=16)),
    pace=ft.Pace(goal=10),
)


def train(folder: str = "runs/tensorboard", rounds: int = 30) -> ft.Run:
    from tensorboard.summary import Writer

    def show(line: dict) -> None:
        for name, value in {"training loss": line["loss"], **line["metrics"]}.items():
            writer.add_scalar(name, value, step=line["version"])
        writer.flush()

    writer = Writer(folder)
    return ft.simulate(federation, digits(devices=10, seed=0), rounds, on_version=show)


if __name__ == "__main__":
    print(train().summary["metrics"])
