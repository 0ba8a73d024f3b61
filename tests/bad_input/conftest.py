"""What these tests share: a small federation, its data, and a command whose end is looked at as a user sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import fedthings as ft
from fedthings.cli import main
from fedthings.vector import keyed


class Ended(NamedTuple):
    """How a command has ended: its exit code, and what it said."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command of fedthings in this process; an error is one message, and never a traceback."""

    def command(*words: object) -> Ended:
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err + out
        assert err.count("fedthings: ") == (1 if code and "Usage:" not in err else 0), err
        return Ended(code, out, err)

    return command


def fleet(devices: int = 4) -> ft.Fleet:
    """Return some devices, each with 24 training and 6 test samples of 4 features in two classes."""
    rng = keyed("bad input")
    X = rng.normal(0, 1, (30 * devices, 4)).astype(np.float32)
    y = (X.sum(1) > 0).astype(np.int64)
    return ft.Fleet.from_arrays(X, y, np.arange(30 * devices) % devices, split=np.arange(30 * devices) % 5 == 0)


def federation(goal: int = 4, normalise: str = "none", **recipe: float) -> ft.Federation:
    """Return a federation in which `goal` devices, all of them, work on every version."""
    settings = {"lr": 0.3, "batch": 8, **recipe}
    task = ft.Task(model=ft.mlp(4, 5, 2), loss="cross_entropy", normalise=normalise, recipe=ft.Recipe(**settings))
    return ft.Federation(
        task, ft.fedavgm(), ft.Pace(goal=goal, patience=60.0), stages=(ft.clip(5.0),), seed=3, name="bad", devices=goal
    )


@pytest.fixture
def fed(tmp_path: Path) -> Path:
    """Return the file of a federation of three devices."""
    path = tmp_path / "fed.toml"
    path.write_text(ft.dumps(federation(3)))
    return path


def contents(directory: Path) -> dict[str, bytes]:
    """Return what lies in a directory, to see that nothing was lost or changed."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
