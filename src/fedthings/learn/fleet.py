"""A fleet of data: whose samples are whose, from arrays, from files, or from a function that makes them when asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from fedthings.errors import DataError
from fedthings.learn.data import Shard
from fedthings.learn.names import Grouping, Listed, Names, given, owners
from fedthings.learn.rows import Rows
from fedthings.learn.stream import Making, MakingMany, Size, Stream
from fedthings.learn.tables import Table, read, read_csv, read_npz, table
from fedthings.vector import Array


class Source(Protocol):
    """Where the data of participants is; `fixed` is whether it never changes."""

    fixed: bool

    def described(self) -> str: ...
    def cohort(self, names: Sequence[str], at: Sequence[float]) -> Sequence[Shard]: ...
    def counts(self, name: str, at: float) -> tuple[int, int]: ...
    @property
    def sizes(self) -> Array: ...
    @property
    def test_sizes(self) -> Array: ...


class Fleet:
    """The data of `names`; `classes` names labels, `left_out` the columns that hold no number.

    `edges` says which of them are under which edge, where they are (`under`).
    One who never works costs no memory: shards are views of one table, or are made when they are asked for.
    """

    def __init__(self, source: Source, names: Names, classes: Sequence[str] = (), left_out: Sequence[str] = ()) -> None:
        self._source = source
        self.names: Names = names
        self.classes, self.left_out = tuple(classes), tuple(left_out)
        self.edges: Mapping[str, Sequence[str]] = {}

    @classmethod
    def from_arrays(
        cls,
        X: ArrayLike,
        y: ArrayLike,
        device: ArrayLike,
        split: ArrayLike | None = None,
        participant: Grouping | None = None,
    ) -> Fleet:
        """Return the fleet where sample i is `device[i]`'s; `split`: 0 train, 1 test. Raises DataError."""
        return _owned(table(X, y, split, device), participant, "the data")

    @classmethod
    def from_npz(cls, path: str | Path, participant: Grouping | None = None) -> Fleet:
        """Return the fleet in an npz file with the keys X, y, device and perhaps split. Raises DataError."""
        return _owned(read_npz(path, need=("X", "y", "device")), participant, str(path))

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        target: str | None = None,
        device: str | None = None,
        split: str | None = None,
        participant: Grouping | None = None,
        classes: Sequence[str] = (),
    ) -> Fleet:
        """Return the fleet in a CSV file with a header; see `tables.read_csv`. Raises DataError."""
        return _owned(read_csv(path, target, device, split, classes), participant, str(path))

    @classmethod
    def from_function(
        cls,
        shard: Making,
        devices: int | Sequence[str],
        size: Size | Callable[[str, float], Size] | None = None,
        cohort: MakingMany | None = None,
        classes: Sequence[str] = (),
    ) -> Fleet:
        """Return the fleet whose data `shard(name, at)` makes: what a device has at time `at` (seconds).

        It returns `(X, y)`, `(X, y, test_X, test_y)` or a `Shard`, and must be deterministic: it is asked as often
        and in whatever order suits, in several processes too, and for one name and time always gives the same
        (key what is random by both). `devices` are names, or how many: device-0, device-1, ...
        `size` says how many training samples, or `(training, test)`, there are, or is a function of name and
        time that does, so that to count does not mean to make. `cohort(names, ats)` makes many shards at once,
        best as one `learn.data.Cohort`. The first device is asked for time 0 at once: all others have samples
        of the same shape and type. Raises DataError with device, time and remedy, now and whenever it is asked.
        """
        names = given(devices)
        return cls(Stream(shard, names, size, cohort), names, classes)

    @classmethod
    def read(cls, path: str | Path, target: str | None = None, device: str | None = None, alone: str = "") -> Fleet:
        """Return the fleet in an npz or, by its ending, a CSV file; `alone` is the name where it is one device's.

        Raises DataError.
        """
        samples = read(path, target, device)
        if samples.device is None and alone:
            return _whole(samples, alone)
        return _owned(samples, None, str(path))

    @staticmethod
    def one(path: str | Path, name: str, target: str | None = None, classes: Sequence[str] = ()) -> Shard:
        """Return the data in a device's own file; of a file of several devices, the part called `name`.

        Text labels need `classes`, in the federation's order. Raises DataError.
        """
        samples = read(path, target, classes=classes)
        if samples.classes and not classes:
            raise DataError(
                f"{path} has text labels, which one device cannot number alone: "
                f"name all classes in the federation's order, such as {', '.join(samples.classes[:4])}"
            )
        if samples.device is not None and len(samples.device) and (samples.device != samples.device[0]).any():
            return _owned(samples, None, str(path)).shard(name)
        return _whole(samples, name).shard(name)

    def under(self, edges: int | Mapping[str, str]) -> Fleet:
        """Return the same fleet under edges: {device: edge}, or so many edges with neighbours under one, edge-0 on.

        Raises DataError where a device has no edge, or an edge no device.
        """
        if isinstance(edges, int):
            if not 1 <= edges <= len(self):
                raise DataError(f"edges is {edges}: give 1 to {len(self)}, which is how many devices there are")
            places = [f"edge-{index * edges // len(self)}" for index in range(len(self))]
        else:
            places = [edges.get(name, "") for name in self.names]
            if "" in places:
                raise DataError(f"edges names none for {self.names[places.index('')]}: give every device its edge")
        found: dict[str, list[str]] = {}
        for name, edge in zip(self.names, places, strict=True):
            found.setdefault(edge, []).append(name)
        made = Fleet(self._source, self.names, self.classes, self.left_out)
        made.edges = dict(zip(given(list(found)), found.values(), strict=True))
        return made

    def __len__(self) -> int:
        """Return how many participants there are."""
        return len(self.names)

    def __repr__(self) -> str:
        return f"Fleet({len(self):,} participants, {self._source.described()})"

    @property
    def fixed(self) -> bool:
        """Whether everyone's data stays as it is; else it is to be checked whenever it is used."""
        return self._source.fixed

    @property
    def sizes(self) -> Array:
        """How many training samples each has at time 0, `(n,)`.

        Raises DataError where these are known only by making the data of more than a thousand devices.
        """
        return self._source.sizes

    @property
    def test_sizes(self) -> Array:
        """How many test samples each has at time 0, `(n,)`; as `sizes`."""
        return self._source.test_sizes

    def counts(self, name: str, at: float = 0.0) -> tuple[int, int]:
        """Return how many training and test samples `name` has at time `at` (seconds). Raises DataError."""
        return self._source.counts(name, at)

    def size(self, name: str, at: float = 0.0) -> int:
        """Return how many training samples `name` has at time `at` (seconds). Raises DataError."""
        return self._source.counts(name, at)[0]

    def shard(self, name: str, at: float = 0.0) -> Shard:
        """Return the data that participant `name` has at time `at` (seconds). Raises DataError where there is none."""
        return self._source.cohort([name], [at])[0]

    def cohort(self, names: Sequence[str], at: Sequence[float]) -> Sequence[Shard]:
        """Return the data that each of `names` has at its time `at` (seconds). Raises DataError."""
        return self._source.cohort(names, at)

    def plot(self, path: str | Path, title: str = "", at: float = 0.0) -> None:
        """Draw who has how many samples of what at time `at` (seconds) into `path`, by its ending png, svg or pdf.

        Needs matplotlib (extra `plot`). Raises SpecError, DataError.
        """
        from fedthings.learn.picture import draw

        draw(self, Path(path), title, at)

    def write(self, directory: str | Path) -> dict[str, Path]:
        """Write one npz a participant, as it is at time 0, readable by its owner only; return where each lies."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        paths = {}
        for name in self.names:
            shard = self.shard(name)
            path = paths[name] = directory / f"{name}.npz"
            split = (np.arange(len(shard.X) + len(shard.test_X)) >= len(shard.X)).astype(np.int8)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as file:
                X, y = np.concatenate([shard.X, shard.test_X]), np.concatenate([shard.y, shard.test_y])
                arrays = {"X": X, "y": y, "split": split}
                if shard.columns:
                    arrays["columns"] = np.array(shard.columns[:-1])
                np.savez(file, allow_pickle=False, **arrays)
        return paths


def _owned(samples: Table, participant: Grouping | None, where: str) -> Fleet:
    codes, names = owners(samples, participant, where)
    return Fleet(Rows(samples, codes, names), names, samples.classes, samples.left_out)


def _whole(samples: Table, name: str) -> Fleet:
    """Return the fleet of the one device that has all samples."""
    names = Listed([name])
    return Fleet(Rows(samples, np.zeros(len(samples.X), np.int64), names), names, samples.classes, samples.left_out)
