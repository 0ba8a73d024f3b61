"""`fedthings join`: the device agent. It imports no more than a device needs."""

from __future__ import annotations

from math import inf
from typing import Any

import click

from fedthings.commands import as_json, example, show_json, target
from fedthings.commands.link import federation, link, once, say, way
from fedthings.threads import one_thread


@click.command()
@click.option("--name", help="This device's name.  [default: the token's]")
@click.option("--data", required=True, type=click.Path(), help="Its own rows: npz with X, y, split; or CSV.")
@link
@federation
@once
@target
@click.option("--classes", metavar="A,B,...", help="Names of text labels, in the federation's order.")
@click.option(
    "--state",
    type=click.Path(),
    help="Where it keeps its state and the model.  [default: ~/.fedthings/NAME]",
)
@click.option("--effort", type=click.FloatRange(0.01, 1), help="Its share of the local work, where it may.")
@click.option("--rules", "rules_file", type=click.Path(), help="The owner's rules: a TOML file.")
@click.option(
    "--allow", multiple=True, metavar="PACKAGE.MODULE:FACTORY", help="Run this model, code that is installed here."
)
@click.option(
    "--next-after",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="With several brokers: seconds without a link before the next is tried.",
)
@click.option(
    "--go-back",
    default=300.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="With several brokers: how often in seconds the first is looked for, when linked to another.",
)
@click.option(
    "--wake",
    type=click.FloatRange(1, 86400 * 30),
    help="Sleep: link up every so many seconds only, well below the federation's pace.patience.",
)
@click.option(
    "--awake",
    type=click.FloatRange(0.1),
    default=5.0,
    show_default=True,
    help="With --wake: seconds that the link stays up at the most, training apart.",
)
@click.option("--rate", type=click.FloatRange(1000), metavar="BYTES", help="Most bytes a second of bodies, each way.")
@click.option("--parent", type=int, hidden=True, help="End when this process dies.")
@as_json
@example(
    "fedthings join --token kitchen.token --data kitchen.npz --broker mqtt://hub.local:1883",
    "fedthings join --broker mqtt://west.local --broker mqtt://hub.local --data kitchen.npz \\",
    "    --token west.token --token hub.token",
)
def command(
    name: str | None,
    data: str,
    target: str | None,
    classes: str | None,
    state: str | None,
    effort: float | None,
    rules_file: str | None,
    allow: tuple[str, ...],
    federation: str | None,
    once: bool,
    reconnect: float,
    next_after: float,
    go_back: float,
    wake: float | None,
    awake: float,
    rate: float | None,
    parent: int | None,
    as_json: bool,
    **linked: Any,
) -> int:
    """Take part with this device's own data, in each federation that its rules allow, one task at a time.

    The data stays here: what is sent are reports. The newest model is kept for `fedthings predict`.
    At its first start the device makes its key, and enrols with its token; several --broker are those
    to fall back on, in turn.
    """
    one_thread()
    from fedthings.lifeline import Ending, die_with

    if parent is not None:
        die_with(parent)
    from msgspec.structs import replace

    from fedthings.device.join import join
    from fedthings.device.rules import Rules
    from fedthings.learn.fleet import Fleet
    from fedthings.spelling import read

    ours = way(name, state, **linked)
    rules = read(rules_file, Rules, "the rules") if rules_file else Rules()
    if effort is not None:
        rules = replace(rules, effort=effort)
    if allow:
        rules = replace(rules, allow=(*rules.allow, *allow))
    if federation is not None:
        rules = replace(rules, federations=(federation,))
    shard = Fleet.one(data, ours.name, target, tuple(classes.split(",")) if classes else ())
    with Ending() as ending:
        did = join(
            ours,
            shard,
            ending,
            rules=rules,
            once=once,
            patience=reconnect,
            next_after=next_after,
            go_back=go_back,
            every=wake or 0.0,
            awake=awake,
            rate=rate or inf,
            on_news=say,
        )
    if as_json:
        show_json({"device": ours.name, **did._asdict()})
    return ending.code
