"""`fedthings serve`: the coordinator, with a broker of its own unless one is named."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedthings.commands import as_json, example, show_json, target
from fedthings.commands.simulate import central_set, show_summary, targets
from fedthings.threads import one_thread

if TYPE_CHECKING:
    from fedthings.server.serve import Server


@click.command()
@click.argument("fed", type=click.Path())
@click.option("--rounds", default=30, show_default=True, type=click.IntRange(1), help="Versions to make.")
@click.option("--out", type=click.Path(), help="Run directory.  [default: runs/NAME]")
@click.option(
    "--broker",
    metavar="URL|KIND",
    help="An MQTT broker, mqtt://coordinator:PASSWORD@HOST:1883; or the kind of our own, mosquitto or amqtt.",
)
@click.option("--host", metavar="ADDRESS", help="Own broker: where it listens.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="Own broker: its port.  [default: a free one]")
@click.option("--http", type=click.IntRange(0, 65535), help="Offer models above 4 MiB over HTTP too, on this port.")
@click.option("--cert", type=click.Path(exists=True), help="With --http: a certificate (PEM), for HTTPS.")
@click.option("--key", type=click.Path(exists=True), help="With --cert: its private key (PEM).")
@click.option("--root", metavar="NAME", help="The first level of the topics.  [default: ft]")
@click.option("--gateway", "gateways", multiple=True, metavar="NAME", help="A device that may speak for others.")
@click.option("--fsync", is_flag=True, help="Survive a loss of power too: each write reaches the disk.")
@click.option("--test", type=click.Path(), help="A central test set: npz with X and y, or CSV.")
@click.option("--init", type=click.Path(), help="A model.safetensors to begin with.")
@click.option("--stop", multiple=True, callback=targets, metavar="METRIC=VALUE", help="End when this is reached.")
@click.option("--trace", is_flag=True, help="Write every event and command to trace.jsonl.")
@click.option("--stay", is_flag=True, help="Stay after the end, for devices that come late.")
@target
@as_json
@example(
    "fedthings serve wisdm.toml --rounds 50 --host 0.0.0.0 --port 1883 --out runs/wisdm",
    "fedthings serve wisdm.toml --broker mqtt://coordinator:secret@hub.local --stop accuracy=0.8",
)
def command(
    fed: str,
    rounds: int,
    out: str | None,
    broker: str | None,
    host: str | None,
    port: int | None,
    http: int | None,
    cert: str | None,
    key: str | None,
    root: str | None,
    gateways: tuple[str, ...],
    fsync: bool,
    test: str | None,
    init: str | None,
    stop: dict[str, float] | None,
    trace: bool,
    stay: bool,
    target: str | None,
    as_json: bool,
) -> int:
    """Coordinate a federation of real devices.

    FED is a TOML file, or a Python file that defines `federation`. Stopped in any way, the same
    command goes on from the last report. Devices are let in with `fedthings devices add`.
    """
    one_thread()
    if broker and (host or port):
        raise click.UsageError("--host and --port are for a broker of our own: leave them out with --broker")
    if (cert or key) and (http is None or not cert):
        raise click.UsageError("--cert and --key are for --http: give all three, or --http alone")
    from fedthings.federation import load
    from fedthings.learn import save
    from fedthings.lifeline import Ending
    from fedthings.progress import Progress
    from fedthings.server.serve import Server

    federation = load(fed)
    directory = Path(out) if out else Path("runs") / federation.name
    with (
        Ending() as ending,
        Progress(rounds) as progress,
        Server(
            federation,
            rounds,
            directory,
            broker=broker or "",
            host=host or "",
            port=port or 0,
            root=root or "",
            init=None if init is None else save.warm(init, federation.task.model),
            test=None if test is None else central_set(test, target, ()),
            stop=stop,
            gateways=gateways,
            fsync=fsync,
            trace=trace,
            http=http,
            certificate=cert or "",
            key=key or "",
            on_version=progress.show,
            on_news=_say,
        ) as server,
    ):
        _say(invitation(server))
        ending.attach(server.wake)
        told = 0.0

        def step() -> None:
            nonlocal told
            if not server.service.history and time.monotonic() > told + 0.2:  # with many devices it costs
                told = time.monotonic()
                progress.say("; ".join(wait.reason for wait in server.service.coordinator.waits))

        result = server.run(ending, stay, step)
    if result is None:
        _say(f"stopped, nothing is lost: the same command goes on with the run in {directory}")
        return ending.code
    if as_json:
        show_json(result.summary)
    else:
        show_summary(result.summary, str(directory))
    return 0


def invitation(server: Server) -> str:
    """Return where devices can join, without secrets."""
    import socket

    from fedthings.server.devices import PASSWORDS

    scheme = "mqtts" if server.address.tls else "mqtt"
    host, own = str(server.address), server.broker.access.host if server.broker else ""
    if own in ("0.0.0.0", "::"):  # others know this machine by its name
        host = f"{socket.gethostname()}:{server.address.port}"
    root = f" --root {server.root}" if server.root != "ft" else ""
    join = f"fedthings join --broker {scheme}://{host} --name NAME --data FILE --password-file NAME.key{root}"
    lines = [f"{server.directory}: devices join with", f"  {join}"]
    add = f"fedthings devices --out {server.directory} add NAME"
    if server.names:
        lines.append(f"{len(server.names)} devices may join; their passwords are in {server.directory / PASSWORDS}")
    elif server.broker is not None:
        lines.append(f"nobody may join yet: `{add}` lets a device in, now or later")
    else:
        lines.append(f"every device that the broker lets in may join; `{add}` makes it a list of names")
    leader = server.service.leader
    if leader is not None:
        at = f"fedthings helper --broker {scheme}://{host} --name {leader.spec.name}{root}"
        lines.append(
            f"sums wait for the helper, `{at}`; for its rules, this coordinator's key: {leader.facts['leader']}"
        )
    if own in ("127.0.0.1", "::1", "localhost"):
        lines.append("only from this machine: start with --host 0.0.0.0 for others")
    return "\n".join(lines)


def _say(text: str) -> None:
    click.echo(text, err=True)
