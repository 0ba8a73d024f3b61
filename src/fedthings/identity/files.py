"""Small files that only their owner may read, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from fedthings.errors import StoreError


def private(path: Path, text: str, fsync: bool = False) -> None:
    """Write `text` to `path`, mode 0600, all of it or nothing. Raises StoreError."""
    fresh = path.with_name(path.name + ".new")
    try:
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            if fsync:
                file.flush()
                os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; is the folder writable?") from error
