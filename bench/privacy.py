"""Device-level differential privacy on MNIST: accuracy by mechanism and epsilon, and what the noise costs in time.

1,000 devices x 60 images, 100 versions of 100 devices, delta 1e-5, by the coordinator's noise; "amplified" assumes
random samples, the others that a device reports at most 10 times, 10 versions apart, which is enforced.

python bench/privacy.py [--data ../shared/data] [--only 2nn|logistic|noise] [--epsilon 8]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from statistics import median

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is there, as in the commands

import numpy as np

import fedthings as ft
from fedthings.learn.mnist import mnist
from fedthings.privacy import mechanism, noise
from fedthings.privacy.blt import Participation
from table import table

DELTA, VERSIONS = 1e-5, 100
EPSILONS = (1, 2, 4, 8)
MECHANISMS = {
    "BLT": ft.blt(),
    "tree": ft.tree(),
    "independent": ft.independent(),
    "independent, amplified": ft.independent(amplified=True),
}
# Of each model: layers, local epochs, clipping bound, server step. Chosen on BLT at epsilon 8, the same for all.
SETTINGS = {
    "2nn": (ft.mlp(784, 200, 200, 10), 1, 0.7, ft.momentum(lr=0.7, momentum=0.5)),
    "logistic": (ft.mlp(784, 10), 3, 0.5, ft.momentum(lr=0.5, momentum=0.5)),
}


def federation(name: str, epsilon: float = 0.0, kind: str = "") -> ft.Federation:
    """Return the federation of a model with a mechanism's noise; `epsilon` 0 is none."""
    model, epochs, bound, step = SETTINGS[name]
    recipe = ft.Recipe(lr=0.1, batch=10, epochs=epochs)
    return ft.Federation(
        task=ft.Task(model=model, loss="cross_entropy", recipe=recipe),
        strategy=ft.fedavg(weight="equal", step=step),
        pace=ft.Pace(goal=100) if "amplified" in kind else ft.Pace(goal=100, separation=9, cap=10),
        stages=(ft.clip(bound),),
        privacy=ft.central_dp(epsilon, DELTA, MECHANISMS[kind]) if epsilon else None,
        devices=1000,
    )


def accuracy(data: Path, spec: ft.Federation) -> float:
    """Return the accuracy of the last version on MNIST's test set."""
    X, y, test_X, test_y = mnist(data / "mnist")
    fleet = ft.Fleet.from_arrays(X.reshape(-1, 784), y, ft.partition.iid(y, 1000, seed=0))
    run = ft.simulate(spec, fleet, VERSIONS, test=(test_X.reshape(-1, 784), test_y))
    return float(run.summary["test"]["accuracy"])


def trained(data: Path, name: str, epsilons: tuple[float, ...]) -> None:
    """Print the accuracy of the model `name` at each of `epsilons`."""
    without = accuracy(data, federation(name))
    print(f"{name}: {without:.4f} without noise", file=sys.stderr, flush=True)
    lines = []
    for kind in MECHANISMS:
        found = []
        for epsilon in reversed(epsilons):
            found.append(f"{accuracy(data, federation(name, epsilon, kind)):.4f}")
            print(name, kind, epsilon, found[-1], file=sys.stderr, flush=True)
        lines.append([kind, *reversed(found)])
    lines.append(["none", *[f"{without:.4f}"] * len(epsilons)])
    table([f"{name}, noise", *(f"epsilon {epsilon:g}" for epsilon in epsilons)], lines)


def drawn() -> None:
    """Print how long the noise of a version takes, for a million parameters on one thread."""
    dim, setting = 1_000_000, Participation(1000, 100, 10)
    fresh = noise.draw(noise.known(0), dim)
    lines = [["fresh, AES-256 and discrete", f"{_milliseconds(lambda: noise.draw(noise.known(1), dim)):.0f}"]]
    for name in ("BLT", "tree"):
        spec = MECHANISMS[name]
        fit = mechanism.fitted(spec, setting)
        state = mechanism.begin(spec, fit, setting, dim)
        took = _milliseconds(lambda spec=spec, fit=fit, state=state: mechanism.go_on(spec, fit, state, 512, fresh))
        lines.append([f"{name}, added to that", f"{took:.0f}"])
    rng = np.random.default_rng(0)
    lines.append(
        ["NumPy's floating-point normal, for comparison", f"{_milliseconds(lambda: rng.normal(size=dim)):.0f}"]
    )
    table(["noise for 1,000,000 parameters", "ms"], lines)


def _milliseconds(work) -> float:
    times = []
    for _ in range(7):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return 1e3 * median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).parents[1]
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("FEDTHINGS_DATA", root.parent / "shared/data"))
    )
    parser.add_argument("--only", choices=("noise", *SETTINGS))
    parser.add_argument("--epsilon", type=float, action="append", help="one or several; default 1, 2, 4, 8")
    options = parser.parse_args()
    if options.only != "noise" and not (options.data / "mnist").is_dir():
        parser.error(f"there is no MNIST in {options.data}: name its folder with --data, or give --only noise")
    for name in [options.only] if options.only else ["noise", *SETTINGS]:
        if name == "noise":
            drawn()
        else:
            trained(options.data, name, tuple(options.epsilon or EPSILONS))
        print()


if __name__ == "__main__":
    main()
