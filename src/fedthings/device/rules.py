"""The owner's rules, read on the device: it decides what it takes part in (law 10)."""

from __future__ import annotations

from msgspec import Struct

from fedthings.learn.effort import LEAST
from fedthings.learn.own import Own, lacking, spelled
from fedthings.learn.task import within
from fedthings.phase import Phase
from fedthings.privacy.keys import public
from fedthings.privacy.shares import TwoServers

NOT_ALLOWED, NOT_AVAILABLE = "owner: model not allowed", "model not available"


class Rules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`federations`: the names it takes part in (empty: any); `effort`: its share of the local work;
    `max_parameters`: the largest model it trains (0: any); `allow`: the models that are Python code, installed here,
    which it imports, each by its name "package.module:factory" (none unless named: law 9); `helpers`: the public keys
    of the helpers it trusts, one of which must hide its reports from the coordinator (empty: nobody has to); `queries`:
    whether questions about its data are answered; `epsilon`: what answers with noise of its own may cost together, and
    then no others are given (0: any are).
    """

    federations: tuple[str, ...] = ()
    effort: float = 1.0
    max_parameters: int = 0
    allow: tuple[str, ...] = ()
    helpers: tuple[str, ...] = ()
    queries: bool = True
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        within("rules.effort", self.effort, LEAST, 1)
        within("rules.epsilon", self.epsilon, 0, 1000)
        for name in self.allow:
            spelled("rules.allow", name)
        for index, key in enumerate(self.helpers):
            public(key, f"rules.helpers[{index}]")

    def refusal(self, name: str, phase: Phase) -> str:
        """Return why the owner does not want `phase` of federation `name` done, or ""."""
        model = phase.task.model
        if self.federations and name not in self.federations:
            return "owner: not this federation"
        if phase.query and not self.queries:
            return "owner: no queries"
        if phase.query and self.epsilon and phase.local is None:
            return "owner: only with noise of its own"
        if isinstance(model, Own) and model.factory not in self.allow:
            return NOT_ALLOWED
        if isinstance(model, Own) and lacking(model):
            return NOT_AVAILABLE
        if self.max_parameters and model.layout.dim > self.max_parameters:
            return "owner: model too large"
        if self.helpers and (not isinstance(phase.secure, TwoServers) or phase.secure.helper not in self.helpers):
            return "owner: only with a helper it trusts"
        return ""


def advice(phase: Phase, refusal: str) -> str:
    """Return what the owner should know of a `refusal` beside its name, with the remedy, or ""."""
    model = phase.task.model
    if not isinstance(model, Own):
        return ""
    if refusal == NOT_ALLOWED:
        return f"; it is the Python code {model.factory}: join with --allow {model.factory} if it is to run here"
    return f"; {lacking(model)}" if refusal == NOT_AVAILABLE else ""
