"""`fedthings privacy`: what a run has cost its devices in privacy, and what that number rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fedthings.commands import as_json, example, show_json


@click.command()
@click.argument("run", type=click.Path())
@as_json
@example("fedthings privacy runs/wisdm", "fedthings privacy runs/wisdm --json")
def command(run: str, as_json: bool) -> None:
    """Print the privacy ledger of a run.

    Epsilon now and at the end of the training in RUN, by which mechanism, and what
    the claim rests on. With --json, every release too.
    """
    from fedthings.privacy import ledger

    claim, lines = ledger.read(Path(run))
    found = ledger.status(claim, lines)
    if as_json:
        show_json({**found, "ledger": lines})
        return
    _show(found)


def _show(found: dict[str, Any]) -> None:
    delta = f"at delta {found['delta']:g}"
    kind = {**found["mechanism"]}
    name = kind.pop("kind")
    details = "".join(f", {field} {value}" for field, value in kind.items())
    lines = {
        "epsilon now": f"{found['epsilon']:.3f} {delta}, after {found['releases']:,} releases "
        f"of {found['reports']:,} reports",
        "at the end": f"{found['projected']:.3f}, after {found['allowed']:,} of {found['planned']:,} versions planned",
        "budget": f"{found['budget']:g}"
        + (f", of which {found['spent_before'][0]:g} was spent before" if any(found["spent_before"]) else ""),
        "mechanism": f"{name}{details}; noise {found['multiplier']:.3f} times the clipping bound",
        "clipping": ", ".join(f"{field} {value}" for field, value in found["clip"].items()),
    }
    for title, said in lines.items():
        click.echo(f"{title:14}{said}")
    for sentence in found["rests_on"]:
        title, _, said = sentence.partition(": ")
        click.echo(f"{title:14}{said}")
