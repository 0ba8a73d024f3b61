"""The ledger: every release of a run, what it has cost, and in words what the number rests on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fedthings.errors import StoreError
from fedthings.privacy.blt import Blt
from fedthings.privacy.central import Claim
from fedthings.privacy.clip import AdaptiveClip
from fedthings.privacy.mechanism import Tree
from fedthings.spelling import decode

FILE = "privacy.jsonl"
"""In a run directory: the claim in the first line, then a line for each release."""
Line = Mapping[str, Any]


def text(claim: Claim, lines: Sequence[Line]) -> str:
    """Return the ledger as it is written."""
    return "".join(map(line, (msgspec.to_builtins(claim), *lines)))


def line(content: Line) -> str:
    """Return one line of it."""
    return json.dumps(content) + "\n"


def read(directory: Path) -> tuple[Claim, list[dict[str, Any]]]:
    """Return the claim and the releases of a run directory. Raises StoreError."""
    file = directory / FILE
    if not file.is_file():
        raise StoreError(
            f"{directory} has no ledger {FILE}: it is no run directory, or its federation makes no privacy claim "
            "(give it privacy=ft.central_dp(...))"
        )
    try:
        first, *lines = [json.loads(line) for line in file.read_text().splitlines()]
        return decode(first, Claim), lines
    except ValueError as error:
        raise StoreError(f"{file} is damaged ({error}): bring it back from a copy") from None


def status(claim: Claim, lines: Sequence[Line]) -> dict[str, Any]:
    """Return what a run has cost, will cost, and what that rests on. Raises SpecError without dp-accounting."""
    privacy = claim.privacy
    return {
        "epsilon": claim.epsilon(len(lines)),
        "projected": claim.epsilon(claim.versions),
        "budget": privacy.epsilon,
        "delta": privacy.delta,
        "spent_before": list(privacy.spent),
        "releases": len(lines),
        "allowed": claim.versions,
        "planned": claim.planned,
        "reports": sum(release["reports"] for release in lines),
        "mechanism": msgspec.to_builtins(privacy.mechanism),
        "multiplier": claim.multiplier,
        "clip": msgspec.to_builtins(claim.clip),
        "noise": claim.source,
        "servers": 2 if claim.shared else 1,
        "unit": "device",
        "rests_on": rests_on(claim),
    }


def rests_on(claim: Claim) -> list[str]:
    """Return what the claim rests on, a sentence each."""
    return [
        "unit: a device, with all of its data and all of its reports; the claim compares a fleet with one in which the "
        "device's reports are zero",
        _participation(claim),
        _trust(claim),
        "names: a device counts as one under each name that it has",
        {
            "secure": "noise: drawn with AES-256 from a key of the system's cryptographic generator; that of the next "
            "version lies in the run's state, which is as secret as the reports"
            + ("; the helper has a key of its own" if claim.shared else ""),
            "keyed": "noise: drawn from the federation's seed, which is what a simulation does: who knows the seed can "
            "take the noise away, so nothing that was learned from real people may be released with it",
        }[claim.source],
        _accounted(claim),
    ]


def _trust(claim: Claim) -> str:
    if claim.shared:
        return (
            "trust: coordinator and helper do not work together. Each adds noise enough by itself to its share before "
            "the shares are added, and knows its own: epsilon is against either of them, and all others. Each device "
            "clips its own report, which nobody can check. Who took part and when is not covered"
        )
    return (
        "trust: the coordinator, and gateways, see each report; they clip it once more, add the noise and keep it "
        "secret. What leaves them, to devices or in the run's results, is covered, but not who took part and when"
    )


def _participation(claim: Claim) -> str:
    if claim.share:
        return (
            f"sampling: an ASSUMPTION that nothing enforces: each version's devices are a random sample, each device "
            f"of the fleet with the chance {claim.share:.3g} (Poisson, though a fixed number is drawn), and nobody "
            "learns who is in it"
        )
    often = "once" if claim.times == 1 else f"{claim.times} times"
    apart = f", at least {claim.apart} versions apart" if claim.apart > 1 and claim.times > 1 else ""
    return (
        f"participation: a device's reports count at most {often} in {claim.planned} versions{apart}, which the "
        f"coordinator enforces{', and the helper too' if claim.shared else ''}; nothing is assumed about sampling"
    )


def _accounted(claim: Claim) -> str:
    if claim.share:
        return "accounting: privacy loss distributions, by dp-accounting"
    how = {Blt: "buffered linear Toeplitz matrix", Tree: "binary tree"}.get(
        type(claim.privacy.mechanism), "independent noise"
    )
    count = "; the count of adaptive clipping is in it" if isinstance(claim.clip, AdaptiveClip) else ""
    exactly = "as a Gaussian mechanism (Balle, Wang 2018)"
    if claim.shared:
        return (
            f"accounting: {how}, discrete noise {exactly} and by how much it differs from one; the random rounding on "
            "the devices, bounded there, is in it (Kairouz, Liu, Steinke 2021)"
        )
    return f"accounting: {how}, exactly {exactly}; rounding is in it{count}"
