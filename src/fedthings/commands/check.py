"""`fedthings check`: would this federation work with this data? Told before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fedthings.commands import as_json, device, example, show_json, target
from fedthings.units import quantity

if TYPE_CHECKING:
    from fedthings.federation import Federation
    from fedthings.learn.fleet import Fleet

ALONE = "this-device"
"""What the device is called whose own file is checked: a file that names no devices."""
SHOWN = 10
"""Problems told in full; of a fleet with one fault there are as many as devices."""


@click.command()
@click.argument("fed", type=click.Path())
@click.option(
    "--data",
    required=True,
    type=click.Path(),
    help="The fleet, or one device's own file: npz with X, y, device, split; or CSV.",
)
@target
@device
@as_json
@example("fedthings check wisdm.toml --data wisdm_v11.npz")
def command(fed: str, data: str, target: str | None, device: str | None, as_json: bool) -> None:
    """Tell whether a federation would work with this data.

    Also what it would send, before anything runs. FED is a TOML file, or a Python
    file that defines `federation`.
    """
    from fedthings.errors import DataError
    from fedthings.federation import load
    from fedthings.learn.fleet import Fleet

    federation = load(fed)
    fleet = Fleet.read(data, target, device, alone=ALONE)
    problems = _problems(federation, fleet)
    notes = _needs(federation) + ([] if fleet.names == (ALONE,) else _notes(federation, fleet))
    facts = _facts(federation, fleet)
    if as_json:
        show_json({**facts, "problems": problems, "notes": notes})
    else:
        _show(facts, problems, notes)
    if problems:
        raise DataError(f"{len(problems)} problem{'s' * (len(problems) > 1)} in {data} with {fed}")


def _problems(federation: Federation, fleet: Fleet) -> list[str]:
    """Return what would not work."""
    from fedthings.errors import DataError
    from fedthings.phase import fits

    found = []
    whole = fleet.names != (ALONE,)
    if whole and federation.devices > len(fleet) and federation.edge is None:
        found.append(f"devices is {federation.devices}, but the fleet has {len(fleet)}: it would never start")
    if whole and federation.pace.quorum > len(fleet) and federation.edge is None:
        found.append(
            f"pace.quorum is {federation.pace.quorum}, but the fleet has {len(fleet)} devices: "
            "no version would be made; lower it"
        )
    for name in fleet.names:
        try:
            fits(federation, fleet.shard(name), name)
        except DataError as error:
            found.append(str(error))
    return found


def _needs(federation: Federation) -> list[str]:
    """Return what a device must have for this federation, beside data."""
    from fedthings.learn.own import Own

    model = federation.task.model
    if not isinstance(model, Own):
        return []
    return [
        f"the model is the Python code {model.factory}: served, each device needs it installed, and joins with "
        f"--allow {model.factory}"
    ]


def _notes(federation: Federation, fleet: Fleet) -> list[str]:
    """Return what works, and may not be what is wanted."""
    found = []
    pace = federation.pace
    if federation.edge is not None:
        found.append("edge is set: those who take part are edges, and pace, stages and devices speak of them")
        return found
    if pace.concurrency > len(fleet):
        found.append(
            f"pace.concurrency is {pace.concurrency}, but the fleet has {len(fleet)} devices: the first "
            f"version waits {pace.patience:g} seconds for more; set it to {len(fleet)} or less"
        )
    if federation.devices == 0 and pace.concurrency < len(fleet):
        found.append(
            f"devices is 0: served, the first version starts with the first {pace.concurrency} devices that come; "
            f"set it to {len(fleet)} to wait for all, as a simulation does"
        )
    untested = [name for name, size in zip(fleet.names, fleet.test_sizes, strict=True) if size == 0]
    if untested:
        found.append(f"{len(untested)} of {len(fleet)} devices have no test samples and measure nothing")
    if fleet.left_out:
        found.append(f"columns without numbers are left out: {', '.join(fleet.left_out)}")
    return found


def _facts(federation: Federation, fleet: Fleet) -> dict[str, Any]:
    import numpy as np

    return {
        "federation": federation.name,
        "parameters": 0 if federation.query else federation.task.model.layout.dim,
        "devices": len(fleet),
        "train": int(fleet.sizes.sum()),
        "test": int(fleet.test_sizes.sum()),
        "per_device": [int(q) for q in np.quantile(fleet.sizes, (0, 0.5, 1), method="nearest")],
        "shape": list(fleet.shard(fleet.names[0]).X.shape[1:]),
        "classes": list(fleet.classes),
        "report_bytes": _report_bytes(federation),
        "reports_a_version": federation.pace.goal,
    }


def _report_bytes(federation: Federation) -> dict[str, int]:
    """Return the bytes of one report's arrays in each phase that sends any, as they are sent."""
    from fedthings.federation import phases
    from fedthings.partial import Partial, template

    sizes: dict[str, int] = {}
    for phase in phases(federation):
        if arrays := template(phase, Partial(phase)).arrays:
            sizes[phase.kind] = sum(array.nbytes for array in arrays.values())
    return sizes


def _show(facts: dict[str, Any], problems: list[str], notes: list[str]) -> None:
    least, middle, most = facts["per_device"]
    shape = " x ".join(str(length) for length in facts["shape"])
    sends = ", ".join(f"{quantity(size)} to {phase}" for phase, size in facts["report_bytes"].items())
    of_one = facts["report_bytes"].get("train") or facts["report_bytes"]["query"]
    lines = {
        "model": f"{facts['parameters']:,} parameters" if facts["parameters"] else "none: a query trains nothing",
        "fleet": f"{facts['devices']:,} devices with {facts['train']:,} training and {facts['test']:,} test samples",
        "each device": f"{least:,} to {most:,} training samples (median {middle:,}) of {shape} features",
        "each report": sends,
        "each version": f"{quantity(of_one * facts['reports_a_version'])} in {facts['reports_a_version']} reports",
    }
    if facts["classes"]:
        lines["classes"] = ", ".join(facts["classes"])
    for title, said in lines.items():
        click.echo(f"{title:14}{said}")
    for note in notes:
        click.echo(f"{'note':14}{note}")
    for problem in problems[:SHOWN]:
        click.echo(f"{'problem':14}{problem}")
    if len(problems) > SHOWN:
        click.echo(f"{'':14}and {len(problems) - SHOWN} more")
    if not problems:
        click.echo(f"{'result':14}this would work")
