"""Every method beside every way that a federation may be: how it is built, and the table of what goes together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec.structs import replace

import fedthings as ft

DEVICES = 8
TASK = ft.Task(model=ft.mlp(64, 12, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.2, batch=16))
VECTORS = ft.sequential(64, ft.prototypes(64, 10, bodies=((12,), (24, 16))))
METHODS: dict[str, ft.Strategy] = {
    "fedavg": ft.fedavg(),
    "fedsgd": ft.fedsgd(0.5),
    "fedavgm": ft.fedavgm(),
    "fedadagrad": ft.fedadagrad(),
    "fedadam": ft.fedadam(),
    "fedyogi": ft.fedyogi(),
    "fedprox": ft.fedprox(0.1),
    "fednova": ft.fednova(),
    "scaffold": ft.scaffold(DEVICES),
    "feddyn": ft.feddyn(DEVICES, 0.1),
    "qffl": ft.qffl(1.0),
    "ditto": ft.ditto(),
    "finetune": ft.finetune(2),
    "ifca": ft.ifca(2),
    "mixing": ft.mixing(0.3),
    "fedbuff": ft.fedbuff(),
    "fedasync": ft.fedasync(),
}
ROWS: dict[str, tuple[ft.Strategy, ft.Task]] = {
    **{name: (strategy, TASK) for name, strategy in METHODS.items()},
    "local": (ft.fedavg(), replace(TASK, local=("head",))),
    "local_epochs": (ft.fedavg(), replace(TASK, local=("head",), local_epochs=1)),
    "prototypes": (ft.fedavg(), replace(TASK, model=VECTORS, recipe=ft.Recipe(lr=0.05, batch=16))),
}
"""The rows of the table: methods, then what a task says for averaging: which layers stay, and vectors for weights."""
WAYS = ("asynchronous", "behind gateways", "compressed", "in secure mode", "under DP", "partial work")


def federation(strategy: ft.Strategy, way: str = "", helper: str = "", task: ft.Task = TASK) -> ft.Federation:
    """Return the federation with `strategy` and `task` that is as `way` says, all else as it must be for that."""
    more: dict[str, Any] = {}
    pace: dict[str, Any] = {"goal": DEVICES, "patience": 60.0}
    match way:
        case "asynchronous":
            pace = {"goal": 3, "concurrency": 6, "patience": 20.0, "staleness": 4}
        case "compressed":
            more = {"stages": (ft.int8(64),), "down": ft.int8(64)}
        case "in secure mode":
            more = {"stages": (ft.clip(2.0),), "secure": ft.two_servers(helper)}
            strategy = replace(strategy, weight="equal")
        case "under DP":
            more = {"stages": (ft.clip(1.0),), "privacy": ft.central_dp(8.0, 1e-5)}
            pace = {"goal": DEVICES - 2, "separation": 0, "cap": 3, "patience": 60.0}
            strategy = replace(strategy, weight="equal")
        case "partial work":
            pace["patience"] = 3.2
            strategy = replace(strategy, partial=True)
    return ft.Federation(task, strategy, ft.Pace(**pace), seed=5, devices=DEVICES, **more)


def refusal(build: Callable[[], ft.Federation]) -> str:
    """Return why a federation cannot be, "" where it can."""
    try:
        build()
    except ft.SpecError as error:
        return str(error)
    return ""


def table(helper: str) -> list[str]:
    """Return the lines of the table in Markdown, made of the specs: a yes, or the number of the reason below."""
    reasons: list[str] = []
    lines = ["| method | " + " | ".join(WAYS) + " |", "|---" * (1 + len(WAYS)) + "|"]
    for name, (strategy, task) in ROWS.items():
        cells = []
        for way in WAYS:
            reason = refusal(partial(federation, strategy, way, helper, task))
            if reason and reason not in reasons:
                reasons.append(reason)
            cells.append(f"no ({reasons.index(reason) + 1})" if reason else "yes")
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return [*lines, "", *(f"{i}. {reason}." for i, reason in enumerate(reasons, 1))]
