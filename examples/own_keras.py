"""A Keras 3 model of one's own, on PyTorch or JAX: whichever is installed."""

import fedthings as ft
from fedthings.learn.digits import digits


def net(width: int = 32):
    def build():
        import keras  # here, so that fedthings has chosen the backend

        layers = keras.layers.Dense(width, "relu"), keras.layers.Dense(10)
        return keras.Sequential([keras.Input((64,)), *layers])

    return ft.with_keras(build, input=64)


task = ft.Task(
    model=ft.own("own_keras:net", width=32), loss="cross_entropy", recipe=ft.Recipe(lr=0.3, batch=16, epochs=2)
)
federation = ft.Federation(task, pace=ft.Pace(goal=10))
if __name__ == "__main__":
    print("at the end:", ft.simulate(federation, digits(devices=10, seed=0), rounds=20).summary["metrics"])
