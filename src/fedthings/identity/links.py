"""Numbers of links that never come twice: what makes a replayed message old, also after kill -9.

Every link of an end to its broker has a number, which only grows. Blocks of them are reserved in a file before the
first is used, so that one write serves many links, and no message needs one.
"""

from __future__ import annotations

from pathlib import Path

from fedthings.errors import StoreError
from fedthings.identity.files import private

BLOCK = 64
"""Links for which one write, with fsync, is enough."""
MOST = 1 << 31
"""A link's number is below this."""


class Links:
    """The numbers of one end's links, reserved in the file `path`; in memory only where there is none."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        try:
            self._next = int(path.read_text()) if path is not None and path.exists() else 1
            if not 0 < self._next < MOST:
                raise ValueError("out of range")
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path} cannot be read ({error}): without it nobody would believe this key; remove it and the key, "
                "and enrol anew"
            ) from None
        self._reserved = self._next

    def new(self) -> int:
        """Return a number above all before. Raises StoreError."""
        if self._next == self._reserved:
            self._reserved += BLOCK
            if self._path is not None:
                private(self._path, f"{self._reserved}\n", fsync=True)
        self._next += 1
        return self._next - 1
