"""`fedthings serve`: the coordinator, with a broker of its own unless one is named."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedthings.commands import as_json, example, show_json, target
from fedthings.commands.link import ca, password, trusted, with_password
from fedthings.commands.simulate import central_set, show_summary, targets
from fedthings.threads import one_thread

if TYPE_CHECKING:
    from fedthings.federation import Federation
    from fedthings.history import Line
    from fedthings.progress import Progress
    from fedthings.server.serve import Server
    from fedthings.server.serving import Terms


@click.command()
@click.argument("feds", metavar="FED...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--rounds", default=["30"], show_default=True, multiple=True, metavar="[NAME:]N", help="Versions to make."
)
@click.option("--out", type=click.Path(), help="Run directory.  [default: runs/NAME]")
@click.option(
    "--broker",
    metavar="URL|KIND",
    help="An MQTT broker, mqtt://HOST:1883; or the kind of our own, mosquitto or amqtt.",
)
@click.option("--host", metavar="ADDRESS", help="Own broker: where it listens.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="Own broker: its port.  [default: a free one]")
@click.option("--http", type=click.IntRange(0, 65535), help="Offer models above 4 MiB over HTTP too, on this port.")
@click.option("--cert", type=click.Path(exists=True), help="With --http: a certificate (PEM), for HTTPS.")
@click.option("--key", type=click.Path(exists=True), help="With --cert: its private key (PEM).")
@password
@ca
@click.option("--enrolled", type=click.Path(), help="Use the devices of this run directory, and its key.")
@click.option("--root", metavar="NAME", help="The first level of the topics.  [default: ft]")
@click.option("--gateway", "gateways", multiple=True, metavar="NAME", help="A device that may speak for others.")
@click.option("--fsync", is_flag=True, help="Survive a loss of power too: each write reaches the disk.")
@click.option("--test", multiple=True, metavar="[NAME:]FILE", help="A central test set: npz with X and y, or CSV.")
@click.option("--init", multiple=True, metavar="[NAME:]FILE", help="A model.safetensors to begin with.")
@click.option("--stop", multiple=True, metavar="[NAME:]METRIC=VALUE", help="End when this is reached.")
@click.option("--trace", is_flag=True, help="Write every event and command to trace.jsonl.")
@click.option("--stay", is_flag=True, help="Stay after the end, for devices that come late.")
@target
@as_json
@example(
    "fedthings serve wisdm.toml --rounds 50 --host 0.0.0.0 --port 1883 --out runs/wisdm",
    "fedthings serve wisdm.toml --broker mqtts://hub.local --password-file coordinator.password --stop accuracy=0.8",
    "fedthings serve wisdm.toml power.toml --rounds 50 --rounds power:20 --out runs/house",
)
def command(
    feds: tuple[str, ...],
    rounds: tuple[str, ...],
    out: str | None,
    broker: str | None,
    password_file: str | None,
    ca: str | None,
    host: str | None,
    port: int | None,
    http: int | None,
    cert: str | None,
    key: str | None,
    enrolled: str | None,
    root: str | None,
    gateways: tuple[str, ...],
    fsync: bool,
    test: tuple[str, ...],
    init: tuple[str, ...],
    stop: tuple[str, ...],
    trace: bool,
    stay: bool,
    target: str | None,
    as_json: bool,
) -> int:
    """Coordinate a federation of real devices, or several on one fleet.

    FED is a TOML file, or a Python file that defines `federation`. Stopped in any way, the same
    command goes on from the last report. Devices are let in with `fedthings enrol`.

    Several federations share the devices, each of which works for one at a time; each has its run in a
    directory of its own, OUT/NAME. NAME: before a value is for that federation only.
    """
    one_thread()
    if broker and (host or port):
        raise click.UsageError("--host and --port are for a broker of our own: leave them out with --broker")
    if (cert or key) and (http is None or not cert):
        raise click.UsageError("--cert and --key are for --http: give all three, or --http alone")
    from fedthings.federation import load
    from fedthings.lifeline import Ending
    from fedthings.progress import Progress
    from fedthings.server.serve import Server

    federations = [load(fed) for fed in feds]
    names = [federation.name for federation in federations]
    directory = Path(out) if out else Path("runs") / "-".join(names)
    served = [
        _terms(f, {"rounds": rounds, "test": test, "init": init, "stop": stop}, names, target) for f in federations
    ]
    with (
        Ending() as ending,
        Progress(sum(terms.rounds for terms in served)) as progress,
        Server(
            [terms._replace(on_version=_shown(progress, terms, names)) for terms in served],
            directory,
            broker=with_password(broker or "", password_file),
            tls=trusted(ca),
            roll=Path(enrolled) if enrolled else None,
            host=host or "",
            port=port or 0,
            root=root or "",
            gateways=gateways,
            fsync=fsync,
            trace=trace,
            http=http,
            certificate=cert or "",
            key=key or "",
            on_news=_say,
        ) as server,
    ):
        _say(invitation(server))
        ending.attach(server.wake)
        services = server.services.services
        told = 0.0

        def step() -> None:
            nonlocal told
            if not any(service.history for service in services) and time.monotonic() > told + 0.2:  # it costs
                told = time.monotonic()
                progress.say("; ".join(wait.reason for service in services for wait in service.coordinator.waits))

        runs = server.run(ending, stay, step)
    if runs is None:
        _say(f"stopped, nothing is lost: the same command goes on with the run in {directory}")
        return ending.code
    if as_json:
        summaries = {name: run.summary for name, run in zip(names, runs, strict=True)}
        show_json(summaries if len(runs) > 1 else runs[0].summary)
        return 0
    for name, run, where in zip(names, runs, server.directories, strict=True):
        if len(runs) > 1:
            click.echo(f"\n{name}")
        show_summary(run.summary, str(where))
    return 0


def _terms(federation: Federation, given: Mapping[str, tuple[str, ...]], names: list[str], csv: str | None) -> Terms:
    """Return what is to be made of `federation`, one of `names`, by what was `given` for all and for it."""
    from fedthings.learn import save
    from fedthings.server.serving import Terms

    ours = {option: _for_one(option, values, federation.name, names) for option, values in given.items()}
    rounds = ours["rounds"][-1]
    if not rounds.isdecimal() or int(rounds) < 1:
        raise click.BadParameter(f"{rounds!r} is not a number of at least 1", param_hint="--rounds")
    return Terms(
        federation,
        int(rounds),
        save.warm(ours["init"][-1], federation.task.model) if ours["init"] else None,
        central_set(ours["test"][-1], csv, ()) if ours["test"] else None,
        targets(ours["stop"]),
    )


def _for_one(option: str, values: tuple[str, ...], name: str, names: list[str]) -> list[str]:
    """Return the values for the federation `name`: those that name it, or else those that name none."""
    own, of_all = [], []
    for value in values:
        before, colon, rest = value.partition(":")
        if len(names) == 1 or not colon or not re.fullmatch(r"[A-Za-z0-9_-]+", before):
            of_all.append(value)
        elif before not in names:
            raise click.BadParameter(f"there is no federation {before!r}: {', '.join(names)}", param_hint=f"--{option}")
        elif before == name:
            own.append(rest)
    return own or of_all


def _shown(progress: Progress, terms: Terms, names: list[str]) -> Callable[[Line], None]:
    """Return what shows the versions of one federation; those of several bear its name."""
    if len(names) == 1:
        return progress.show
    from fedthings.progress import words

    up = down = 0

    def show(line: Line) -> None:
        nonlocal up, down
        up, down = up + line["bytes_up"], down + line["bytes_down"]
        progress.say(f"{terms.federation.name}: {words(line, terms.rounds, up, down)}")

    return show


def invitation(server: Server) -> str:
    """Return where devices can join, without secrets."""
    import socket

    from fedthings.identity.keys import fingerprint

    scheme = "mqtts" if server.address.tls else "mqtt"
    host, own = str(server.address), server.broker.access.host if server.broker else ""
    if own in ("0.0.0.0", "::"):  # others know this machine by its name
        host = f"{socket.gethostname()}:{server.address.port}"
    root = f" --root {server.root}" if server.root != "ft" else ""
    join = f"fedthings join --broker {scheme}://{host} --token NAME.token --data FILE{root}"
    lines = [f"{server.directory}: devices join with", f"  {join}"]
    if server.admission.names:
        lines.append(f"{len(server.admission.names)} devices may join")
    else:
        add = f"fedthings enrol NAME --out {server.home}"
        lines.append(f"nobody may join yet: `{add}` lets a device in, now or later")
    lines.append(f"the fingerprint of this coordinator's key: {fingerprint(server.admission.seal.public)}")
    leader = server.service.leader
    if leader is not None:
        at = f"fedthings helper --broker {scheme}://{host} --token {leader.spec.name}.token{root}"
        lines.append(f"sums wait for the helper: `{at}`, where its key is")
        lines.append(f"this coordinator's key for sums, for the helper's rules: {leader.facts['leader']}")
    if own in ("127.0.0.1", "::1", "localhost"):
        lines.append("only from this machine: start with --host 0.0.0.0 for others")
    return "\n".join(lines)


def _say(text: str) -> None:
    click.echo(text, err=True)
