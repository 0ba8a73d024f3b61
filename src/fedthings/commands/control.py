"""`fedthings status`, `pause`, `resume`, `cancel`: a running federation, asked over MQTT as its operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fedthings.commands import as_json, example, show_json, text
from fedthings.commands.link import ca, password, trusted, with_password
from fedthings.units import quantity

run = click.argument("run", required=False, type=click.Path())
broker = click.option("--broker", metavar="URL", help="Instead of the run directory: mqtt://HOST.")
root = click.option("--root", metavar="NAME", help="The first level of the topics.  [default: ft]")
federation = click.option("--federation", metavar="NAME", help="Where several are served together: this one.")


@click.command()
@run
@broker
@password
@ca
@root
@federation
@as_json
@example(
    "fedthings status runs/wisdm", "fedthings status --broker mqtt://hub.local --password-file coordinator.password"
)
def status(
    run: str | None,
    broker: str | None,
    password_file: str | None,
    ca: str | None,
    root: str | None,
    federation: str | None,
    as_json: bool,
) -> None:
    """Tell what a federation does and what it waits for, or each of several.

    RUN is a run directory, or else the one in runs/ that was served last. Where no coordinator
    answers, it is what the directory's state tells.
    """
    from fedthings.errors import TransportError
    from fedthings.server.ask import ask, remembered

    where = directory(run, broker)
    try:
        url = with_password(broker or "", password_file)
        facts = ask("status", where, url, root or "", federation or "", trusted(ca))
    except TransportError as error:
        if where is None:
            raise
        click.echo(f"{error}", err=True)
        facts = remembered(where, federation or "")
    show_json(facts) if as_json else show(facts)


def order(verb: str, done: str, help: str) -> click.Command:
    """Return the command that sends `verb` to a coordinator; `done` is what it says then."""

    def command(
        run: str | None,
        broker: str | None,
        password_file: str | None,
        ca: str | None,
        root: str | None,
        federation: str | None,
        as_json: bool,
    ) -> None:
        from fedthings.server.ask import ask

        url = with_password(broker or "", password_file)
        facts = ask(verb, directory(run, broker), url, root or "", federation or "", trusted(ca))
        if as_json:
            show_json(facts)
            return
        click.echo(done)
        show(facts)

    command.__doc__ = f"{help}\n\nRUN is a run directory, or else the one in runs/ that was served last."
    shown = example(f"fedthings {verb} runs/wisdm")(command)
    return click.command(verb)(run(broker(password(ca(root(federation(as_json(shown))))))))


pause = order(
    "pause",
    "paused: what is under way is finished, and nothing new given out until `fedthings resume`",
    "Give out no new work until `fedthings resume`.",
)
resume = order("resume", "running again", "Go on after a pause.")
cancel = order("cancel", "ended with the model there is", "End a federation now, with the model there is.")


def directory(run: str | None, broker: str | None) -> Path | None:
    """Return the run directory to ask about; None where only a broker is named. Raises StoreError."""
    from fedthings.errors import StoreError
    from fedthings.server.place import newest

    if run is not None:
        if not Path(run).is_dir():
            raise StoreError(f"there is no run directory {run}: name the one that `fedthings serve` prints")
        return Path(run)
    if broker:
        return None
    found = newest()
    if found is None:
        raise StoreError("no run in runs/ was ever served: name a run directory, or --broker URL")
    return found


def show(facts: dict[str, Any]) -> None:
    """Print a status as a page for people; of several federations, a page each."""
    for number, one in enumerate(facts.get("federations", [facts])):
        if number:
            click.echo()
        for title, said in page(one):
            click.echo(f"{title:12}{said}")


def page(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of a status, each with its title."""
    ended = f" ({facts['reason']})" if facts.get("reason") else ""
    rounds = f" of {facts['rounds']}" if facts.get("rounds") else ""
    lines = [
        ("federation", f"{facts['federation']}: {facts['state']}{ended}, {facts['time']:.0f} s"),
        ("phase", f"{facts['phase']}, version {facts['version']}{rounds}"),
    ]
    lines += [("waits for", _wait(wait)) for wait in facts["waiting"]]
    if facts.get("gateway"):
        lines.append(("devices", f"{facts['present']} present, {len(facts['at_work'])} at work{_some(facts)}"))
        lines.append(("reports", f"{facts['held']} held, {facts['merged']} sent on in {facts['sums']} sums"))
    elif facts["state"] in ("running", "paused"):
        lines.append(("devices", f"{facts['present']} present, {len(facts['at_work'])} at work{_some(facts)}"))
        lines.append(("reports", f"{facts['kept']} of {facts['goal']} in for the next version"))
    if facts.get("edge"):
        lines.append(("sent up", f"{facts['merged']} reports of devices in {facts['sums']} of the edge's"))
    last = facts.get("last")
    if last:
        measured = ", ".join(f"{name} {text(value)}" for name, value in (last.get("test") or last["metrics"]).items())
        lines.append(
            (f"version {last['version']} ", f"{measured or 'not measured'}; {last['updates']} reports{_ago(facts)}")
        )
        lines.append(("", f"{quantity(last['bytes_up'])} up, {quantity(last['bytes_down'])} down"))
    if facts.get("gateways"):
        lines.append(("gateways", ", ".join(f"{name}: {n} devices" for name, n in facts["gateways"].items())))
    for title, key in (("left out", "dropped"), ("refused", "refused")):
        if facts.get(key):
            lines.append((title, ", ".join(f"{n} {reason}" for reason, n in facts[key].items())))
    return lines


def _ago(facts: dict[str, Any]) -> str:
    """Say how long ago the last version was made: a fleet that has vanished makes none."""
    made = facts["time"] - facts["last"]["time"]
    return f", {made:.0f} s ago" if facts["state"] in ("running", "paused") else ""


def _wait(wait: dict[str, Any]) -> str:
    left = wait["seconds"]
    return f"{wait['for']}" + (f" (at most {left:.0f} s more)" if left is not None else "")


def _some(facts: dict[str, Any]) -> str:
    names = facts["at_work"]
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f": {', '.join(names[:6])}{more}" if names else ""
