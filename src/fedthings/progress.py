"""The progress of a run on standard error: a live line on a terminal, else a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from fedthings.units import duration, quantity

EVERY = 3.0
"""Seconds between plain lines."""


class Progress:
    """Shows versions as they are made: `with Progress(30) as progress: progress.show(line)`."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.up = self.down = 0
        self._begun = time.monotonic()
        self._shown = -EVERY
        self._said = ""
        self._live: Any = None
        self._first: tuple[float, int] | None = None  # when the first version was shown, and which it was

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            try:
                from rich.console import Console
                from rich.progress import BarColumn, TextColumn
                from rich.progress import Progress as Bar
            except ImportError:
                return self
            columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
            self._live = Bar(*columns, console=Console(stderr=True), refresh_per_second=8)
            self._task = self._live.add_task("waiting for the first version", total=self.rounds)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._said:
            print(self._said, file=sys.stderr)

    def show(self, line: Mapping[str, Any], more: str = "") -> None:
        """Show a line of the history; `more` is what else is known, such as the devices at work."""
        self.up += line["bytes_up"]
        self.down += line["bytes_down"]
        self.say(words(line, self.rounds, self.up, self.down, more), line["version"])

    def say(self, text: str, version: int | None = None) -> None:
        """Show `text`; `version` is how many of `rounds` are made, from which follows how long it still takes."""
        if version is not None:
            text += self._left(version)
        if self._live is not None:
            self._live.update(self._task, description=text, completed=version)
            return
        self._said = f"{time.monotonic() - self._begun:6.1f} s  {text}"
        if time.monotonic() - self._shown >= EVERY:
            self._shown = time.monotonic()
            print(self._said, file=sys.stderr, flush=True)
            self._said = ""

    def _left(self, version: int) -> str:
        """Return how long it still takes, once it takes long."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, version
        since, first = self._first
        if version <= first or version >= self.rounds or now - self._begun < EVERY:
            return ""
        return f"  {duration(round((now - since) / (version - first) * (self.rounds - version)))} left"


def words(line: Mapping[str, Any], rounds: int, up: int, down: int, more: str = "") -> str:
    """Return a line of the history as a person reads it; `up` and `down` are all bytes so far."""
    parts = [f"version {line['version']}/{rounds}"]
    # One metric, so that the line fits a terminal: of the central test set where there is one.
    measured = line.get("test") or line["metrics"]
    name = next((name for name in measured if name != "loss"), "")
    if name:
        parts.append(f"{name} {measured[name]:.4f}")
    loss = measured.get("loss", line["loss"])
    if loss is not None:
        parts.append(f"loss {loss:.4f}")
    parts.append(f"{line['updates']} reports")
    if line["dropped"]:
        parts.append("left out: " + ", ".join(f"{n} {reason}" for reason, n in line["dropped"].items()))
    parts.append(f"{quantity(up)} up, {quantity(down)} down")
    return "  ".join([*parts, more] if more else parts)
