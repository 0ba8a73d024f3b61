"""The sweeps of `fedthings simulate --sweep`: what is asked for, how far it is, and what it came to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedthings.commands import show_json, show_table
from fedthings.units import duration, energy, quantity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedthings.compare import Spread
    from fedthings.federation import Federation
    from fedthings.history import Line
    from fedthings.learn.fleet import Fleet
    from fedthings.simulation.sweep import Sweep, Trial

WIDTH = 80
"""Columns of a table at the most."""


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
    places = {trial.directory: place for place, trial in enumerate(trial for trial in planned if not trial.finished)}
    done = len(planned) - len(places)
    if done:
        click.echo(f"{done} of {len(planned)} runs are there already", err=True)
    with Progress(len(places) * rounds) as progress:

        def show(trial: Trial, line: Line) -> None:
            place = places[trial.directory]
            progress.say(step(trial, line, done + place + 1, len(planned), rounds), place * rounds + line["version"])

        made = sweep(federation, fleet, rounds, fields, out, seeds, on_version=show, **settings)
    for name, reason in made.failed.items():
        click.echo(f"{name} could not be made: {reason}", err=True)
    picture = Path(out) / PICTURE
    try:
        made.plot(picture)
        click.echo(f"picture in {picture}", err=True)
    except SpecError as error:  # without matplotlib there is a table still
        click.echo(f"no picture: {error}", err=True)
    if as_json:
        show_json(described(made))
    else:
        show_results(made)
    return 1 if made.failed else 0


def step(trial: Trial, line: Line, place: int, runs: int, rounds: int) -> str:
    """Return where a sweep stands, as a person reads it."""
    measured = line.get("test") or line["metrics"]
    name = next((name for name in measured if name != "loss"), "")
    value = f"  {name} {measured[name]:.4f}" if name else ""
    return f"run {place}/{runs}  {cut(trial.label, 24)}, seed {trial.seed}  version {line['version']}/{rounds}{value}"


def described(made: Sweep) -> dict[str, Any]:
    """Return a sweep as JSON has it."""
    return {
        "sweep": str(made.out),
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
    from fedthings.compare import shortened
    from fedthings.simulation.sweep import shown

    results = made.results()
    metric = made.compare().metric
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
    header = ["runs", f"last {metric}", "best", "time", "bytes", *(["energy"] if counted else [])]
    taken = sum(2 + max(len(row[i]) for row in (header, *rows)) for i in range(len(header)))
    most = (WIDTH - taken) // max(1, len(fields)) - 2
    settings = [[cut(shown(result.settings[field]), most) for field in fields] for result in results]
    names = [cut(shorts[field], most) for field in fields]
    show_table([*names, *header], [[*mine, *row] for mine, row in zip(settings, rows, strict=True)])
    if any(result.runs > 1 for result in results):
        click.echo("± is the standard deviation over seeds; all others are means")


def described_spread(value: Spread | None) -> dict[str, float | None] | None:
    """Return a spread as JSON has it."""
    return None if value is None else {"mean": value.mean, "deviation": value.deviation}


def spread(value: Spread) -> str:
    """Return mean and deviation, to the fourth digit of the mean."""
    from math import floor, log10

    mean, deviation = value
    if deviation is None:
        return f"{mean:.4g}"
    digits = min(9, max(0, 3 - floor(log10(abs(mean))))) if mean else 4
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def cut(text: str, most: int) -> str:
    """Return `text` without its middle where it is longer than `most`, at least 10."""
    most = max(most, 10)
    if len(text) <= most:
        return text
    return f"{text[: most // 3]}…{text[len(text) - (most - most // 3 - 1) :]}"
