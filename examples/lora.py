"""LoRA (Hu et al. 2022): the base stays as each device has it installed; two thin matrices a layer travel."""

from torch import nn

import fedthings as ft
from fedthings.learn.digits import digits


class Adapted(nn.Linear):
    def __init__(self, inputs: int, outputs: int, rank: int):
        super().__init__(inputs, outputs)  # trained elsewhere: load_state_dict would stand here
        self.requires_grad_(False)
        self.thin = nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False))
        nn.init.zeros_(self.thin[1].weight)

    def forward(self, x):
        return super().forward(x) + self.thin(x)


def net(rank: int = 4):
    return ft.with_torch(lambda: nn.Sequential(Adapted(64, 256, rank), nn.ReLU(), nn.Linear(256, 10)), input=64)


task = ft.Task(model=ft.own("lora:net", rank=4), loss="cross_entropy", recipe=ft.Recipe(lr=0.2, batch=16, epochs=4))
federation = ft.Federation(task, pace=ft.Pace(goal=10))
if __name__ == "__main__":
    print("at the end:", ft.simulate(federation, digits(devices=10, seed=0), rounds=20).summary["metrics"])
