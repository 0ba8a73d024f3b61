"""Curves in TensorBoard while a federation trains (pip install tensorboard); look with `tensorboard --logdir runs`."""

import fedthings as ft
from fedthings.learn.digits import digits

federation = ft.Federation(
    task=ft.Task(model=ft.mlp(64, 32, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.3, batch=16)),
    pace=ft.Pace(goal=10),
)


def scalars(writer):
    """Return what writes each line of the history with `writer`."""

    def write(line: dict) -> None:
        for name, value in {"training loss": line["loss"], **line["metrics"]}.items():
            writer.add_scalar(name, value, step=line["version"])
        writer.flush()

    return write


def train(folder: str = "runs/tensorboard", rounds: int = 30) -> ft.Run:
    from tensorboard.summary import Writer

    return ft.simulate(federation, digits(devices=10, seed=0), rounds, on_version=scalars(Writer(folder)))


if __name__ == "__main__":
    print(train().summary["metrics"])
