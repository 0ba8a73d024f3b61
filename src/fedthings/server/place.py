"""Where a run is served: `serve.json` (mode 0600) in its directory, for a restart and for the operator."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fedthings import run
from fedthings.errors import SpecError, StoreError
from fedthings.federation import Federation
from fedthings.identity.files import private

FILE = "serve.json"


class Place(NamedTuple):
    """The federation's id on the wire, the coordinator's URL with its password, and the topic root.

    The id is "" in the directory of several federations, each of which has a run directory below it.
    """

    federation: str
    broker: str
    root: str

    def write(self, directory: Path) -> None:
        """Keep it. Raises StoreError."""
        private(directory / FILE, json.dumps(self._asdict()) + "\n")


def read(directory: Path) -> Place | None:
    """Return where the run in `directory` is, or was, served; None where it never was. Raises StoreError."""
    path = directory / FILE
    try:
        return Place(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"{path} cannot be read ({error}): mend it, or move it away") from None


def identity(directory: Path, name: str) -> str:
    """Return the id of the federation in `directory`: the one it has, or `name` with random letters."""
    known = read(directory)
    return known.federation if known else f"{name}-{secrets.token_hex(4)}"


def newest(top: Path = Path("runs")) -> Path | None:
    """Return the run directory in `top` that was served last."""
    found = [path for path in top.glob(f"*/{FILE}") if path.is_file()]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def prepare(directory: Path, federations: Sequence[Federation]) -> list[Path]:
    """Make the run directory of each: `directory` for one, `directory/NAME` for several.

    Raises SpecError where two have the same name, StoreError where something else is there.
    """
    names = [federation.name for federation in federations]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SpecError(f"two federations are called {twice!r}: give each a `name` of its own")
    there = several(directory)
    if len(names) == 1:
        if there:
            shown = ", ".join(sorted(there))
            raise StoreError(f"{directory} holds several federations ({shown}): serve them together, or name another")
        return [run.prepare(directory, federations[0])]
    if (directory / run.FEDERATION).exists():
        raise StoreError(f"{directory} holds the run of one federation: name another directory for {', '.join(names)}")
    return [run.prepare(directory / federation.name, federation) for federation in federations]


def several(directory: Path) -> dict[str, Path]:
    """Return the run directories of the federations that share `directory`, by name; none where it is one's own."""
    if (directory / run.FEDERATION).exists():
        return {}
    return {path.parent.name: path.parent for path in sorted(directory.glob(f"*/{FILE}"))}


def one_of(directory: Path, federation: str) -> Path:
    """Return the run directory of the `federation` of this name in `directory`. Raises SpecError."""
    there = several(directory)
    known = read(directory)
    if not there and known is not None:
        there = {known.federation.rpartition("-")[0]: directory}
    if federation not in there:
        raise SpecError(f"{directory} has no federation {federation!r}: it has {', '.join(sorted(there)) or 'none'}")
    return there[federation]
