"""`fedthings demo`: a broker, a coordinator and a process for each device, on this machine."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedthings.commands import as_json, example, show_json
from fedthings.threads import one_thread
from fedthings.units import quantity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedthings.demo import View
    from fedthings.federation import Federation
    from fedthings.learn.fleet import Fleet
    from fedthings.progress import Progress
    from fedthings.run import Run
    from fedthings.server.serve import Server


@click.command()
@click.option("--devices", type=click.IntRange(2, 500), help="Device processes.  [default: 10, or all of --data]")
@click.option("--rounds", default=30, show_default=True, type=click.IntRange(1), help="Versions to make.")
@click.option("--data", type=click.Path(), help="Your own fleet: npz with X, y, device, split; or CSV.")
@click.option("--out", type=click.Path(), help="Run directory.  [default: a new one in runs/]")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of data and model.")
@click.option(
    "--patience",
    default=20.0,
    show_default=True,
    type=click.FloatRange(1),
    help="Seconds to wait for a device's report.",
)
@click.option(
    "--broker",
    type=click.Choice(["mosquitto", "amqtt"]),
    help="The broker to start.  [default: mosquitto where it is installed]",
)
@click.option("--tls", is_flag=True, help="Over TLS, with an authority of its own.")
@click.option("--no-plot", is_flag=True, help="Draw no picture at the end.")
@as_json
@example("fedthings demo", "fedthings demo --data wisdm_v11.npz --rounds 60")
def command(
    devices: int | None,
    rounds: int,
    data: str | None,
    out: str | None,
    seed: int,
    patience: float,
    broker: str | None,
    tls: bool,
    no_plot: bool,
    as_json: bool,
) -> int:
    """Watch separate device processes train one model.

    Each device is a process with a file of its own, which never leaves it. They talk to the
    coordinator through a real MQTT broker. Without --data they learn to read handwritten digits.
    """
    one_thread()
    if find_spec("sqlalchemy") is None:
        from fedthings.errors import SpecError

        raise SpecError("the demo needs the extra `demo`, which is not installed: pip install 'fedthings[demo]'")
    from fedthings.demo import demo
    from fedthings.learn.metrics import usual
    from fedthings.lifeline import Ending

    fleet, federation = prepared(devices, data, seed, patience)
    directory = Path(out) if out else unused(Path("runs"), "demo")
    names = [metric.name for metric in usual(federation.task)]
    metric = next((name for name in names if name != "loss"), "loss")
    click.echo(f"{federation.devices} devices, one process each; run directory {directory}", err=True)
    with Ending() as ending, shown(federation, rounds, metric) as view:
        result = demo(federation, fleet, rounds, directory, view, ending, broker or "", tls)
    if result is None:
        again = ["fedthings demo", f"--out {directory}", f"--rounds {rounds}", f"--seed {seed}"]
        again += [f"--data {data}"] if data else []
        again += [f"--devices {devices}"] if devices else []
        again += [f"--patience {patience:g}"] if patience != 20 else []
        again += [f"--broker {broker}"] if broker else []
        again += ["--tls"] if tls else []
        click.echo(f"stopped, no process is left, nothing is lost. To go on: {' '.join(again)}", err=True)
        return ending.code
    if not no_plot:
        picture(result, directory)
    if as_json:
        show_json({**result.summary, "out": str(directory)})
    else:
        tell(result, fleet, directory, metric)
    return 0


def prepared(devices: int | None, data: str | None, seed: int, patience: float) -> tuple[Fleet, Federation]:
    """Return the data and the federation to train. Raises DataError."""
    from fedthings.demo import for_data, for_digits
    from fedthings.errors import DataError
    from fedthings.learn.digits import digits
    from fedthings.learn.fleet import Fleet

    if data is None:
        count = devices or 10
        return digits(count, seed), for_digits(count, seed, patience)
    fleet = Fleet.read(data)
    if devices is not None and devices > len(fleet):
        raise DataError(f"devices is {devices}, but {data} has {len(fleet)}: leave --devices out for all of them")
    return fleet, for_data(fleet, devices or len(fleet), seed, patience, Path(data).stem)


def unused(top: Path, name: str) -> Path:
    """Return the first of `top/name`, `top/name-2`, ... that is not there."""
    path, number = top / name, 1
    while path.exists():
        number += 1
        path = top / f"{name}-{number}"
    return path


class Lines:
    """The demo as plain lines; a `demo.View` where there is no terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __enter__(self) -> Lines:
        self._progress.__enter__()
        return self

    def __exit__(self, *what: Any) -> None:
        self._progress.__exit__(*what)

    def version(self, line: Mapping[str, Any]) -> None:
        """Print a line of the history, if it is time for one."""
        self._progress.show(line)

    def news(self, text: str) -> None:
        """Print `text`."""
        click.echo(text, err=True)

    def step(self, server: Server) -> None:
        """Say how many devices have come, before there is a version."""
        if not server.service.history:
            self._progress.say(f"{len(server.service.coordinator.present)} devices are here")


def shown(federation: Federation, rounds: int, metric: str) -> AbstractContextManager[View]:
    """Return what shows the demo: a panel on a terminal, lines elsewhere."""
    if sys.stderr.isatty() and find_spec("rich") is not None:
        from fedthings.panel import Panel

        return Panel(f"fedthings demo: {federation.name}", rounds, metric, federation.devices)
    from fedthings.progress import Progress

    return Lines(Progress(rounds))


def picture(result: Run, directory: Path) -> None:
    """Draw the curve, where matplotlib is there."""
    from fedthings.errors import SpecError

    try:
        result.plot(directory / "curve.png")
    except SpecError as error:
        click.echo(str(error), err=True)


def tell(result: Run, fleet: Fleet, directory: Path, metric: str) -> None:
    """Say what has happened, and what to try next."""
    summary, history = result.summary, result.history
    names = fleet.names[: result.federation.devices]
    samples = sum(len(shard.X) + len(shard.test_X) for shard in map(fleet.shard, names))
    up, down = (quantity(sum(line[key] for line in history)) for key in ("bytes_up", "bytes_down"))
    values = [line["metrics"][metric] for line in history if metric in line["metrics"]]
    worst = summary.get("worst_decile", {}).get(metric)
    click.echo(
        f"\n{len(names)} devices, each a process of its own, trained one model together "
        f"in {summary['seconds']:.1f} seconds.\n"
    )
    said = {}
    if values:
        best = summary["best"]
        said[metric] = f"{values[0]:.3f} after version 1, {values[-1]:.3f} after version {len(values)}"
        said["best"] = f"{best['metrics'][metric]:.3f} in version {best['version']}"
    if worst is not None:
        said["worst tenth"] = f"{worst:.3f} on the tenth of the devices where it does worst"
    said["travelled"] = f"{down} of models down to the devices, {up} of reports up"
    said["stayed home"] = f"all {samples:,} samples: not one left its device"
    said["run directory"] = str(directory)
    if (directory / "curve.png").is_file():
        said["picture"] = str(directory / "curve.png")
    for title, text in said.items():
        click.echo(f"  {title:<15}{text}")
    device = names[0]
    click.echo(
        "\nNext:\n"
        f"  fedthings models {directory}                 every version, the best marked\n"
        f"  fedthings devices --out {directory} list     what each device has sent\n"
        f"  fedthings predict --state {directory}/devices/{device} --data {directory}/data/{device}.npz\n"
        f"  fedthings export {directory} --to npz --out model.npz"
    )
