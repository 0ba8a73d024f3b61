"""A table in Markdown, as every bench prints it."""

from __future__ import annotations


def table(header: list[str], lines: list[list[str]]) -> None:
    """Print a Markdown table."""
    for cells in (header, ["---"] * len(header), *lines):
        print("| " + " | ".join(cells) + " |", flush=True)
