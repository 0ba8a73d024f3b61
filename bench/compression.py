"""Compression: what it takes to reach 97 % on MNIST, up and down, what is lost on WISDM, what 4 bits lose on both, and
EDEN's error and time.

MNIST 2NN of McMahan et al. 2017: 100 participants x 600 images, 10 a round, E = 1, B = 10. WISDM: 36 users, 100
versions. All versions of a setting are simulated; bytes are those of the report bodies, or of the model bodies.

python bench/compression.py [--data ../shared/data] [--only mnist]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from statistics import fmean, median

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is there, as in the commands

import numpy as np
from msgspec.structs import replace

import fedthings as ft
from fedthings.compress import rotate
from fedthings.federation import phases
from fedthings.learn.mnist import mnist
from fedthings.partial import Partial, template
from fedthings.stage import Field
from fedthings.vector import Key
from table import table

SETTINGS: dict[str, tuple] = {
    "float32": (),
    "int8": (ft.int8(),),
    "int4": (ft.int4(),),
    "eden 4 bits": (ft.eden(4),),
    "eden 2 bits": (ft.eden(2),),
    "eden 1 bit": (ft.eden(1),),
    "random mask 10 %": (ft.random_mask(0.1),),
    "top 10 %": (ft.top_k(0.1),),
    "top 2 %": (ft.top_k(0.02),),
    "top 5 %, eden 4 bits": (ft.top_k(0.05), ft.eden(4)),
    "top 2 %, eden 4 bits": (ft.top_k(0.02), ft.eden(4)),
    "top 1 %, eden 4 bits": (ft.top_k(0.01), ft.eden(4)),
    "rank 4": (ft.low_rank(4),),
    "rank 4, eden 4 bits": (ft.low_rank(4), ft.eden(4)),
    "rank 8, eden 2 bits": (ft.low_rank(8), ft.eden(2)),
    "sign": (ft.sign(1e-3),),
}
FOUR = ("float32", "int4", "eden 4 bits")
SEEDS = 5
"""Of which 4 bits are compared with float32, each with its own."""
DOWN: dict[str, object] = {
    "float32": None,
    "int8": ft.int8(),
    "int4": ft.int4(),
    "delta 32 bits": ft.delta(32),
    "delta 8 bits, whole only": ft.delta(8, back=0),
    "delta 8 bits": ft.delta(8),
    "delta 6 bits": ft.delta(6),
    "delta 5 bits": ft.delta(5),
    "delta 4 bits": ft.delta(4),
    "delta 3 bits": ft.delta(3),
}
GOAL, MOST = 0.97, 400
"""The accuracy to reach, and the versions after which a setting gives up."""


def on_mnist(data: Path) -> None:
    """Print what each setting needs to reach the goal."""
    task, fleet, test = _fleet_of_mnist(data)
    lines, whole = [], 0.0
    for name, stages in SETTINGS.items():
        spec = ft.Federation(task, ft.fedavg(), ft.Pace(goal=10), stages=stages)
        run = ft.simulate(spec, fleet, MOST, test=test, stop={"accuracy": GOAL})
        up, reached = run.summary["total"]["bytes_up"], run.summary["test"]["accuracy"] >= GOAL
        whole = whole or up
        said = f"{whole / up:.1f}" if reached else "-"
        each = up / run.summary["total"]["updates"]
        versions = (
            str(run.summary["rounds"]) if reached else f"more than {MOST} ({run.summary['test']['accuracy']:.3f})"
        )
        lines.append([name, f"{each:,.0f}", versions, f"{up / 1e6:,.1f}", said])
        print(*lines[-1], file=sys.stderr, flush=True)
    header = ["MNIST 2NN", "bytes a report", f"versions to {GOAL:.0%}", "MB up to there", "times less than float32"]
    table(header, [*lines, ["to reach", "", "", "", "20, the best"]])


def _fleet_of_mnist(data: Path) -> tuple[ft.Task, ft.Fleet, tuple[np.ndarray, np.ndarray]]:
    X, y, test_X, test_y = mnist(data / "mnist")
    fleet = ft.Fleet.from_arrays(X.reshape(-1, 784), y, ft.partition.iid(y, 100, seed=0))
    recipe = ft.Recipe(lr=0.1, batch=10, epochs=1)
    task = ft.Task(model=ft.mlp(784, 200, 200, 10), loss="cross_entropy", recipe=recipe)
    return task, fleet, (test_X.reshape(-1, 784), test_y)


def down(data: Path) -> None:
    """Print what goes down in each setting until the goal."""
    task, fleet, test = _fleet_of_mnist(data)
    lines, whole = [], 0.0
    for name, spec in DOWN.items():
        federation = ft.Federation(task, ft.fedavg(), ft.Pace(goal=10), down=spec)
        run = ft.simulate(federation, fleet, MOST, test=test, stop={"accuracy": GOAL})
        before = run.history[:-1]  # the last line holds the closing evaluation too, which asks all 100
        spent, reached = sum(line["bytes_down"] for line in before), run.summary["test"]["accuracy"] >= GOAL
        each = spent / sum(line["updates"] for line in before)
        whole = whole or spent
        said = f"{whole / spent:.1f}" if reached else "-"
        versions = str(run.summary["rounds"]) if reached else f"more than {MOST}"
        lines.append([name, f"{each:,.0f}", versions, f"{spent / 1e6:,.1f}", said])
        print(*lines[-1], file=sys.stderr, flush=True)
    header = [
        "down, MNIST 2NN",
        "bytes a model",
        f"versions to {GOAL:.0%}",
        "MB up to there",
        "times less than float32",
    ]
    table(header, lines)


def on_wisdm(data: Path) -> None:
    """Print how accurate each setting is after 100 versions."""
    plain, fleet = _wisdm(data)
    lines, whole = [], 0.0
    for name, stages in SETTINGS.items():
        run = ft.simulate(replace(plain, stages=stages), fleet, 100)
        accuracy = run.summary["metrics"]["accuracy"]
        whole = whole or accuracy
        each = run.summary["total"]["bytes_up"] / run.summary["total"]["updates"]
        lines.append([name, f"{each:,.0f}", f"{accuracy:.4f}", f"{100 * (accuracy - whole):+.2f}"])
    table(["WISDM", "bytes a report", "accuracy", "points more than float32"], lines)


def _wisdm(data: Path) -> tuple[ft.Federation, ft.Fleet]:
    recipe = ft.Recipe(lr=0.5, batch=32, epochs=1)
    task = ft.Task(model=ft.mlp(43, 64, 6), loss="cross_entropy", normalise="fleet", recipe=recipe)
    plain = ft.Federation(task, ft.fedavg(), ft.Pace(goal=36, patience=120.0), devices=36)
    return plain, ft.Fleet.from_npz(data / "wisdm_v11.npz")


def four_bits(data: Path) -> None:
    """Print what 4 bits cost and lose beside float32, after as many versions with the same seeds."""
    task, fleet, test = _fleet_of_mnist(data)
    users, things = _wisdm(data)
    lines = []
    for what, plain, of, versions, known in (
        ("MNIST 2NN", ft.Federation(task, ft.fedavg(), ft.Pace(goal=10)), fleet, 60, test),
        ("WISDM", users, things, 100, None),
    ):
        whole: list[float] = []
        for name in FOUR:
            spec = replace(plain, stages=SETTINGS[name])
            runs = [ft.simulate(replace(spec, seed=seed), of, versions, test=known) for seed in range(SEEDS)]
            found = [100 * run.summary["test" if known else "metrics"]["accuracy"] for run in runs]
            sent = [run.history[1] for run in runs]
            body = fmean(line["bytes_up"] / line["updates"] for line in sent)
            trains = next(phase for phase in phases(spec) if phase.kind == "train")
            arrays = sum(array.nbytes for array in template(trains, Partial(trains)).arrays.values())
            whole = whole or [arrays, body, *found]
            more = [mine - its for mine, its in zip(found, whole[2:], strict=True)]
            lines.append(
                [
                    f"{what}, {versions} versions: {name}",
                    f"{arrays:,} (1/{whole[0] / arrays:.2f})",
                    f"{body:,.0f} (1/{whole[1] / body:.2f})",
                    f"{fmean(found):.2f} %",
                    f"{fmean(more):+.2f} ({min(more):+.2f} to {max(more):+.2f})",
                ]
            )
            print(*lines[-1], file=sys.stderr, flush=True)
    header = ["4 bits", "bytes of a report's arrays", "of all of the report", f"accuracy, {SEEDS} seeds"]
    table([*header, "points more than float32 (of each seed)"], lines)


def eden() -> None:
    """Print EDEN's error, and the time for a million coordinates on one thread."""
    dim = 1_000_000
    rng = np.random.default_rng(0)
    vectors = {
        "normal": rng.standard_normal(dim),
        "log-normal": rng.lognormal(0, 1, dim),
        "sparse (1 %)": rng.standard_normal(dim) * (rng.random(dim) < 0.01),
    }
    lines = []
    for bits, due, most in ((1, 0.571, "40"), (2, 0.133, ""), (3, 0.036, ""), (4, 0.0096, "60")):
        stage = rotate.build(rotate.Eden(bits), (Field("x", dim),))
        errors, times = [], []
        for vector in vectors.values():
            x = vector.astype(np.float32)[None]
            for attempt in range(5):
                begin = time.perf_counter()
                payload, _ = stage.encode({"x": x}, [None], [Key(0, "d", 0, attempt)])
                found = stage.decode(payload)["x"]
                times.append(time.perf_counter() - begin)
                errors.append(float(np.square(found - x).sum() / np.square(x).sum()))
        each = ", ".join(f"{np.mean(errors[i : i + 5]):.4f}" for i in range(0, len(errors), 5))
        lines.append([str(bits), each, f"{due}", f"{1e3 * median(times):.0f}", most])
    table(["EDEN, bits", f"error: {', '.join(vectors)}", "published", "ms to encode and decode 1M", "at most"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).parents[1]
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("FEDTHINGS_DATA", root.parent / "shared/data"))
    )
    parser.add_argument("--only", choices=("eden", "mnist", "wisdm", "four", "down"))
    options = parser.parse_args()
    if options.only != "eden" and not (options.data / "mnist").is_dir():
        parser.error(f"there are no data sets in {options.data}: name their folder with --data, or give --only eden")
    parts = {
        "eden": eden,
        "mnist": lambda: on_mnist(options.data),
        "down": lambda: down(options.data),
        "wisdm": lambda: on_wisdm(options.data),
        "four": lambda: four_bits(options.data),
    }
    for name in [options.only] if options.only else parts:
        parts[name]()
        print()


if __name__ == "__main__":
    main()
