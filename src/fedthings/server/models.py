"""Models on disk: a mapping from version to row, so that a server holds no more than it works on."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import numpy as np

from fedthings.errors import StoreError
from fedthings.vector import Vector


class Models(MutableMapping[int, Vector]):
    """Rows `(dim,)` float32 in `<directory>/<version>.f4`, read as read-only views of the file."""

    def __init__(self, directory: Path, fsync: bool = False) -> None:
        self._directory = directory
        self._fsync = fsync
        directory.mkdir(parents=True, exist_ok=True)

    def _path(self, version: int) -> Path:
        return self._directory / f"{version}.f4"

    def __getitem__(self, version: int) -> Vector:
        try:
            with self._path(version).open("rb") as file:
                # What np.memmap gives, without its search for the file's real path: a third of the time.
                return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.float32)
        except FileNotFoundError:
            raise KeyError(version) from None
        except ValueError as error:
            raise StoreError(
                f"the model {self._path(version)} is damaged ({error}): bring it back from a copy"
            ) from None

    def __setitem__(self, version: int, row: Vector) -> None:
        partial = self._directory / "new.part"
        with partial.open("wb") as file:
            np.ascontiguousarray(row, np.float32).tofile(file)
            if self._fsync:
                os.fsync(file.fileno())
        partial.replace(self._path(version))

    def __delitem__(self, version: int) -> None:
        try:
            self._path(version).unlink()
        except FileNotFoundError:
            raise KeyError(version) from None

    def __contains__(self, version: object) -> bool:
        return isinstance(version, int) and self._path(version).exists()

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(int(path.stem) for path in self._directory.glob("*.f4")))

    def __len__(self) -> int:
        return sum(1 for _ in self)
