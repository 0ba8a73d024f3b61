"""Ten devices, each with its own handwritten digits, train one model; nothing to download."""

import fedthings as ft
from fedthings.learn.digits import digits

federation = ft.Federation(
    task=ft.Task(
        model=ft.mlp(64, 32, 10),
        loss="cross_entropy",
        recipe=ft.Recipe(optimizer="sgd", lr=0.3, batch=16, epochs=2),
    ),
    strategy=ft.fedavg(),
    pace=ft.Pace(goal=10, patience=20.0),
)
if __name__ == "__main__":
    run = ft.simulate(federation, digits(devices=10, seed=0), rounds=30)
    for line in run.history[::5]:
        print(f"version {line['version']:2}  accuracy {line['metrics']['accuracy']:.3f}")
    print("at the end:", run.summary["metrics"])
    run.save("runs/quickstart")
    run.plot("runs/quickstart/curve.png")
