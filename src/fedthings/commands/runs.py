"""`fedthings runs`: the run directories below a directory, and how they compare."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedthings.commands import as_json, example, show_json
from fedthings.commands.sweep import described_spread, measured, show_named
from fedthings.units import BYTES, JOULES, SECONDS, Unit

if TYPE_CHECKING:
    from fedthings.comparison import Comparison

HEADER = ("run", "version", "best", "state", "date")
SWEEP = "sweep.json"


class Runs(click.Group):
    """A group whose first command is meant where none is named: `fedthings runs DIRECTORY` lists."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, *self.get_help_option_names(ctx)):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=Runs)
def command() -> None:
    """List run directories, or compare runs.

    \b
    Examples:
      fedthings runs
      fedthings runs list /srv/federations --json
      fedthings runs compare runs/wisdm runs/wisdm-mu --out compared.png
    """


@command.command(name="list")
@click.argument("directory", default="runs", type=click.Path())
@as_json
@example("fedthings runs list", "fedthings runs list /srv/federations --json")
def list_(directory: str, as_json: bool) -> None:
    """List the runs and sweeps in a directory, the newest first.

    DIRECTORY is `runs` if none is named; `fedthings runs` alone is the same.
    """
    from fedthings.errors import StoreError

    top = Path(directory)
    if not top.is_dir():
        raise StoreError(f"there is no directory {top}: name one that holds run directories")
    places = [top, *sorted(path for path in top.iterdir() if path.is_dir())]
    found = [described(path) for path in places if (path / "federation.toml").is_file()]
    found += [described_sweep(path) for path in places[1:] if (path / SWEEP).is_file()]
    found.sort(key=lambda entry: str(entry["date"]), reverse=True)
    if as_json:
        show_json({"runs": found})
    elif not found:
        click.echo(f"no runs in {top}")
    else:
        rows = [[made(e), first(e["best"]), e["state"], e["date"]] for e in found]
        names = [e["run"] for e in found]
        show_named(HEADER[:1], [[name] for name in names], names, HEADER[1:], rows)


@command.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path())
@click.option("--out", type=click.Path(), help="Draw a picture: png, svg or pdf.")
@click.option("--metric", default="", help="What is compared.  [default: the first that all runs have]")
@click.option("--target", type=float, help="What is to be reached.  [default: the best that all runs reached]")
@as_json
@example(
    "fedthings runs compare runs/wisdm runs/wisdm-mu --out compared.png",
    "fedthings runs compare runs/sweep --metric accuracy --target 0.9",
)
def compare(runs: tuple[str, ...], out: str | None, metric: str, target: float | None, as_json: bool) -> None:
    """Compare what it took runs to become as good as a target.

    RUNS are run directories, also of runs that are not finished, or
    directories of sweeps: the seeds of a setting are taken together.
    """
    from fedthings.comparison import compared

    places = members([Path(path) for path in runs])
    found = compared([history(place) for place in places], list(places.values()), metric, target)
    if out is not None:
        from fedthings.plot import comparison

        comparison(found, Path(out))
    if as_json:
        show_json(described_comparison(found))
    else:
        show_comparison(found)
        if out is not None:
            click.echo(f"picture in {out}")


def members(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the run directories that `paths` mean, each with its label; the seeds of a setting have the same.

    Raises StoreError.
    """
    from fedthings.errors import StoreError

    found: dict[Path, tuple[Path, str]] = {}  # the run itself, or its sweep with the setting
    for path in paths:
        if (path / SWEEP).is_file():
            sweep, names = path, list(labels(path))
        elif (path / "federation.toml").is_file():
            sweep, names = path.parent, [path.name]
        else:
            raise StoreError(f"{path} is no run directory: `fedthings runs` lists those there are")
        if not (sweep / SWEEP).is_file():
            found[path] = path, ""
            continue
        begun = [name for name in names if history(sweep / name)]
        if not begun:
            raise StoreError(f"{path} has no version yet: leave it out, or wait for the first one")
        told = labels(sweep) if read_json(sweep / SWEEP).get("fields") else {}
        found |= {sweep / name: (sweep, told.get(name, "")) for name in begun}
    several = len({sweep for sweep, label in found.values() if label}) > 1
    return {
        place: f"{sweep}: {label}" if label and several else label or str(sweep)
        for place, (sweep, label) in found.items()
    }


def labels(sweep: Path) -> dict[str, str]:
    """Return the directories of a sweep's runs, those to come too, with their settings. Raises StoreError."""
    found = read_json(sweep / SWEEP).get("runs", {})
    return found if isinstance(found, dict) else {}


# -------------------------------------------------------------- a run directory


def described(path: Path) -> dict[str, Any]:
    """Return what a run directory holds: its last version, the best one, state and date."""
    lines = history(path)
    summary = path / "summary.json"
    done = summary.is_file()
    newest = max((f.stat().st_mtime for f in (summary, path / "history.jsonl") if f.is_file()), default=0.0)
    return {
        "run": str(path),
        "version": lines[-1]["version"] if lines else 0,
        "best": read_json(summary).get("best") if done else None,
        "state": "done" if done else "running" if held(path) else "stopped",
        "date": _date(newest or path.stat().st_mtime),
    }


def described_sweep(path: Path) -> dict[str, Any]:
    """Return what the directory of a sweep holds: how many of its runs have ended, of how many, and its state."""
    planned = labels(path)
    ended = [file for name in planned if (file := path / name / "summary.json").is_file()]
    newest = max((file.stat().st_mtime for file in (*ended, path / SWEEP)), default=0.0)
    return {
        "run": str(path),
        "runs": len(ended),
        "planned": len(planned),
        "best": None,
        "state": "running" if held(path) else "done" if len(ended) == len(planned) else "stopped",
        "date": _date(newest),
    }


def held(path: Path) -> bool:
    """Return whether a process is at work on the run: whoever is holds its lock (`lifeline.alone`)."""
    try:
        handle = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


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


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ", "minutes")


# ------------------------------------------------------------------------ words


def made(entry: dict[str, Any]) -> str:
    """Return how many versions, or of a sweep runs, there are."""
    if "runs" not in entry:
        return str(entry["version"])
    of = f" of {entry['planned']}" if entry["runs"] < entry["planned"] else ""
    return f"{entry['runs']}{of} run{'s' * (entry['planned'] != 1)}"


def first(best: dict[str, Any] | None) -> str:
    """Return the metric by which the best version is the best, in words."""
    measured = {**best.get("metrics", {}), **(best.get("test") or {})} if best else {}
    name = next((name for name in measured if name != "loss"), next(iter(measured), ""))
    return f"{name} {measured[name]:.4f}" if name else "-"


def described_best(best: dict[str, Any] | None) -> str:
    """Return the best version and what was measured on it, in words."""
    if not best:
        return "-"
    measured = {**best.get("metrics", {}), **(best.get("test") or {})}
    return ", ".join(f"{name} {value:.4f}" for name, value in measured.items()) + f" (version {best['version']})"


def described_comparison(found: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON has it."""
    return {
        "metric": found.metric,
        "part": found.part,
        "target": found.target,
        "runs": [
            {
                "label": cost.label,
                "runs": cost.runs,
                "reached": cost.reached,
                **{name: described_spread(cost.took.get(name)) for name in ("version", "seconds", "bytes", "joules")},
                "best": described_spread(cost.best),
                "last": described_spread(cost.last),
            }
            for cost in found.costs
        ],
    }


def show_comparison(found: Comparison) -> None:
    """Print a table of what it took each run to reach the target."""
    several = any(cost.runs > 1 for cost in found.costs)
    columns: Mapping[str, tuple[str, tuple[Unit, ...]]] = {
        "seconds": ("time", SECONDS),
        "bytes": ("bytes", BYTES),
        **({"joules": ("energy", JOULES)} if found.joules else {}),
    }
    rows = [
        [
            *([f"{cost.reached} of {cost.runs}"] if several else []),
            measured(cost.took.get("version"), (Unit("", 1, 0),)),
            *(measured(cost.took.get(name), units) for name, (_, units) in columns.items()),
            *([] if several else [f"{cost.best.mean:.4g}"]),
        ]
        for cost in found.costs
    ]
    header = [*(["runs"] if several else []), "version", *(title for title, _ in columns.values())]
    header += [] if several else ["best"]
    click.echo(f"to reach {found.measure} {found.target:.4g}:")
    names = [cost.label for cost in found.costs]
    show_named(["run"], [[name] for name in names], names, header, rows)
    if several:
        click.echo("± is the standard deviation over the runs that reached it")
