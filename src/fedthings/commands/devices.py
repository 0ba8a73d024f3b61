"""`fedthings devices`: who may join a federation, and what each has cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedthings.commands import as_json, example, show_json, show_table
from fedthings.commands.enrol import broker, root
from fedthings.units import quantity

if TYPE_CHECKING:
    from fedthings.server.roll import Roll

_some = click.argument("names", nargs=-1)
_group = click.option("--group", metavar="NAME", help="Instead of names: all of this group.")


@click.group()
@click.option(
    "--out",
    type=click.Path(),
    help="The run directory.  [default: the one in runs/ that was served last]",
)
@click.pass_context
def command(context: click.Context, out: str | None) -> None:
    """Manage the devices that `fedthings enrol` has let in; list them, put them out, forget them.

    \b
    Examples:
      fedthings devices --out runs/wisdm list
      fedthings devices --out runs/wisdm quarantine kitchen
    """
    context.obj = out


def directory(out: str | None) -> Path:
    """Return the run directory that is meant. Raises StoreError."""
    from fedthings.commands import control

    if out:
        return Path(out)
    found = control.directory(None, None)
    assert found is not None  # no broker was named
    return found


def _order(verb: str, done: str, help: str) -> click.Command:
    """Return the command that does `verb` to devices; `done` is what they are then."""

    def act(out: str | None, names: tuple[str, ...], group: str | None, as_json: bool) -> None:
        from fedthings.server import devices

        run = directory(out)
        with devices.opened(run) as roll:
            chosen = _chosen(roll, names, group)
            getattr(roll, verb)(chosen)
        if verb == "remove":
            for name in chosen:
                devices.token_file(run, name).unlink(missing_ok=True)
        told = tell(run)
        if as_json:
            show_json({verb: list(chosen), "running": told})
        else:
            click.echo(f"{', '.join(chosen)}: {done}")

    act.__doc__ = help
    shown = example(f"fedthings devices --out runs/wisdm {verb} kitchen")(act)
    made: Callable[..., None] = click.pass_obj(_some(_group(as_json(shown))))
    return command.command(verb)(made)


def _chosen(roll: Roll, names: tuple[str, ...], group: str | None) -> tuple[str, ...]:
    if bool(names) == (group is not None):
        raise click.UsageError("name devices, or a group with --group")
    found = names if group is None else tuple(roll.of(group))
    if not found:
        raise click.UsageError(f"nobody is in the group {group!r}")
    return found


_order("approve", "approved", "Let NAMES take part, who wait for it or are in quarantine.")
_order("quarantine", "linked, and given no work", "Give NAMES no work; they stay linked, until `approve`.")
_order("revoke", "revoked", "Believe the keys of NAMES no longer; they stay on the list, and need `rotate`.")
_order("remove", "may join no longer", "Let NAMES join no longer; a running federation goes on without them.")


@command.command()
@click.argument("names", nargs=-1, required=True)
@broker
@root
@as_json
@click.pass_obj
@example("fedthings devices --out runs/wisdm rotate kitchen")
def rotate(out: str | None, names: tuple[str, ...], broker: str, root: str | None, as_json: bool) -> None:
    """Make new tokens for NAMES: with it a device makes a new key, in place of the one it has.

    The old key is believed until then, unless it was revoked. The device stays at its broker, unless the
    new token names another.
    """
    from fedthings.server import devices

    run = directory(out)
    files = devices.enrol(run, names, broker=broker, root=root or "", again=True)
    told = tell(run)
    if as_json:
        show_json({"tokens": dict(zip(names, map(str, files), strict=False)), "running": told})
        return
    for name, file in zip(names, files, strict=True):
        click.echo(f"{name}  token in {file}")


@command.command()
@click.argument("old")
@click.argument("new")
@as_json
@click.pass_obj
@example("fedthings devices --out runs/wisdm rename kitchen pantry")
def rename(out: str | None, old: str, new: str, as_json: bool) -> None:
    """Call the device OLD by the name NEW; it is then started with --name NEW, and its --state as before."""
    from fedthings.server import devices

    run = directory(out)
    with devices.opened(run) as roll:
        roll.rename(old, new)
    told = tell(run)
    if as_json:
        show_json({"renamed": {old: new}, "running": told})
    else:
        click.echo(f"{old} is called {new} now: start it with --name {new} and the same --state")


@command.command()
@click.argument("group")
@click.argument("names", nargs=-1, required=True)
@as_json
@click.pass_obj
@example("fedthings devices --out runs/wisdm group downstairs kitchen hall")
def group(out: str | None, group: str, names: tuple[str, ...], as_json: bool) -> None:
    """Put NAMES into GROUP; "-" is none."""
    from fedthings.server import devices

    with devices.opened(directory(out)) as roll:
        roll.group(names, "" if group == "-" else group)
    if as_json:
        show_json({"group": group, "names": list(names)})
    else:
        click.echo(f"{', '.join(names)}: {'in no group' if group == '-' else f'in {group}'}")


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

    run = directory(out)
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
@_group
@as_json
@click.pass_obj
@example("fedthings devices --out runs/wisdm list")
def list_(out: str | None, group: str | None, as_json: bool) -> None:
    """List who may join: state, key and group, reports kept, bytes sent and received."""
    from fedthings.server import devices
    from fedthings.server.roll import shown

    run = directory(out)
    listed = [device for device in devices.costs(run) if group is None or device["group"] == group]
    for device in listed:
        device["key"] = shown(device)
    if as_json:
        show_json({"devices": [{k: v for k, v in device.items() if k != "password"} for device in listed]})
    elif not listed:
        click.echo(f"nobody is on the list of {run}: `fedthings enrol NAME --out {run}` lets a device in")
    else:
        rows = [
            [d["name"], d["state"], d["key"], d["group"] or None, d["reports"], *map(quantity, _bytes(d))]
            for d in listed
        ]
        show_table(("device", "state", "key", "group", "reports", "up", "down"), rows)


def _bytes(device: Mapping[str, Any]) -> tuple[int, int]:
    return device["bytes_up"], device["bytes_down"]


@command.command()
@click.option("--format", "kind", type=click.Choice(["file", "dynsec"]), default="file", show_default=True)
@click.option("--root", metavar="NAME", help="The first level of the topics.  [default: the run's, or ft]")
@as_json
@click.pass_obj
@example("fedthings devices --out runs/wisdm acl --format dynsec")
def acl(out: str | None, kind: str, root: str | None, as_json: bool) -> None:
    """Write who may do what for a mosquitto of your own: its files, or those of its dynamic security plugin.

    To be done again when the list has changed. Passwords are hashes; the coordinator's own is in broker.json.
    """
    from fedthings.server import rights

    files = rights.write(directory(out), kind, root or "")
    if as_json:
        show_json({"files": [str(file) for file in files]})
        return
    for file in files:
        click.echo(str(file))


def tell(out: Path) -> bool:
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
