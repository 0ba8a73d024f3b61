"""Which code does the local steps: a rule, the same on devices and in the simulator (law 2)."""

from __future__ import annotations

from fedthings.errors import SpecError, nearest
from fedthings.learn import compiled
from fedthings.learn.descent import Descent, descent
from fedthings.learn.task import Task

ENGINES = ("auto", "numpy", "kernels")


def choose(task: Task, engine: str = "auto") -> str:
    """Return "kernels" where they are installed and know all of `task`, otherwise "numpy"; or what was asked for.

    Raises SpecError where that cannot be.
    """
    if engine not in ENGINES:
        raise SpecError(f"engine is {engine!r}: {nearest(engine, ENGINES)}")
    lacking = compiled.lacking(task) if engine != "numpy" else ""
    if engine == "kernels" and lacking:
        raise SpecError(f'engine is "kernels", and {lacking}: use "numpy" or "auto"')
    return "numpy" if engine == "numpy" or lacking else "kernels"


def build(task: Task, mu: float, engine: str = "auto", threads: int = 1) -> Descent:
    """Return the local steps of `task` by `engine`; `threads` are for the kernels. Raises SpecError."""
    if choose(task, engine) == "numpy":
        return descent(task, mu)
    return compiled.descent(task, mu, threads)


def described(task: Task, engine: str = "auto") -> str:
    """Return the engine for `task` with its version and instruction set."""
    return "numpy" if choose(task, engine) == "numpy" else compiled.described()
