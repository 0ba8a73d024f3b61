"""`fedthings helper`: the second server of secure aggregation, which another party runs than the coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fedthings.commands import as_json, example, show_json
from fedthings.commands.link import link, say, way
from fedthings.threads import one_thread


@click.command()
@click.option("--name", help="Its name at the broker, as the federation has it.  [default: the token's, or helper]")
@link
@click.option("--out", type=click.Path(), help="Where it keeps its key and its state.  [default: ~/.fedthings/NAME]")
@click.option("--rules", "rules_file", type=click.Path(), help="What it helps with: a TOML file.")
@as_json
@example(
    "fedthings helper --out helper",
    "fedthings helper --out helper --token helper.token --broker mqtt://hub.local:1883 --rules rules.toml",
)
def command(
    name: str | None,
    out: str | None,
    rules_file: str | None,
    reconnect: float,
    as_json: bool,
    **linked: Any,
) -> int:
    """Be the second server of secure aggregation.

    It holds the key that devices seal their seeds for, and gives its share of a sum once, for enough
    reports. Its public key, made at the first start, belongs into the federation:
    secure=ft.two_servers(helper="..."), and is shown where no token was given yet. The token comes from
    `fedthings enrol helper`, as for a device.
    """
    one_thread()
    from fedthings.device.identity import FILE
    from fedthings.device.way import named
    from fedthings.helper.helper import KEY_FILE
    from fedthings.helper.process import help_out
    from fedthings.helper.rules import Rules
    from fedthings.identity.keys import held, spelled
    from fedthings.lifeline import Ending
    from fedthings.privacy.keys import public_of
    from fedthings.spelling import read

    rules = read(rules_file, Rules, "the rules") if rules_file else Rules()
    name = named(name, linked["token_files"])[0] if linked["token_files"] else name or "helper"
    directory = Path(out).expanduser() if out else Path.home() / ".fedthings" / name
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = spelled(public_of(held(directory / KEY_FILE)))
    if not linked["token_files"] and not (directory / FILE).exists():
        if as_json:
            show_json({"helper": name, "key": key})
        else:
            click.echo(key)
        return 0
    say(f"public key: {key}")
    ours = way(name, str(directory), **linked)
    with Ending() as ending:
        did = help_out(ours, ending, rules=rules, patience=reconnect, on_news=say)
    if as_json:
        show_json({"helper": name, "key": key, **did._asdict()})
    return ending.code
