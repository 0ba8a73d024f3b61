"""The textbook case: odd against even on MNIST, 10 participants, 10 rounds, images of 28x28x1.

    python examples/classic.py FOLDER [IMAGES]

FOLDER holds the four idx files (default ../shared/data/mnist), IMAGES is how many each has (default 6,000).
"""

import sys

import fedthings as ft
from fedthings.errors import FedthingsError
from fedthings.learn.mnist import mnist

federation = ft.Federation(
    task=ft.Task(
        model=ft.sequential((28, 28, 1), ft.flatten(), ft.dense(10, "relu"), ft.dense(1, "sigmoid")),
        loss="binary_cross_entropy",
        recipe=ft.Recipe(optimizer="sgd", lr=0.1, batch=32, epochs=1),
    ),
    strategy=ft.fedavg(),
    pace=ft.Pace(goal=10),
)


def train(folder: str = "../shared/data/mnist", images: int = 6000) -> ft.Run:
    """Divide 10 x `images` training images over ten participants and train; the test set is central."""
    X, y, test_X, test_y = mnist(folder)
    chosen = slice(10 * images)
    device = ft.partition.iid(y[chosen], 10, seed=0)
    fleet = ft.Fleet.from_arrays(X[chosen], y[chosen] % 2, device)
    return ft.simulate(federation, fleet, rounds=10, test=(test_X, test_y % 2), on_version=show)


def show(line: dict) -> None:
    print(f"version {line['version']:2}  loss {line['loss']:.3f}  accuracy {line['test']['accuracy']:.4f}")


if __name__ == "__main__":
    try:
        train(*sys.argv[1:2], *map(int, sys.argv[2:3]))
    except (FedthingsError, ValueError) as error:
        sys.exit(f"classic.py: {error}")
