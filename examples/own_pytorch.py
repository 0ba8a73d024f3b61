"""A PyTorch module of one's own, by its name: the commands find it with PYTHONPATH=examples."""

from torch import nn

import fedthings as ft
from fedthings.learn.digits import digits


def net(filters: int = 8):
    def build():
        images = nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, filters, 3), nn.BatchNorm2d(filters), nn.ReLU()
        return nn.Sequential(*images, nn.Flatten(), nn.Linear(36 * filters, 10))

    return ft.with_torch(build, input=64)


federation = ft.Federation(
    task=ft.Task(model=ft.own("own_pytorch:net", filters=8), loss="cross_entropy", recipe=ft.Recipe(lr=0.1, batch=16)),
    pace=ft.Pace(goal=10),
)
if __name__ == "__main__":
    run = ft.simulate(federation, digits(devices=10, seed=0), rounds=20)
    print("at the end:", run.summary["metrics"])
    run.save("runs/own_pytorch")
