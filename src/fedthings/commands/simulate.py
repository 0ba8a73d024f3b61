"""`fedthings simulate`: a federation in virtual time on this machine, once or as a sweep."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import click

from fedthings.commands import as_json, device, example, fleet, show_json, target, text
from fedthings.commands.sweep import grid, sweep
from fedthings.units import duration, energy, quantity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedthings.federation import Federation
    from fedthings.learn.fleet import Fleet
    from fedthings.vector import Array


def stopping(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, float] | None:
    """Read the values of --stop."""
    return targets(values)


def targets(values: Sequence[str]) -> dict[str, float] | None:
    """Read metric=value pairs."""
    found = {}
    for value in values:
        name, _, number = value.partition("=")
        try:
            found[name] = float(number)
            if not isfinite(found[name]):
                raise ValueError
        except ValueError:
            raise click.BadParameter(f"{value!r} is not like accuracy=0.97", param_hint="--stop") from None
    return found or None


def number_or_ray(context: click.Context, parameter: click.Parameter, value: str) -> int | str:
    """Read a number of workers, or the name of what provides them."""
    if value == "ray":
        return value
    if value.isdecimal():
        return int(value)
    raise click.BadParameter(f"{value!r} is neither a whole number from 0 on, such as 2, nor `ray`")


@click.command()
@click.argument("fed", type=click.Path())
@fleet
@click.option("--rounds", default=30, show_default=True, type=click.IntRange(1), help="Versions to make.")
@click.option("--out", type=click.Path(), help="Run directory; Ctrl-C leaves a run to go on with.")
@click.option("--edges", type=click.IntRange(1), help="So many edges, with neighbours in the file under one.")
@click.option("--world", type=click.Path(), help="TOML: devices, links and availability.  [default: all alike]")
@click.option("--test", type=click.Path(), help="A central test set: npz with X and y, or CSV.")
@click.option("--seed", type=click.IntRange(0), help="Instead of the federation's seed.")
@click.option("--init", type=click.Path(), help="A model.safetensors to begin with.")
@click.option("--stop", multiple=True, callback=stopping, metavar="METRIC=VALUE", help="End when this is reached.")
@click.option(
    "--sweep",
    "fields",
    multiple=True,
    callback=grid,
    metavar="FIELD=V,V",
    help="A run for each value of a field; several: for all combinations.",
)
@click.option("--seeds", type=click.IntRange(1), help="As many runs of each, with seeds from the first on.")
@click.option(
    "--engine", type=click.Choice(["auto", "numpy", "kernels"]), default="auto", show_default=True, help="What trains."
)
@click.option(
    "--workers",
    default="0",
    callback=number_or_ray,
    metavar="N|ray",
    help="How many train at once.  [default: 0, as many as suit]",
)
@click.option("--trace", is_flag=True, help="Write every event and command to trace.jsonl.")
@target
@device
@as_json
@example(
    "fedthings simulate wisdm.toml --fleet wisdm_v11.npz --rounds 50 --out runs/wisdm",
    "fedthings simulate wisdm.toml --fleet wisdm_v11.npz --stop accuracy=0.8 --json",
    "fedthings simulate wisdm.toml --fleet wisdm_v11.npz --out runs/mu \\",
    "    --sweep strategy.mu=0,0.01,0.1 --sweep task.recipe.lr=0.1,0.3 --seeds 5",
)
def command(
    fed: str,
    data: str,
    rounds: int,
    out: str | None,
    edges: int | None,
    world: str | None,
    test: str | None,
    seed: int | None,
    init: str | None,
    stop: dict[str, float] | None,
    fields: dict[str, list[Any]],
    seeds: int | None,
    engine: str,
    workers: int | str,
    trace: bool,
    target: str | None,
    device: str | None,
    as_json: bool,
) -> int:
    """Train a federation in virtual time on this machine.

    The rounds, and the model, are those of real devices with the same data.
    FED is a TOML file, or a Python file that defines `federation`.
    With --sweep or --seeds there are several runs, each with a directory
    in --out. Stopped in any way, the same command goes on.
    """
    several = bool(fields or seeds)
    if several and out is None:
        raise click.UsageError("a sweep needs --out DIR: each run has a directory in it")
    if trace and (several or out is None):
        raise click.UsageError("--trace is written to the run directory of one run: give --out, and no --sweep")
    from msgspec.structs import replace

    from fedthings.federation import load
    from fedthings.learn import save
    from fedthings.learn.fleet import Fleet

    federation = load(fed)
    if seed is not None:
        federation = replace(federation, seed=seed)
    fleet = Fleet.read(data, target, device)
    if edges is not None:
        fleet = fleet.under(edges)
    settings = {
        "test": None if test is None else central_set(test, target, fleet.classes),
        "init": None if init is None else save.warm(init, federation.task.model),
        "stop": stop,
        "world": None if world is None else _world(world),
        "engine": engine,
        "workers": workers,
    }
    try:
        if several:
            assert out is not None
            return sweep(federation, fleet, rounds, fields, seeds or 1, out, settings, as_json)
        return simulate(federation, fleet, rounds, out, {**settings, "trace": trace}, as_json)
    except KeyboardInterrupt:
        if out is not None:
            what = "sweep" if several else "run"
            click.echo(f"stopped: the same command goes on with the {what} in {out}", err=True)
        raise


def central_set(path: str, target: str | None, classes: tuple[str, ...]) -> tuple[Array, Array]:
    """Return the samples of a central test set: those of split 1, or all where there are none."""
    from fedthings.learn.tables import read

    samples = read(path, target, classes=classes)
    chosen = samples.test if samples.test.any() else ~samples.test
    return samples.X[chosen], samples.y[chosen]


def _world(path: str) -> Any:
    from fedthings.simulation.things import load

    return load(path)


# --------------------------------------------------------------------- one run


def simulate(
    federation: Federation, fleet: Fleet, rounds: int, out: str | None, settings: Mapping[str, Any], as_json: bool
) -> int:
    """Make one run, and print how it has ended."""
    from fedthings import run
    from fedthings.progress import Progress
    from fedthings.simulation.simulator import simulate

    if out is not None:
        run.unfinished(out)
    with Progress(rounds) as progress:
        made = simulate(federation, fleet, rounds, on_version=progress.show, out=out, **settings)
    if as_json:
        show_json(made.summary)
    else:
        show_summary(made.summary, out)
    return 0


def show_summary(summary: dict[str, Any], out: str | None) -> None:
    """Print how a run has ended."""
    if answer := summary.get("answer"):
        _say("answer", f"{answer['value']}   (of {answer['devices']:,} devices, {answer['samples']:,} samples)")
    measured = summary.get("metrics", {})
    worst = summary.get("worst_decile", {})
    for name, value in measured.items():
        more = f"   (worst tenth of the devices {text(worst[name])})" if name in worst else ""
        _say(name, f"{text(value)}{more}")
    for name, value in (summary.get("test") or {}).items():
        _say(f"test {name}", text(value))
    if best := summary.get("best"):
        _say("best", f"version {best['version']}")
    if privacy := summary.get("privacy"):
        _say("privacy", f"epsilon {privacy['epsilon']:.3f} at delta {privacy['delta']:g}, {privacy['noise']} noise")
    number = summary["devices"]
    _say("versions", f"{summary['rounds']} with {number:,} device{'s' * (number != 1)}")
    total = summary["total"]
    virtual = "wall_seconds" in summary
    took = f" of virtual time, computed in {duration(summary['wall_seconds'])}" if virtual else ""
    _say("time", f"{duration(summary['seconds'])}{took}")
    _say("sent", f"{quantity(total['bytes_up'])} up, {quantity(total['bytes_down'])} down")
    if total["joules"] is not None:
        _say("energy", f"{energy(total['joules'])}, spent by the devices")
    for i, (reason, number) in enumerate(sorted(total["dropped"].items(), key=lambda item: -item[1])):
        _say("left out" if i == 0 else "", f"{number:,} {reason}")
    _say("engine", ", ".join(summary["engine"].values()))
    if out:
        _say("run directory", out)


def _say(title: str, said: str) -> None:
    click.echo(f"{title:14}{said}".rstrip())
