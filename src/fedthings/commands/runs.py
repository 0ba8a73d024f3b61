"""`fedthings runs`: the run directories below a directory."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from fedthings.commands import as_json, example, show_json, show_table


@click.command()
@click.argument("directory", default="runs", type=click.Path())
@as_json
@example("fedthings runs", "fedthings runs /srv/federations --json")
def command(directory: str, as_json: bool) -> None:
    """List the runs in a directory, the newest first.

    DIRECTORY is `runs` if none is named.
    """
    from fedthings.errors import StoreError

    top = Path(directory)
    if not top.is_dir():
        raise StoreError(f"there is no directory {top}: name one that holds run directories")
    found = [described(path) for path in (top, *sorted(top.iterdir())) if (path / "federation.toml").is_file()]
    found.sort(key=lambda entry: str(entry["date"]), reverse=True)
    if as_json:
        show_json({"runs": found})
    elif not found:
        click.echo(f"no runs in {top}")
    else:
        rows = [[e["run"], e["version"], described_best(e["best"]), e["state"], e["date"]] for e in found]
        show_table(("run", "version", "best", "state", "date"), rows)


def described(path: Path) -> dict[str, Any]:
    """Return what a run directory holds: its last version, the best one, state and date."""
    lines = history(path)
    summary = path / "summary.json"
    done = summary.is_file()
    newest = max((f.stat().st_mtime for f in (summary, path / "history.jsonl") if f.is_file()), default=0.0)
    newest = newest or path.stat().st_mtime
    return {
        "run": str(path),
        "version": lines[-1]["version"] if lines else 0,
        "best": read_json(summary).get("best") if done else None,
        "state": "done" if done else "unfinished",
        "date": datetime.fromtimestamp(newest).isoformat(" ", "minutes"),
    }


def history(path: Path) -> list[dict[str, Any]]:
    """Return the lines of history.jsonl; a last line that is being written is left out."""
    file = path / "history.jsonl"
    if not file.is_file():
        return []
    lines = file.read_text().split("\n")
    return [_parsed(file, line) for line in lines[:-1]]


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises StoreError."""
    return _parsed(file, file.read_text())


def _parsed(file: Path, text: str) -> dict[str, Any]:
    from fedthings.errors import StoreError

    try:
        value = json.loads(text)
    except ValueError as error:
        raise StoreError(f"{file} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise StoreError(f"{file} is damaged: it holds {text[:40]!r}, not an object")
    return value


def described_best(best: dict[str, Any] | None) -> str:
    """Return the best version and what was measured on it, in words."""
    if not best:
        return "-"
    measured = {**best.get("metrics", {}), **(best.get("test") or {})}
    return ", ".join(f"{name} {value:.4f}" for name, value in measured.items()) + f" (version {best['version']})"
