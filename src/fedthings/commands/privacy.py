"""`fedthings privacy`: what a run has cost its devices in privacy, and what that number rests on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedthings.commands import as_json, example, show_json

if TYPE_CHECKING:
    from fedthings.federation import Federation


@click.command()
@click.argument("run", type=click.Path())
@as_json
@example("fedthings privacy runs/wisdm", "fedthings privacy runs/wisdm --json")
def command(run: str, as_json: bool) -> None:
    """Print the privacy ledger of a run.

    Epsilon now and at the end of the training in RUN, by which mechanism, and what
    the claim rests on; in secure mode, what each server sees of reports. With
    --json, every release too.
    """
    from fedthings.privacy import ledger

    directory = Path(run)
    federation = _federation(directory)
    if federation is not None and federation.local is not None:
        from fedthings.statistics import randomised

        claimed = randomised.said(federation.query, federation.local)
        if as_json:
            show_json({"epsilon": federation.local.epsilon, "delta": 0, "rests_on": claimed})
        else:
            _say(claimed)
        return
    sees = _seen(federation)
    if sees and not (directory / ledger.FILE).is_file():
        if as_json:
            show_json({"epsilon": None, "seen": sees})
            return
        click.echo(f"{'epsilon':14}none is claimed: nothing bounds what the models, made of many sums, tell")
        _say(sees)
        return
    claim, lines = ledger.read(directory)
    found = ledger.status(claim, lines)
    if as_json:
        show_json({**found, **({"seen": sees} if sees else {}), "ledger": lines})
        return
    _show(found)
    _say(sees)


def _federation(directory: Path) -> Federation | None:
    """Return the federation of a run; None where it is not there."""
    from fedthings.federation import load
    from fedthings.run import FEDERATION

    file = directory / FEDERATION
    return load(file) if file.is_file() else None


def _seen(federation: Federation | None) -> list[str]:
    """Return what the servers of the secure mode of a run see, a sentence each; [] where there is no such mode."""
    from fedthings import hidden

    if federation is None or federation.secure is None:
        return []
    return hidden.seen(federation.secure, claimed=federation.privacy is not None)


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
        "mechanism": f"{name}{details}; noise {found['multiplier']:.3f} times the clipping bound"
        + (", from each of two servers" if found["servers"] == 2 else ""),
        "clipping": ", ".join(f"{field} {value}" for field, value in found["clip"].items()),
    }
    for title, said in lines.items():
        click.echo(f"{title:14}{said}")
    _say(found["rests_on"])


def _say(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        title, _, said = sentence.partition(": ")
        click.echo(f"{title:14}{said}")
