"""fedthings: `simulate` from its public interface; every device's report goes through the coordinator."""

from __future__ import annotations

from typing import Any

import numpy as np
import threadpoolctl
from workloads import Watch, Workload, chosen, options, tell

import fedthings as ft


def federation(workload: Workload) -> ft.Federation:
    """Return the federation of `workload`."""
    axes, layers = len(workload.input) - 1, []
    for filters in workload.filters:
        window = ft.conv1d if axes == 1 else ft.conv2d
        layers += [window(filters, 5, padding="same", activation="relu"), ft.max_pool(2)]
    layers += [ft.flatten()] if axes else []
    layers += [ft.dense(units, "relu") for units in workload.units[:-1]]
    return ft.Federation(
        task=ft.Task(
            model=ft.sequential(workload.input, *layers, ft.dense(workload.units[-1])),
            loss="cross_entropy" if workload.units[-1] > 1 else "binary_cross_entropy",
            recipe=ft.Recipe(optimizer="sgd", lr=workload.lr, batch=workload.batch, epochs=1),
        ),
        strategy=ft.fedavg(),
        pace=ft.Pace(goal=workload.cohort, concurrency=workload.cohort),
    )


def main() -> None:
    """Run and tell."""
    parser = options(__doc__)
    parser.add_argument("--engine", choices=("auto", "numpy", "kernels"), help="as simulate's engine=")
    parser.add_argument("--workers", type=int, help="as simulate's workers=")
    given = parser.parse_args()
    workload, watch = chosen(given), Watch()
    X, y = workload.data(given.data)
    X, y = np.array(X).reshape(-1, *workload.input), np.array(y).reshape(-1)
    fleet = ft.Fleet.from_arrays(X, y, np.repeat(np.arange(workload.devices), workload.samples))
    wanted: dict[str, Any] = {"engine": given.engine, "workers": given.workers}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    init = np.concatenate([array.ravel() for array in workload.parameters()])
    watch.begin()
    run = ft.simulate(
        federation(workload), fleet, workload.rounds, init=init, on_version=lambda line: watch.end(), **wanted
    )
    # A line of history is complete, and told, when the next version is made: so the first span holds two rounds, and
    # the last one none.
    del watch.rounds[-1]
    watch.first -= float(np.median(watch.rounds[1:] or watch.rounds))
    with threadpoolctl.threadpool_limits(1):
        parameters = list(run.model.layout.views(run.row).values())
        engine = run.summary["engine"]
        how = engine["trains"]
        tell("fedthings", workload, watch, parameters, how=how + f", workers={given.workers}" * bool(given.workers))


if __name__ == "__main__":
    main()
