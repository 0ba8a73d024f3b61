"""The sweeps of `fedthings simulate --sweep`: what is asked for, how far it is, and what it came to."""

from __future__ import annotations

from math import floor, log10
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

import click

from fedthings.commands import show_json, show_table
from fedthings.units import Unit, duration, energy, quantity, unit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedthings.comparison import Spread
    from fedthings.federation import Federation
    from fedthings.history import Line
    from fedthings.learn.fleet import Fleet
    from fedthings.simulation.sweep import Sweep, Trial

WIDTH = 80
"""Columns of a table at the most, or as many as the terminal has beyond."""


def grid(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, list[Any]]:
    """Read field=value,value pairs."""
    found: dict[str, list[Any]] = {}
    for value in values:
        field, equals, listed = value.partition("=")
        field = field.strip()
        if not equals or not field:
            raise click.BadParameter(f"{value!r} is not like strategy.mu=0,0.01,0.1")
        if field in found:
            raise click.BadParameter(f"{field} is given twice: give it once, with all its values")
        found[field] = listing(listed)
        if not found[field]:
            raise click.BadParameter(f"{field} has no values: give at least one, such as {field}=0,0.01,0.1")
    return found


def listing(listed: str) -> list[Any]:
    """Return the values in a list as TOML has them; what is not TOML is a text."""
    import tomllib

    def read(text: str) -> Any:
        return tomllib.loads(f"values = {text}")["values"]

    try:
        found = read(f"[{listed}]")
        assert isinstance(found, list)
        return found
    except tomllib.TOMLDecodeError:
        pass
    values: list[Any] = []
    for part in filter(None, (part.strip() for part in listed.split(","))):
        try:
            values.append(read(part))
        except tomllib.TOMLDecodeError:
            values.append(part)
    return values


def sweep(
    federation: Federation,
    fleet: Fleet,
    rounds: int,
    fields: dict[str, list[Any]],
    seeds: int,
    out: str,
    settings: Mapping[str, Any],
    as_json: bool,
) -> int:
    """Make the runs of a sweep, and print what the settings came to; 1 where a run could not be made."""
    from fedthings.errors import SpecError
    from fedthings.progress import Progress
    from fedthings.simulation.sweep import PICTURE, sweep, trials

    planned = trials(federation, fields, out, seeds)
    missing = [trial.directory for trial in planned if not trial.finished]
    done = len(planned) - len(missing)
    if done:
        click.echo(f"{done} of {len(planned)} runs are there already", err=True)
    places = {directory: place for place, directory in enumerate(missing, done)}
    with Progress(len(planned) * rounds) as progress:

        def show(trial: Trial, line: Line) -> None:
            place = places[trial.directory]
            progress.say(step(trial, line, place + 1, len(planned), rounds), place * rounds + line["version"])

        made = sweep(federation, fleet, rounds, fields, out, seeds, on_version=show, **settings)
    for name, reason in made.failed.items():
        click.echo(f"{name} could not be made: {reason}", err=True)
    if as_json:
        show_json(described(made))
    else:
        show_results(made)
    picture = Path(out) / PICTURE
    try:
        made.plot(picture)
        click.echo(f"picture in {picture}", err=True)
    except SpecError as error:  # without matplotlib there is a table still
        click.echo(f"no picture: {error}", err=True)
    return 1 if made.failed else 0


def step(trial: Trial, line: Line, place: int, runs: int, rounds: int) -> str:
    """Return where a sweep stands, as a person reads it."""
    measured = line.get("test") or line["metrics"] or {"loss": line["loss"]}
    name = next((name for name in measured if name != "loss"), "loss")
    value = "" if measured.get(name) is None else f"  {name} {measured[name]:.4f}"
    return f"run {place}/{runs}  {cut(trial.label, 24)}, seed {trial.seed}  version {line['version']}/{rounds}{value}"


def described(made: Sweep) -> dict[str, Any]:
    """Return a sweep as JSON has it."""
    found = made.compare()
    return {
        "sweep": str(made.out),
        "metric": found.metric,
        "part": found.part,
        "runs": [str(trial.directory) for trial in made.ended],
        "failed": dict(made.failed),
        "results": [
            {
                "settings": dict(result.settings),
                "runs": result.runs,
                **{
                    name: described_spread(getattr(result, name))
                    for name in ("last", "best", "seconds", "bytes", "joules")
                },
            }
            for result in made.results()
        ],
    }


def show_results(made: Sweep) -> None:
    """Print a table of what the settings came to."""
    from fedthings.comparison import shortened, shown

    results = made.results()
    counted = any(result.joules for result in results)
    fields = list(results[0].settings)
    shorts = shortened(fields)
    rows = [
        [
            str(result.runs),
            spread(result.last),
            spread(result.best),
            duration(result.seconds.mean),
            quantity(result.bytes.mean),
            *([energy(result.joules.mean) if result.joules else "-"] if counted else []),
        ]
        for result in results
    ]
    header = ["runs", f"last {made.compare().measure}", "best", "time", "bytes", *(["energy"] if counted else [])]
    settings = [[shown(result.settings[field]) for field in fields] for result in results]
    show_named([shorts[field] for field in fields], settings, [result.label for result in results], header, rows)
    if any(result.runs > 1 for result in results):
        click.echo("± is the standard deviation over seeds; all others are means")


def show_named(
    names: Sequence[str],
    settings: Sequence[Sequence[str]],
    labels: Sequence[str],
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> None:
    """Print a table of `settings` and `rows`; where it is too wide, each row below its label instead."""
    whole = [[*mine, *row] for mine, row in zip(settings, rows, strict=True)]
    widths = [max(map(len, column)) for column in zip([*names, *header], *whole, strict=True)]
    if sum(widths) + 2 * len(widths) - 2 <= max(WIDTH, get_terminal_size((WIDTH, 24)).columns):
        show_table([*names, *header], whole)
        return
    widths = widths[len(names) :]
    for label, cells in zip(["", *labels], [header, *rows], strict=True):
        if label:
            click.echo(label)
        click.echo("  " + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def described_spread(value: Spread | None) -> dict[str, float | None] | None:
    """Return a spread as JSON has it."""
    return None if value is None else {"mean": value.mean, "deviation": value.deviation}


def spread(value: Spread) -> str:
    """Return mean and deviation, to the fourth digit of the mean."""
    mean, deviation = value
    if deviation is None:
        return f"{mean:.4g}"
    digits = min(9, max(0, 3 - floor(log10(abs(mean))))) if mean else 4
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def measured(value: Spread | None, units: tuple[Unit, ...]) -> str:
    """Return mean and deviation in the unit that suits, to the first digit of the deviation."""
    if value is None:
        return "-"
    chosen = unit(value.mean, units)
    mean, deviation = value.mean / chosen.size, (value.deviation or 0) / chosen.size
    if not deviation:
        return f"{mean:.3g} {chosen.name}".rstrip()
    power = floor(log10(deviation))
    digits = max(0, (1 if deviation < 2 * 10.0**power else 0) - power)  # two digits where the first is a 1
    return f"{mean:.{digits}f} ± {deviation:.{digits}f} {chosen.name}".rstrip()


def cut(text: str, most: int) -> str:
    """Return `text` without its middle where it is longer than `most`, at least 10."""
    most = max(most, 10)
    if len(text) <= most:
        return text
    return f"{text[: most // 3]}…{text[len(text) - (most - most // 3 - 1) :]}"
