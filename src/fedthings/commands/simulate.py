"""`fedthings simulate`: a federation in virtual time on this machine."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import click

from fedthings.commands import as_json, device, example, show_json, target, text
from fedthings.progress import quantity

if TYPE_CHECKING:
    from fedthings.vector import Array


def targets(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, float] | None:
    """Read metric=value pairs."""
    found = {}
    for value in values:
        name, _, number = value.partition("=")
        try:
            found[name] = float(number)
            if not isfinite(found[name]):
                raise ValueError
        except ValueError:
            raise click.BadParameter(f"{value!r} is not like accuracy=0.97") from None
    return found or None


@click.command()
@click.argument("fed", type=click.Path())
@click.option(
    "--fleet",
    "data",
    required=True,
    type=click.Path(),
    help="The data: npz with X, y, device, split; or CSV.",
)
@click.option("--rounds", default=30, show_default=True, type=click.IntRange(1), help="Versions to make.")
@click.option("--out", type=click.Path(), help="Run directory; Ctrl-C leaves a run to go on with.")
@click.option("--test", type=click.Path(), help="A central test set: npz with X and y, or CSV.")
@click.option("--seed", type=click.IntRange(0), help="Instead of the federation's seed.")
@click.option("--init", type=click.Path(), help="A model.safetensors to begin with.")
@click.option("--stop", multiple=True, callback=targets, metavar="METRIC=VALUE", help="End when this is reached.")
@target
@device
@as_json
@example(
    "fedthings simulate wisdm.toml --fleet wisdm_v11.npz --rounds 50 --out runs/wisdm",
    "fedthings simulate wisdm.toml --fleet wisdm_v11.npz --stop accuracy=0.8 --json",
)
def command(
    fed: str,
    data: str,
    rounds: int,
    out: str | None,
    test: str | None,
    seed: int | None,
    init: str | None,
    stop: dict[str, float] | None,
    target: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Train a federation in virtual time on this machine.

    The rounds, and the model, are those of real devices with the same data.
    FED is a TOML file, or a Python file that defines `federation`.
    """
    from msgspec.structs import replace

    from fedthings.federation import load
    from fedthings.learn import save
    from fedthings.learn.fleet import Fleet
    from fedthings.progress import Progress
    from fedthings.simulation.simulator import simulate

    federation = load(fed)
    if seed is not None:
        federation = replace(federation, seed=seed)
    fleet = Fleet.read(data, target, device)
    row = None if init is None else save.warm(init, federation.task.model)
    central = None if test is None else central_set(test, target, fleet.classes)
    try:
        with Progress(rounds) as progress:
            run = simulate(
                federation,
                fleet,
                rounds,
                test=central,
                init=row,
                stop=stop,
                on_version=progress.show,
                out=out,
            )
    except KeyboardInterrupt:
        if out is not None:
            click.echo(f"stopped: the same command goes on with the run in {out}", err=True)
        raise
    if as_json:
        show_json(run.summary)
    else:
        show_summary(run.summary, out)


def central_set(path: str, target: str | None, classes: tuple[str, ...]) -> tuple[Array, Array]:
    """Return the samples of a central test set: those of split 1, or all where there are none."""
    from fedthings.learn.tables import read

    samples = read(path, target, classes=classes)
    chosen = samples.test if samples.test.any() else ~samples.test
    return samples.X[chosen], samples.y[chosen]


def show_summary(summary: dict[str, Any], out: str | None) -> None:
    """Print how a run has ended."""
    measured = summary.get("metrics", {})
    worst = summary.get("worst_decile", {})
    for name, value in measured.items():
        more = f"   (worst tenth of the devices {text(worst[name])})" if name in worst else ""
        click.echo(f"{name:14}{text(value)}{more}")
    for name, value in (summary.get("test") or {}).items():
        click.echo(f"{'test ' + name:14}{text(value)}")
    if best := summary.get("best"):
        click.echo(f"{'best':14}version {best['version']}")
    click.echo(f"{'versions':14}{summary['rounds']} with {summary['devices']:,} devices")
    up, down = (summary.get(key) or 0 for key in ("bytes_up", "bytes_down"))
    click.echo(f"{'last version':14}{quantity(up)} up, {quantity(down)} down")
    if out:
        click.echo(f"{'run directory':14}{out}")
