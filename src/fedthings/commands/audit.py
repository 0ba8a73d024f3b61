"""`fedthings audit`: how much an attack on the simulated federation shows of one device, beside what is claimed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fedthings.commands import as_json, device, example, fleet, show_json, target

if TYPE_CHECKING:
    from fedthings.simulation.audit import Audited


@click.command()
@click.argument("fed", type=click.Path())
@fleet
@click.option("--rounds", default=30, show_default=True, type=click.IntRange(1), help="Versions to make.")
@click.option(
    "--canaries", type=click.IntRange(2), help="Devices to attack.  [default: half of the fleet, at most 1,000]"
)
@click.option(
    "--confidence",
    default=0.95,
    show_default=True,
    type=click.FloatRange(0.5, 1, max_open=True),
    help="With which the figure holds.",
)
@click.option("--seed", type=click.IntRange(0), help="Instead of the federation's seed.")
@target
@device
@as_json
@example("fedthings audit wisdm.toml --fleet wisdm_v11.npz --rounds 50")
def command(
    fed: str,
    data: str,
    rounds: int,
    canaries: int | None,
    confidence: float,
    seed: int | None,
    target: str | None,
    device: str | None,
    as_json: bool,
) -> int:
    """Attack a federation in simulation: a lower bound on epsilon.

    Some devices become canaries, which a coin puts in or leaves out; who has all
    versions of the model guesses the coins. The exit code is 1 where that
    shows more than is claimed.
    """
    from msgspec.structs import replace

    from fedthings.federation import load
    from fedthings.learn.fleet import Fleet
    from fedthings.progress import Progress
    from fedthings.simulation.audit import audit

    federation = load(fed)
    if seed is not None:
        federation = replace(federation, seed=seed)
    fleet = Fleet.read(data, target, device)
    with Progress(rounds) as progress:
        found = audit(federation, fleet, rounds, canaries or 0, confidence, progress.show)
    holds = found.claimed is None or found.shown.epsilon <= found.claimed
    if as_json:
        shown = found.shown._asdict()
        facts = {"claimed": found.claimed, "delta": found.delta, "confidence": confidence, "holds": holds}
        show_json({**shown, **facts, "canaries": found.canaries, "reported": found.reported})
    else:
        _show(found, confidence, len(fleet), holds)
    return 0 if holds else 1


def _show(found: Audited, confidence: float, devices: int, holds: bool) -> None:
    shown = found.shown
    at = f"at delta {found.delta:g}"
    if not holds:
        means = (
            f"THE CLAIM DOES NOT HOLD, unless this is the one case in {1 / (1 - confidence):.0f} that chance explains"
        )
    elif found.claimed is None:
        means = (
            "who has the models can tell whether a device took part at least that well; nothing bounds it from above"
        )
    else:
        means = "this attack does not contradict the claim; what is true lies between the two"
    lines = {
        "claimed": "nothing" if found.claimed is None else f"epsilon {found.claimed:.3f} {at}",
        "shown": f"epsilon at least {shown.epsilon:.3f} {at}, with {100 * confidence:g} % confidence: "
        f"{shown.correct:,} of {shown.guesses:,} guesses were right",
        "canaries": f"{found.canaries:,} of {devices:,} devices, of which {found.reported:,} reported; they could have "
        f"shown {shown.most:.3f} at the most",
        "means": means,
        "attacker": "has every version, and knows the data of all others, who was there when (unless the claim rests "
        "on nobody knowing that), and all of a canary but whether it was in",
        "means not": "that a low figure is privacy: another attack may show more. Only the claim bounds all of them",
    }
    for title, said in lines.items():
        click.echo(f"{title:14}{said}")
