"""What a device's answers with noise of its own have cost it: counted on its disk before each of them leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fedthings.errors import StoreError
from fedthings.identity.files import private
from fedthings.phase import Phase

FILE = "spent.json"
SPENT = "owner: privacy budget spent"


class Spending:
    """The epsilon that each query has cost, whichever federation asked; costs add up (Dwork, Roth 2014, theorem 3.16).

    Without a `directory` it is counted in memory. Raises StoreError where the file cannot be read.
    """

    def __init__(self, directory: Path | None) -> None:
        self.file = None if directory is None else directory / FILE
        self.queries: dict[str, float] = {}
        if self.file is not None and self.file.exists():
            try:
                self.queries = {str(query): float(cost) for query, cost in json.loads(self.file.read_text()).items()}
            except (OSError, ValueError, TypeError, AttributeError):
                raise StoreError(
                    f"{self.file}, which counts what answers have cost in privacy, is damaged: put back a copy, or "
                    "remove it if its owner agrees that the count begins anew"
                ) from None

    @property
    def total(self) -> float:
        """The epsilon of all answers together."""
        return sum(self.queries.values())

    def refusal(self, phase: Phase, budget: float) -> str:
        """Return why one more answer in `phase` would pass the `budget` (0: none is set), or ""."""
        if not budget or phase.local is None:
            return ""
        return "" if self.total + phase.local.epsilon <= budget * (1 + 1e-9) else SPENT

    def spend(self, phase: Phase, tell: Callable[[str], None]) -> None:
        """Count the answer in `phase` that is about to be made, and tell the owner.

        Raises StoreError where it cannot be written: then nothing may be answered.
        """
        if phase.local is None:
            return
        cost = phase.local.epsilon
        self.queries[phase.query] = self.queries.get(phase.query, 0.0) + cost
        if self.file is not None:
            private(self.file, json.dumps(self.queries, indent=2) + "\n", fsync=True)
        tell(f"answers {phase.query} with noise of its own: epsilon {cost:g}, {self.total:g} with all before")
