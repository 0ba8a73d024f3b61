"""`fedthings enrol`: tokens, with which devices join."""

from __future__ import annotations

import re

import click

from fedthings.commands import as_json, example, show_json


class Duration(click.ParamType[float]):
    """A time like 30m, 12h, 7d, in seconds."""

    name = "TIME"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+)([smhd])", str(value))
        if found is None or not int(found[1]):
            self.fail(f"{value!r} is no time: give one like 30m, 12h or 7d", param, ctx)
        return float(int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]])


def _bare(context: click.Context, option: click.Parameter, url: str) -> str:
    from fedthings.transport.link import Address

    if url and Address.parse(url).user is not None:
        raise click.UsageError("--broker goes into the token: leave user and password out, which it has itself")
    return url


broker = click.option(
    "--broker",
    default="",
    metavar="URL",
    callback=_bare,
    help="Where they join, into the token: mqtt://HOST:PORT.",
)
root = click.option("--root", metavar="NAME", help="The first level of the topics there.  [default: the run's, or ft]")
"""What is asked of an operator who makes tokens."""


@click.command()
@click.argument("names", nargs=-1)
@click.option("--out", type=click.Path(), help="The run directory.  [default: the one in runs/ that was served last]")
@click.option("--count", type=click.IntRange(1), help="Instead of names: one token for so many devices of any name.")
@click.option("--group", default="", metavar="NAME", help="The group that they are put into.")
@click.option("--expires", type=Duration(), default="30d", show_default=True, help="How long a token can be used.")
@click.option("--approve", is_flag=True, help="Ask the operator: each waits for `fedthings devices approve`.")
@broker
@root
@as_json
@example(
    "fedthings enrol kitchen hall --out runs/house",
    "fedthings enrol --count 10000 --group meters --expires 7d --broker mqtts://hub.local --out runs/city",
)
def command(
    names: tuple[str, ...],
    out: str | None,
    count: int | None,
    group: str,
    expires: float,
    approve: bool,
    broker: str,
    root: str | None,
    as_json: bool,
) -> None:
    """Let devices in: make a token for each of NAMES, to be carried to the device.

    A token is a file, tokens/NAME.token in the run directory, for `fedthings join --token FILE`. The device
    makes its own key, which never leaves it, and enrols it with the token: once, or COUNT devices with one
    token and --count.
    """
    from fedthings.commands.devices import directory, tell
    from fedthings.server import devices

    if bool(names) == (count is not None):
        raise click.UsageError("give names, or --count for one token that many devices use")
    run = directory(out)
    settings = {"group": group, "lasts": expires, "approve": approve, "broker": broker, "root": root or ""}
    files = devices.enrol(run, names, count or 0, **settings)  # type: ignore[arg-type]
    told = tell(run)
    if as_json:
        made = dict(zip(names, map(str, files), strict=False)) if names else {"": str(files[0])}
        show_json({"tokens": made, "running": told})
        return
    for name, file in zip(names or [f"{count} devices"], files, strict=True):
        click.echo(f"{name}  token in {file}")
    click.echo("Carry it to the device, for `fedthings join --token FILE`; then delete it here.")
