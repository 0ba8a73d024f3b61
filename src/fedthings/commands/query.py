"""`fedthings query`: one question to a fleet, answered from sums; in virtual time or by real devices."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any

import click

from fedthings.commands import as_json, device, example, show_json, target, text
from fedthings.commands.link import ca, password, trusted, with_password
from fedthings.threads import one_thread

if TYPE_CHECKING:
    from fedthings.federation import Federation
    from fedthings.server.service import Service


@click.command()
@click.argument("question", metavar="QUERY")
@click.option("--fleet", "data", type=click.Path(), help="Simulate: npz with X, y, device, split; or CSV.")
@click.option(
    "--broker",
    metavar="URL|KIND",
    help="Ask real devices: mqtt://HOST:1883; or the kind of a broker of our own.",
)
@password
@ca
@click.option("--enrolled", type=click.Path(), help="The run directory whose devices are asked.  [default: --out]")
@click.option("--host", metavar="ADDRESS", help="Own broker: where it listens.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="Own broker: its port.  [default: a free one]")
@click.option("--root", metavar="NAME", help="The first level of the topics.  [default: ft]")
@click.option("--gateway", "gateways", multiple=True, metavar="NAME", help="A device that may speak for others.")
@click.option("--helper", metavar="KEY", help="Secure mode: the public key of the helper (docs/secure.md).")
@click.option(
    "--epsilon",
    type=float,
    help="Each device adds noise of its own: what its answer costs it, whatever its data (mean, histogram, labels).",
)
@click.option("--between", nargs=2, type=float, metavar="LOW HIGH", help="With --epsilon: the bounds of a mean.")
@click.option("--out", type=click.Path(), help="Run directory.  [default: none is kept]")
@click.option("--quorum", type=click.IntRange(1), help="Fewer devices give no answer.  [default: 2]")
@click.option("--devices", type=click.IntRange(1), help="Begin when so many are there.  [default: the quorum]")
@click.option(
    "--patience", type=click.FloatRange(0.1), default=60.0, show_default=True, help="Seconds a device has for a round."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1),
    default=600.0,
    show_default=True,
    help="Seconds to wait at the most.",
)
@target
@device
@as_json
@example(
    "fedthings query 'quantiles(temperature, [.05, .5, .95])' --fleet rooms.csv",
    "fedthings query 'mean(temperature, humidity)' --enrolled runs/house --host 0.0.0.0 --port 1883 --devices 20",
    "fedthings query 'mean(power)' --fleet homes.csv --epsilon 1 --between 0 3000",
)
def command(
    question: str,
    data: str | None,
    broker: str | None,
    password_file: str | None,
    ca: str | None,
    enrolled: str | None,
    host: str | None,
    port: int | None,
    root: str | None,
    gateways: tuple[str, ...],
    helper: str | None,
    epsilon: float | None,
    between: tuple[float, float] | None,
    out: str | None,
    quorum: int | None,
    devices: int | None,
    patience: float,
    timeout: float,
    target: str | None,
    device: str | None,
    as_json: bool,
) -> int:
    """Ask a fleet one question about its data.

    QUERY is count, sum, mean, variance, deviation, min, max, median, quantiles, histogram, missing, labels or drift,
    of columns by name or number. Only sums leave a device, as in training (docs/queries.md).
    """
    one_thread()
    if bool(data) == bool(broker or host or port):
        raise click.UsageError("give --fleet FILE to simulate, or --broker (or --port) to ask real devices")
    if not data and not enrolled and not out:
        raise click.UsageError("whose devices? name the run directory that they are enrolled in with --enrolled")
    from fedthings.federation import QUORUM
    from fedthings.federation import question as federation
    from fedthings.privacy.local import LocalDp
    from fedthings.privacy.shares import TwoServers

    if between and epsilon is None:
        raise click.UsageError("--between bounds what devices tell with noise of their own: give --epsilon too")
    local = None if epsilon is None else LocalDp(epsilon, between or ())
    secure = None if helper is None else TwoServers(helper)
    asked = federation(question, quorum or QUORUM, devices or 0, patience, secure=secure, local=local)
    if data:
        summary = _simulated(asked, data, target, device, out)
    else:
        served: dict[str, Any] = {
            "broker": with_password(broker or "", password_file),
            "host": host or "",
            "port": port or 0,
        }
        served |= {"root": root or "", "gateways": gateways, "tls": trusted(ca)}
        served["roll"] = Path(enrolled) if enrolled else None
        found, code = _served(asked, out, timeout, served)
        if found is None:
            return code
        summary = found
    if as_json:
        show_json({**summary["answer"], **{name: summary[name] for name in ("rounds", "seconds")}})
    else:
        _show(summary["answer"])
    return 0


def _simulated(asked: Federation, data: str, target: str | None, device: str | None, out: str | None) -> dict[str, Any]:
    from msgspec.structs import replace

    from fedthings.learn.fleet import Fleet
    from fedthings.simulation.simulator import simulate

    fleet = Fleet.read(data, target, device)
    return simulate(replace(asked, devices=asked.devices or len(fleet)), fleet, 1, out=out).summary


def _served(
    asked: Federation, out: str | None, timeout: float, settings: dict[str, Any]
) -> tuple[dict[str, Any] | None, int]:
    """Return the summary of the query that real devices answer; None, and the exit code, where it is stopped."""
    from fedthings.commands.serve import invitation
    from fedthings.errors import TransportError
    from fedthings.lifeline import Ending
    from fedthings.server.serve import Server
    from fedthings.server.serving import Terms

    with ExitStack() as stack:
        directory = Path(out) if out else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedthings-")))
        ending = stack.enter_context(Ending())
        server = stack.enter_context(Server([Terms(asked, 1)], directory, on_news=_say, **settings))
        _say(invitation(server))
        ending.attach(server.wake)
        late: list[bool] = []

        def ring() -> None:
            late.append(True)
            server.wake()

        timer = Timer(timeout, ring)
        timer.daemon = True
        timer.start()
        stack.callback(timer.cancel)

        def step() -> None:
            unanswerable(server.service)
            if late and not server.service.done:
                waits = "; ".join(wait.reason for wait in server.service.coordinator.waits)
                raise TransportError(f"no answer after {timeout:g} s, waiting for {waits or 'reports'}: see --devices")

        runs = server.run(ending, on_step=step)
        return (None if runs is None else runs[0].summary), ending.code


def unanswerable(service: Service) -> None:
    """Raise DataError, with what they say, where all devices that are there have declined to answer."""
    from fedthings.errors import DataError

    coordinator, dropped = service.coordinator, service.engine.tally.dropped
    if not dropped or coordinator.done or coordinator.tasks or coordinator.kept:
        return
    if sum(dropped.values()) >= max(len(coordinator.present), 1):
        said = "; ".join(f"{count} said: {reason}" for reason, count in dropped.most_common(3))
        raise DataError(f"no device answers {service.engine.federation.query!r}: {said}")


def _show(answer: dict[str, Any]) -> None:
    value = answer["value"]
    if isinstance(value, dict):
        for name, one in value.items():
            click.echo(f"{name:14}{_said(one)}")
    else:
        click.echo(_said(value))
    if answer.get("epsilon") is not None:
        error = answer["error"] if isinstance(answer["error"], dict) else {"": answer["error"]}
        if answer["missing"] is not None:
            click.echo(f"{'missing':14}{_said(answer['missing'])}")
        click.echo(
            f"standard error {', '.join(f'{name} {_said(one)}'.strip() for name, one in error.items())}", err=True
        )
        click.echo(f"of {answer['devices']:,} devices, each at a cost of epsilon {answer['epsilon']:g}", err=True)
        return
    missing = f", {answer['missing']:,} more without a value" if answer["missing"] else ""
    click.echo(f"of {answer['devices']:,} devices and {answer['samples']:,} samples{missing}", err=True)


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_said, value))
    return f"{value:.7g}" if isinstance(value, float) else text(value)


def _say(said: str) -> None:
    click.echo(said, err=True)
