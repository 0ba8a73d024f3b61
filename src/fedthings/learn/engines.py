"""Which code does the local steps: a rule, the same on devices and in the simulator (law 2)."""

from __future__ import annotations

from fedthings import kernels
from fedthings.errors import SpecError, nearest
from fedthings.learn import compiled
from fedthings.learn.descent import Descent, descent
from fedthings.learn.losses import LOSSES, scoring
from fedthings.learn.model import Outputs, forwarding
from fedthings.learn.own import Own
from fedthings.learn.task import Task

ENGINES = ("auto", "numpy", "kernels", "own")


def choose(task: Task, engine: str = "auto", corrects: bool = False) -> str:
    """Return "kernels" where they are installed and know all of `task`, otherwise "numpy"; or what was asked for.

    A model that is Python code does its own steps: "own". A method that `corrects` gradients needs "numpy". Raises
    SpecError where that cannot be.
    """
    if engine not in ENGINES:
        raise SpecError(f"engine is {engine!r}: {nearest(engine, ENGINES)}")
    own = isinstance(task.model, Own)
    if engine != "auto" and own != (engine == "own"):
        whose = "Python code of one's own" if own else "a list of layers"
        raise SpecError(f'engine is "{engine}", and the model is {whose}: use "auto"')
    if own:
        return "own"
    lacking = ""
    if engine != "numpy":
        corrects = corrects or bool(task.local_epochs)
        lacking = "they correct no gradients" if corrects else compiled.lacking(task)
    if engine == "kernels" and lacking:
        raise SpecError(f'engine is "kernels", and {lacking}: use "numpy" or "auto"')
    return "numpy" if engine == "numpy" or lacking else "kernels"


def build(task: Task, mu: float, engine: str = "auto", threads: int = 1) -> Descent:
    """Return the local steps of `task` by `engine`; `threads` are for the kernels. Raises SpecError."""
    if choose(task, engine) == "numpy":
        return descent(task, mu)
    return compiled.descent(task, mu, threads)


def outputs(task: Task, engine: str = "auto", threads: int = 1) -> Outputs:
    """Return the forward pass of `task` by `engine`, with what its loss reads at the end. Raises SpecError."""
    if choose(task, engine) == "numpy":
        return forwarding(scoring(task.model, LOSSES[task.loss]))
    return compiled.outputs(task, threads)


def described(task: Task, engine: str = "auto") -> str:
    """Return the engine for `task` with its version and instruction set."""
    chosen = choose(task, engine)
    if isinstance(task.model, Own):
        return task.model.made.engine()
    return "numpy" if chosen == "numpy" else kernels.described()
