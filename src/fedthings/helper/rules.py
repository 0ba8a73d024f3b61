"""The helper's own rules: what its owner gives a share of a sum for."""

from __future__ import annotations

import tomllib
from pathlib import Path

from msgspec import Struct

from fedthings.errors import SpecError
from fedthings.learn.task import within
from fedthings.privacy.keys import public
from fedthings.spelling import decode


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


def read(file: str | None) -> Rules:
    """Return the rules in a TOML `file`, or those without one. Raises SpecError."""
    if file is None:
        return Rules()
    try:
        return decode(tomllib.loads(Path(file).read_text()), Rules)
    except OSError as error:
        raise SpecError(f"the rules {file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, SpecError) as error:
        raise SpecError(f"the rules {file}: {error}") from None
