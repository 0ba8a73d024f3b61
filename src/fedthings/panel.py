"""The demo on a terminal: one tidy panel, drawn with rich, that shows a federation at work."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel as Box
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedthings.units import quantity

if TYPE_CHECKING:
    from fedthings.server.serve import Server

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 76
"""Columns of the panel at the most."""


class Panel:
    """A live panel: `with Panel(title, rounds, metric) as panel:`; it is a `demo.View`."""

    def __init__(self, title: str, rounds: int, metric: str, devices: int) -> None:
        self.title, self.rounds, self.metric, self.devices = title, rounds, metric, devices
        self._values: list[float] = []
        self._losses: list[float] = []
        self._state: dict[str, Any] = {"version": 0, "kept": 0, "goal": 0, "work": 0, "present": 0}
        self._up = self._down = 0
        self._waits = "starting the device processes"
        self._begun = time.monotonic()
        self._console = Console(stderr=True)
        self._live = Live(get_renderable=self._draw, console=self._console, refresh_per_second=10)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waits = ""
        self._live.stop()

    def version(self, line: Mapping[str, Any]) -> None:
        """Take a line of the history."""
        self._up += line["bytes_up"]
        self._down += line["bytes_down"]
        value = line["metrics"].get(self.metric)
        if value is not None:
            self._values.append(value)
        if line["loss"] is not None:
            self._losses.append(line["loss"])

    def news(self, text: str) -> None:
        """Print `text` above the panel."""
        self._console.print(Text(f"  {text}", "yellow"))

    def step(self, server: Server) -> None:
        """Note where the federation stands; drawn by another thread some times a second."""
        coordinator = server.service.coordinator
        self._state = {
            "version": server.service.engine.trained,
            "kept": coordinator.kept,
            "goal": coordinator.goal,
            "work": len(coordinator.tasks),
            "present": len(coordinator.present),
        }
        if server.service.done:
            self._waits = "the last model goes out"
        elif coordinator.phase == 0 and len(coordinator.plans) > 2:
            self._waits = "learning the fleet's scaling"
        else:
            self._waits = "" if coordinator.tasks or coordinator.version else "devices are joining"

    def _draw(self) -> RenderableType:
        state, table = self._state, Table.grid(padding=(0, 2))
        table.add_column(style="dim", min_width=9)
        table.add_column(min_width=16)
        table.add_column()
        done = Text(f"{state['version']} of {self.rounds}", "bold")
        bar = ProgressBar(self.rounds, state["version"], width=30, complete_style="cyan", finished_style="green")
        table.add_row("version", done, bar)
        table.add_row(self.metric.replace("_", " "), _last(self._values), Text(spark(self._values), "green"))
        table.add_row("loss", _last(self._losses), Text(spark(self._losses), "magenta"))
        table.add_row(
            "devices",
            Text(f"{state['present']} of {self.devices} here"),
            Text(f"{state['work']} at work, {state['kept']} of {state['goal'] or self.devices} reports in"),
        )
        elapsed = f"{time.monotonic() - self._begun:.0f} s"
        table.add_row("sent", Text(f"{quantity(self._up)} up"), Text(f"{quantity(self._down)} down in {elapsed}"))
        foot = Text(self._waits, "italic dim")
        body = Group(table, foot) if self._waits else table
        width = min(WIDTH, self._console.width)
        return Box(body, title=f"[bold]{self.title}", title_align="left", box=box.ROUNDED, width=width, padding=(0, 1))


def spark(values: Sequence[float], width: int = 30) -> str:
    """Return `values`, the last `width` of them, as a line of little bars."""
    shown = values[-width:]
    if not shown:
        return ""
    low, span = min(shown), max(shown) - min(shown)
    return "".join(BARS[round((value - low) / span * 7) if span else 3] for value in shown)


def _last(values: Sequence[float]) -> Text:
    return Text(f"{values[-1]:.4f}", "bold") if values else Text("-", "dim")
