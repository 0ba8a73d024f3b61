"""A federation in secure mode in one process and virtual time: the real service, helper and agents."""

from __future__ import annotations

from math import erfc, sqrt
from pathlib import Path
from typing import Any

import numpy as np

import fedthings as ft
from fate import Killed
from fedthings.helper.helper import KEY_FILE, Helper
from fedthings.helper.rules import Rules
from fedthings.identity.keys import held, spelled
from fedthings.privacy import noise
from fedthings.privacy.keys import public_of
from fedthings.transport.topics import COORDINATOR
from fedthings.vector import keyed
from virtual import Virtual

NAME = "helper"


def key_in(directory: Path) -> str:
    """Return the public key of the helper in `directory`, made where there is none."""
    directory.mkdir(parents=True, exist_ok=True)
    return spelled(public_of(held(directory / KEY_FILE)))


def fleet(devices: int = 4) -> ft.Fleet:
    rng = keyed("secure")
    n = 40 * devices
    X = rng.normal(0, 1, (n, 4)).astype(np.float32)
    y = (X.sum(1) > 0).astype(np.int64)
    return ft.Fleet.from_arrays(X, y, np.arange(n) % devices, split=np.arange(n) // devices % 5 == 0)


def federation(helper: str, devices: int = 4, secure: dict[str, Any] | None = None, **fields: Any) -> ft.Federation:
    recipe = ft.Recipe(lr=0.1, batch=8, keep=0.25)
    task = ft.Task(model=ft.mlp(4, 5, 2), loss="cross_entropy", normalise="fleet", recipe=recipe)
    settings = {
        "task": task,
        "strategy": ft.fedavgm(),
        "pace": ft.Pace(goal=devices, patience=1e6),
        "stages": (ft.clip(1.0),),
        "seed": 2,
        "devices": devices,
        **fields,
    }
    return ft.Federation(secure=ft.two_servers(helper, **(secure or {})), **settings)


class Secure(Virtual):
    """`Virtual` with a helper, which has its own directory; `rules` are its owner's."""

    def __init__(self, spec: ft.Federation, things: ft.Fleet, rounds: int, directory: Path, **options: Any) -> None:
        self.home = directory / "helper"
        self.helper_rules: Rules | None = options.pop("helper_rules", None)
        self.helper: Helper | None = None
        super().__init__(spec, things, rounds, directory / "run", **options)
        self.help()

    def help(self) -> Helper:
        """Start the helper, or start it again with its directory."""
        if self.helper is not None:
            self.helper.close()
        keyed = (
            {}
            if self.options.get("noise") != "keyed"
            else {"key": lambda: noise.known(self.federation.seed, b"helper")}
        )
        self.helper = Helper(self.home, self.hub.device(NAME), self.helper_rules, **keyed)
        return self.helper

    def drain(self) -> None:
        """Let everyone read what is in the inbox."""
        while self.helper is not None and (arrival := self.helper.transport.inbox.get(0)) is not None:
            self.helper.receive(arrival, self.now)
        super().drain()


def victim(death: Killed, world: Secure) -> str:
    """Return who was at work when it was killed."""
    trace = death.__traceback__
    names = {id(agent): name for name, agent in world.agents.items()}
    names |= {id(world.service): COORDINATOR, id(world.helper): NAME}
    while trace is not None:
        name = names.get(id(trace.tb_frame.f_locals.get("self")))
        if name is not None:
            return name
        trace = trace.tb_next
    raise AssertionError("nobody was at work")


def chi_square(counts: np.ndarray) -> float:
    """The probability of bins as uneven as `counts` or more, where all are as likely (Wilson & Hilferty 1931)."""
    counts = counts.ravel()
    want, k = counts.sum() / len(counts), len(counts) - 1
    statistic = ((counts - want) ** 2 / want).sum()
    z = ((statistic / k) ** (1 / 3) - (1 - 2 / (9 * k))) / sqrt(2 / (9 * k))
    return erfc(z / sqrt(2)) / 2
