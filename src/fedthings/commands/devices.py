"""`fedthings devices`: who may join a federation, and what each has cost."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click

from fedthings.commands import as_json, example, show_json, show_table
from fedthings.units import quantity


@click.group()
@click.option(
    "--out",
    type=click.Path(),
    help="The run directory.  [default: the one in runs/ that was served last]",
)
@click.pass_context
def command(context: click.Context, out: str | None) -> None:
    """Let devices in, put them out, forget them, list them.

    \b
    Examples:
      fedthings devices --out runs/wisdm add kitchen hall
      fedthings devices --out runs/wisdm list
    """
    context.obj = out


def _directory(out: str | None) -> Path:
    from fedthings.commands.control import directory

    if out:
        return Path(out)
    found = directory(None, None)
    assert found is not None  # no broker was named
    return found


@command.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--show", is_flag=True, help="Print the passwords instead of writing them to files.")
@as_json
@click.pass_obj
@example("fedthings devices --out runs/wisdm add kitchen hall")
def add(out: str | None, names: tuple[str, ...], show: bool, as_json: bool) -> None:
    """Let NAMES join, each with a new password.

    The coordinator keeps only a hash; the password is written once, to passwords/NAME in the run
    directory, for you to carry to the device.
    """
    from fedthings.server import devices

    run = _directory(out)
    passwords = devices.add(run, names)
    files = {} if show else devices.hand_out(run, passwords)
    told = _tell(run)
    if as_json:
        shown = [
            {"name": name, **({"password": word} if show else {"file": str(files[name])})}
            for name, word in passwords.items()
        ]
        show_json({"added": shown, "running": told})
        return
    for name, word in passwords.items():
        click.echo(f"{name}  {word}" if show else f"{name}  password in {files[name]}")
    if not show:
        click.echo("Carry each file to its device, for `fedthings join --password-file FILE`; then delete it here.")


@command.command()
@click.argument("names", nargs=-1, required=True)
@as_json
@click.pass_obj
@example("fedthings devices --out runs/wisdm remove kitchen")
def remove(out: str | None, names: tuple[str, ...], as_json: bool) -> None:
    """Let NAMES join no longer; a running federation goes on without them."""
    from fedthings.server import devices

    run = _directory(out)
    devices.remove(run, names)
    told = _tell(run)
    if as_json:
        show_json({"removed": list(names), "running": told})
    else:
        click.echo(f"{', '.join(names)} may join no longer")


@command.command()
@click.argument("name")
@as_json
@click.pass_obj
@example("fedthings devices --out runs/wisdm forget kitchen")
def forget(out: str | None, name: str, as_json: bool) -> None:
    """Remove what is stored of the device NAME, and say what stays.

    Its access, what it has cost, its reports that wait on the disk. What models have
    learned from it stays in them; this tells in which. The coordinator must not run.
    """
    from fedthings.server.forget import forget

    run = _directory(out)
    found = forget(run, name)
    if as_json:
        show_json({"forgotten": name, "stays": [stays._asdict() for stays in found]})
        return
    click.echo(f"removed: the access of {name}, what it has cost, and its reports on this disk")
    for stays in found:
        click.echo(f"what stays{f' of it in {stays.federation}' if len(found) > 1 else ''}:")
        for sentence in stays.said:
            click.echo(f"- {sentence}")


@command.command(name="list")
@as_json
@click.pass_obj
@example("fedthings devices --out runs/wisdm list")
def list_(out: str | None, as_json: bool) -> None:
    """List who may join, with reports kept and bytes sent and received."""
    from fedthings.server import devices

    run = _directory(out)
    listed = devices.costs(run)
    if as_json:
        show_json({"devices": [{k: v for k, v in device.items() if k != "password"} for device in listed]})
    elif not listed:
        click.echo(f"nobody is on the list of {run}: `fedthings devices --out {run} add NAME` lets a device in")
    else:
        rows = [
            [device["name"], device["reports"], quantity(device["bytes_up"]), quantity(device["bytes_down"])]
            for device in listed
        ]
        show_table(("device", "reports", "up", "down"), rows)


def _tell(out: Path) -> bool:
    """Make a running coordinator read the list again; return whether one runs."""
    from fedthings.errors import FedthingsError
    from fedthings.server.ask import ask
    from fedthings.server.place import read

    if read(out) is None:
        return False
    with suppress(FedthingsError):  # none runs: the next one begins with the list as it is
        ask("reload", out)
        return True
    return False
