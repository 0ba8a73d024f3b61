"""A fleet of data: whose samples are whose; participants are rows of one table, sliced as views."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fedthings.errors import DataError, nearest
from fedthings.learn.data import Cohort, Shard
from fedthings.learn.tables import Table, plain, read, read_csv, read_npz, same_length, table
from fedthings.vector import Array

Grouping: TypeAlias = "Mapping[Any, str] | ArrayLike"
"""Things grouped into participants: {device: participant}, or one participant name a sample."""

_fits = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch


class Fleet:
    """The samples of `names`; `sizes` `(n,)` counts the training samples of each, `classes` names labels.

    Samples are stored once, sorted by participant, so that one who never works costs no memory.
    """

    def __init__(self, samples: Table, codes: Array, names: Sequence[str]) -> None:
        """Take `codes` `(samples,)`, the place in `names` of each sample's participant."""
        key = 2 * codes + samples.test
        order = np.argsort(key, kind="stable")
        counts = np.bincount(key, minlength=2 * len(names))
        if (order[1:] > order[:-1]).all():
            self._X, self._y = samples.X, samples.y
        else:
            self._X, self._y = samples.X[order], samples.y[order]
        # Training samples of i lie in bounds[2i]:bounds[2i + 1], its test samples after them.
        self._bounds = np.concatenate([[0], np.cumsum(counts)])
        self.names = tuple(names)
        self.sizes: Array = counts[0::2]
        self.test_sizes: Array = counts[1::2]
        self.classes = samples.classes
        self.left_out = samples.left_out
        empty = np.flatnonzero(self.sizes == 0)
        if len(empty):
            more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
            raise DataError(
                f"{self.names[empty[0]]}{more} has no training samples: give it some (split 0) or leave it out"
            )

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
        return _grouped(table(X, y, split, device), participant, "the data")

    @classmethod
    def from_npz(cls, path: str | Path, participant: Grouping | None = None) -> Fleet:
        """Return the fleet in an npz file with the keys X, y, device and perhaps split. Raises DataError."""
        return _grouped(read_npz(path, need=("X", "y", "device")), participant, str(path))

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
        return _grouped(read_csv(path, target, device, split, classes), participant, str(path))

    @classmethod
    def read(cls, path: str | Path, target: str | None = None, device: str | None = None, alone: str = "") -> Fleet:
        """Return the fleet in an npz or, by its ending, a CSV file; `alone` is the name where it is one device's.

        Raises DataError.
        """
        samples = read(path, target, device)
        if samples.device is None and alone:
            return Fleet(samples, np.zeros(len(samples.X), np.int64), [alone])
        return _grouped(samples, None, str(path))

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
            return _grouped(samples, None, str(path)).shard(name)
        return Fleet(samples, np.zeros(len(samples.X), np.int64), [name]).shard(name)

    def __len__(self) -> int:
        """Return how many participants there are."""
        return len(self.names)

    def __repr__(self) -> str:
        samples = f"{self.sizes.sum():,} training and {self.test_sizes.sum():,} test samples"
        return f"Fleet({len(self):,} participants, {samples}, X {self._X.shape[1:]})"

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    def shard(self, name: str, at: float = 0.0) -> Shard:
        """Return the data that participant `name` has at time `at`, as views. Raises DataError where there is none."""
        return self.cohort([name], [at])[0]

    def cohort(self, names: Sequence[str], at: Sequence[float]) -> Sequence[Shard]:
        """Return the data that each of `names` has at its time `at` (seconds), as views. Raises DataError."""
        places = self._places
        try:
            found = np.array([places[name] for name in names], np.int64)
        except KeyError as error:
            name = error.args[0]
            raise DataError(f"the fleet has no participant {name!r}: {nearest(name, self.names[:1000])}") from None
        return Cohort(self._X, self._y, self._bounds[2 * found[:, None] + np.arange(3)])

    def write(self, directory: str | Path) -> dict[str, Path]:
        """Write one npz a participant, readable by its owner only, and return where each lies."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        paths = {}
        for place, name in enumerate(self.names):
            start, middle, stop = self._bounds[2 * place : 2 * place + 3]
            path = paths[name] = directory / f"{name}.npz"
            split = (np.arange(start, stop) >= middle).astype(np.int8)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as file:
                np.savez(file, X=self._X[start:stop], y=self._y[start:stop], split=split)
        return paths


# ------------------------------------------------------------------ who is who


def _grouped(samples: Table, participant: Grouping | None, where: str) -> Fleet:
    if samples.device is None:
        raise DataError(f"{where} does not say whose each sample is: give it a column or key `device`")
    if isinstance(participant, Mapping):
        codes, names = _mapped(samples.device, participant, where)
    elif participant is not None:
        owner = plain(participant, f"{where}: participant")
        same_length(f"{where}: participant", owner, len(samples.X))
        codes, names = _named(owner, where)
    else:
        codes, names = _named(samples.device, where)
    return Fleet(samples, codes, names)


def _values(device: Array, where: str) -> tuple[list[Any], Array]:
    """Return the distinct values of `device`, sorted, and the place of each sample's value among them."""
    if device.ndim != 1:
        raise DataError(f"{where}: device has the shape {device.shape}: give one value a sample")
    if device.dtype.kind == "f":
        whole = device == np.trunc(device)
        if not whole.all():
            raise DataError(f"{where}: device has {device[~whole][0]}: name devices by text or whole numbers")
        device = device.astype(np.int64)
    values, places = np.unique(device, return_inverse=True)
    return values.tolist(), places


def _named(device: Array, where: str) -> tuple[Array, list[str]]:
    values, places = _values(device, where)
    return places, _distinct([_name(value, where) for value in values], values, where)


def _mapped(device: Array, participant: Mapping[Any, str], where: str) -> tuple[Array, list[str]]:
    """Return codes and names where things that `participant` does not mention stay by themselves."""
    values, places = _values(device, where)
    wanted = {str(thing): name for thing, name in participant.items()}
    unknown = wanted.keys() - {str(value) for value in values}
    if unknown:
        thing = min(unknown)
        raise DataError(
            f"{where}: participant= names the device {thing!r}, which has no samples: "
            f"{nearest(thing, [str(value) for value in values[:1000]])}"
        )
    labels = [wanted.get(str(value), _name(value, where)) for value in values]
    groups: dict[str, int] = {}
    group = np.array([groups.setdefault(label, len(groups)) for label in labels])
    return group[places], _distinct([_name(label, where) for label in groups], list(groups), where)


def _name(value: Any, where: str) -> str:
    """Return the name of the device `value`, fit for topics and files."""
    if isinstance(value, int):
        return f"device-{int(value)}"
    text = str(value)
    if _fits(text) and text.strip("."):
        return text
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:64]
    if not cleaned:
        raise DataError(f"{where}: the device {text!r} has no letter or digit to name it by: rename it")
    return cleaned


def _distinct(names: list[str], values: list[Any], where: str) -> list[str]:
    """Return `names`; raise DataError where two values have come to the same one."""
    if len(set(names)) < len(names):
        first: dict[str, Any] = {}
        for name, value in zip(names, values, strict=True):
            if first.setdefault(name, value) != value:
                raise DataError(
                    f"{where}: the devices {first[name]!r} and {value!r} are both called {name!r} "
                    "(letters, digits, . _ - and at most 64): rename one"
                )
    return names
