"""The commands, one file each; here is what several of them ask for and print in the same way."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any

import click

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
fleet = click.option(
    "--fleet", "data", required=True, type=click.Path(), help="The data: npz with X, y, device, split; or CSV."
)
target = click.option("--target", metavar="COLUMN", help="CSV: the column to learn.  [default: y, target or label]")
device = click.option("--device", metavar="COLUMN", help="CSV: whose sample it is.  [default: device]")


def example(*lines: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add examples to a command's help."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        title = "Examples" if len(lines) > 1 else "Example"
        shown = "\n".join(f"  {line}" for line in lines)
        function.__doc__ = f"{inspect.getdoc(function)}\n\n\b\n{title}:\n{shown}"
        return function

    return add


def show_json(value: Any) -> None:
    """Print `value` as one line of JSON."""
    click.echo(json.dumps(value, default=float))


def show_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print aligned columns; numbers of a fraction get four digits, what is missing a dash."""
    cells = [list(header), *([text(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def text(value: Any) -> str:
    """Return `value` as it stands in a table."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
