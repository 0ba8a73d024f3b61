"""`fedthings helper`: the second server of secure aggregation, which another party runs than the coordinator."""

from __future__ import annotations

from pathlib import Path

import click

from fedthings.commands import as_json, example, show_json
from fedthings.commands.link import PASSWORD, linked, say
from fedthings.threads import one_thread


@click.command()
@click.option("--broker", metavar="URL", help="mqtt://HOST:PORT or mqtts://HOST:PORT.  [default: show the key and end]")
@click.option("--name", default="helper", show_default=True, help="Its name at the broker, as the federation has it.")
@click.option(
    "--password-file",
    type=click.Path(),
    help=f"A file that holds the password.  [default: the environment's {PASSWORD}]",
)
@click.option("--out", type=click.Path(), help="Where it keeps its key and its state.  [default: ~/.fedthings/NAME]")
@click.option("--rules", "rules_file", type=click.Path(), help="What it helps with: a TOML file.")
@click.option("--root", default="ft", show_default=True, help="The first level of the topics.")
@click.option(
    "--reconnect",
    default=60.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="Longest wait in seconds before a lost link is tried again.",
)
@as_json
@example(
    "fedthings helper --out helper",
    "fedthings helper --broker mqtt://hub.local:1883 --out helper --password-file helper.key --rules rules.toml",
)
def command(
    broker: str | None,
    name: str,
    password_file: str | None,
    out: str | None,
    rules_file: str | None,
    root: str,
    reconnect: float,
    as_json: bool,
) -> int:
    """Be the second server of secure aggregation.

    It holds the key that devices seal their seeds for, and gives its share of a sum once, for enough
    reports. Its public key, made at the first start, belongs into the federation:
    secure=ft.two_servers(helper="..."). Let it in with `fedthings devices add helper`.
    """
    one_thread()
    from fedthings.helper.helper import KEY_FILE
    from fedthings.helper.process import help_out
    from fedthings.helper.rules import Rules
    from fedthings.lifeline import Ending
    from fedthings.privacy.keys import held, public_of, spelled
    from fedthings.spelling import read

    rules = read(rules_file, Rules, "the rules") if rules_file else Rules()
    directory = Path(out).expanduser() if out else Path.home() / ".fedthings" / name
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = spelled(public_of(held(directory / KEY_FILE)))
    if broker is None:
        if as_json:
            show_json({"helper": name, "key": key})
        else:
            click.echo(key)
        return 0
    say(f"public key: {key}")
    (url,) = linked((broker,), name, (password_file,) if password_file else ())
    with Ending() as ending:
        did = help_out(name, url, directory, ending, rules=rules, root=root, patience=reconnect, on_news=say)
    if as_json:
        show_json({"helper": name, "key": key, **did._asdict()})
    return ending.code
