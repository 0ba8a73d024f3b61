"""Where a run is served: `serve.json` (mode 0600) in its directory, for a restart and for the operator."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import NamedTuple

from fedthings.errors import StoreError
from fedthings.server.access import private

FILE = "serve.json"


class Place(NamedTuple):
    """The federation's id on the wire, the coordinator's URL with its password, and the topic root."""

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
