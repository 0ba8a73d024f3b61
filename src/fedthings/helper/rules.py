"""The helper's own rules: what its owner gives a share of a sum for."""

from __future__ import annotations

from msgspec import Struct

from fedthings.learn.task import within
from fedthings.privacy.keys import public


class Rules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`min_batch`: the least reports of one sum, where the federation does not ask for more; `federations`: the names
    of those it helps (empty: any); `leaders`: the public keys of the coordinators it helps (empty: the first of each
    federation).
    """

    min_batch: int = 3
    federations: tuple[str, ...] = ()
    leaders: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        within("rules.min_batch", self.min_batch, 2, 1 << 20)
        for index, key in enumerate(self.leaders):
            public(key, f"rules.leaders[{index}]")
