"""A federation of two servers under a privacy claim, for tests."""

from __future__ import annotations

import fedthings as ft

TASK = ft.Task(model=ft.mlp(64, 16, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.3, batch=16))
PACE = ft.Pace(goal=5, separation=1, cap=3)
CLAIM = ft.central_dp(epsilon=8, delta=1e-5)
WEAK = {"epsilon": 900, "delta": 1e-2}
KEY = "j0DFrbaPJWJK5bIU6nZ6bslNgp09e14a0bpvPiE4KF8"
MECHANISMS = [ft.blt(), ft.tree(), ft.independent()]
ROUNDS = 5


def federation(helper: str = KEY, claim=CLAIM, secure=None, **fields) -> ft.Federation:
    settings = {"pace": PACE, "stages": (ft.clip(0.5),), "devices": 10, "strategy": ft.fedavg(weight="equal"), **fields}
    return ft.Federation(TASK, privacy=claim, secure=ft.two_servers(helper, **(secure or {})), **settings)


TURNED = {"secure": {"bits": 16}, "stages": (ft.clip(0.5), ft.rotate())}
