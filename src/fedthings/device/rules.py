"""The owner's rules, read on the device: it decides what it takes part in (law 10)."""

from __future__ import annotations

from msgspec import Struct

from fedthings.federation import Phase
from fedthings.learn.task import within


class Rules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`federations`: the names it takes part in (empty: any); `effort`: its share of the local work;
    `max_parameters`: the largest model it trains (0: any).
    """

    federations: tuple[str, ...] = ()
    effort: float = 1.0
    max_parameters: int = 0

    def __post_init__(self) -> None:
        within("rules.effort", self.effort, 0.01, 1)

    def refusal(self, name: str, phase: Phase) -> str:
        """Return why the owner does not want `phase` of federation `name` done, or ""."""
        dim = phase.task.model.layout.dim
        if self.federations and name not in self.federations:
            return "owner: not this federation"
        if self.max_parameters and dim > self.max_parameters:
            return "owner: model too large"
        return ""
