"""`fedthings gateway`: between a group of devices and the coordinator, or another gateway."""

from __future__ import annotations

from typing import Any

import click

from fedthings.commands import as_json, example, show_json
from fedthings.commands.link import federation, link, once, say, way
from fedthings.threads import one_thread


@click.command()
@click.option("--name", help="This gateway's name, as the coordinator knows it.  [default: the token's]")
@link
@federation
@once
@click.option("--out", type=click.Path(), help="Where it keeps its state.  [default: ~/.fedthings/NAME]")
@click.option(
    "--count", default=0, type=click.IntRange(0), help="Send a sum up at so many reports.  [default: no count]"
)
@click.option(
    "--interval",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.0),
    help="Seconds that a report waits for others. When none is awaited, a sum goes up at once.",
)
@click.option("--below", metavar="URL|KIND", help="The devices' broker; or the kind of our own, mosquitto or amqtt.")
@click.option("--below-root", metavar="NAME", help="Below: the first level of the topics.  [default: ft]")
@click.option("--host", metavar="ADDRESS", help="Own broker: where it listens.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="Own broker: its port.  [default: a free one]")
@click.option(
    "--devices",
    default=0,
    type=click.IntRange(0),
    help="Edge rounds: wait for so many devices before the first.  [default: those on its list]",
)
@click.option("--gateway", "gateways", multiple=True, metavar="NAME", help="A gateway below this one.")
@click.option("--allow", multiple=True, metavar="PACKAGE.MODULE:FACTORY", help="Read tasks with this installed model.")
@as_json
@example(
    "fedthings gateway --token west.token --broker mqtt://hub.local --out gates/west --host 0.0.0.0 --port 1883",
    "fedthings gateway --token west.token --broker mqtt://hub.local --password-file west.password "
    "--below mqtt://hub.local --below-root ft-west",
)
def command(
    name: str | None,
    out: str | None,
    count: int,
    interval: float,
    below: str | None,
    below_root: str | None,
    host: str | None,
    port: int | None,
    devices: int,
    gateways: tuple[str, ...],
    federation: str | None,
    allow: tuple[str, ...],
    once: bool,
    reconnect: float,
    as_json: bool,
    **linked: Any,
) -> int:
    """Sum the reports of a group of devices, and send the sums up.

    Devices join it as they would join the coordinator; the model is the same, bit for bit. The
    coordinator lets it by `fedthings serve --gateway NAME`. Devices are let in with `fedthings enrol`,
    with --out of the gateway here, and of the coordinator there.
    """
    one_thread()
    if below and "://" in below and (host or port):
        raise click.UsageError("--host and --port are for a broker of our own: leave them out with --below URL")
    if below and "://" in below and not below_root and linked["root"] in (None, "ft"):
        raise click.UsageError("the devices' topics need a root of their own there: name one with --below-root")
    from fedthings.device.rules import Rules
    from fedthings.gateway.process import Process, Settings
    from fedthings.lifeline import Ending

    ours = way(name, out, **linked)
    ours.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    rules = Rules(federations=(federation,) if federation else (), allow=allow)
    settings = Settings(count, interval, gateways, rules, below or "", below_root or "", host or "", port or 0, devices)
    with (
        Ending() as ending,
        Process(ours, settings, ending, patience=reconnect, on_news=say) as process,
    ):
        say(f"{ours.name} is linked to {process.up.broker}")
        say(f"devices join it at {process.down.broker} --root {process.root}")
        did = process.run(ending, once)
    if as_json:
        show_json({"gateway": ours.name, **did._asdict()})
    return ending.code
