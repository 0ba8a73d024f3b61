"""A federation with SecAgg+ in one process and virtual time: the real service and real agents."""

from __future__ import annotations

from typing import Any

import fedthings as ft


def federation(devices: int = 4, secure: dict[str, Any] | None = None, **fields: Any) -> ft.Federation:
    """Return one whose devices have all the same task; `secure` are the settings of SecAgg+, None for none."""
    recipe = ft.Recipe(lr=0.1, batch=8, keep=0.25)
    task = ft.Task(model=ft.mlp(4, 5, 2), loss="cross_entropy", normalise="fleet", recipe=recipe)
    settings = {
        "task": task,
        "strategy": ft.fedavgm(),
        "pace": ft.Pace(goal=devices, patience=1000.0),
        "stages": (ft.clip(1.0),),
        "seed": 2,
        "devices": devices,
        **fields,
    }
    return ft.Federation(secure=ft.secagg(**(secure or {})), **settings)
