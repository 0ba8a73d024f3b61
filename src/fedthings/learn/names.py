"""What devices are called: names fit for topics and files; which sample of a table is whose.

Devices known by number have names that are made when asked for: a million of them cost nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike

from fedthings.errors import DataError, nearest
from fedthings.learn.tables import Table, plain, same_length
from fedthings.vector import Array

Grouping: TypeAlias = "Mapping[Any, str] | ArrayLike"
"""Things grouped into participants: {device: participant}, or one participant name a sample."""
PREFIX = "device-"
AT_ONCE = 1 << 16
"""Numbers that are Python objects at once."""

_fits = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch


class Numbered(Sequence[str]):
    """The names "device-3", "device-7", ... of ascending whole `numbers`."""

    def __init__(self, numbers: range | Array) -> None:
        if not isinstance(numbers, range) and numbers[-1] - numbers[0] == len(numbers) - 1:
            numbers = range(int(numbers[0]), int(numbers[-1]) + 1)
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[str]: ...
    def __getitem__(self, i: int | slice) -> str | Sequence[str]:
        """Return a name, or several."""
        if not isinstance(i, slice):
            return f"{PREFIX}{self.numbers[i]}"
        numbers = self.numbers[i]
        return Numbered(numbers) if len(numbers) and numbers[0] <= numbers[-1] else tuple(_spelled(numbers))

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), AT_ONCE):
            yield from _spelled(self.numbers[start : start + AT_ONCE])

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and self.places([name]).size == 1
        except KeyError:
            return False

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"({', '.join(map(repr, self[:3]))}{', ...' * (len(self) > 3)})"

    def places(self, names: Sequence[str]) -> Array:
        """Return where each of `names` stands, `(n,)` int64. Raises KeyError with one that is not there."""
        n = len(self)
        try:
            numbers = [int(name[len(PREFIX) :]) for name in names]
            wanted = np.array(numbers, np.int64)
        except (ValueError, OverflowError):
            raise KeyError(self._missing(names)) from None
        if isinstance(self.numbers, range):
            found, off = np.divmod(wanted - self.numbers.start, self.numbers.step)
            there = (found >= 0) & (found < n) & (off == 0)
        else:
            found = np.minimum(np.searchsorted(self.numbers, wanted), n - 1)
            there = self.numbers[found] == wanted
        # "device-007" is none of these names.
        if not there.all() or list(map(f"{PREFIX}%d".__mod__, numbers)) != list(names):
            raise KeyError(self._missing(names))
        return np.asarray(found)

    def _missing(self, names: Sequence[str]) -> str:
        return names[0] if len(names) == 1 else next(name for name in names if name not in self)

    def index(self, name: Any, start: int = 0, stop: int | None = None) -> int:
        """Return where `name` stands. Raises ValueError where it does not."""
        try:
            place = int(self.places([name])[0])
        except KeyError:
            raise ValueError(f"{name!r} is not among the names") from None
        if not range(len(self))[start:stop].count(place):
            raise ValueError(f"{name!r} is not among these names")
        return place


class Listed(tuple[str, ...]):
    """Names as they were given, each with its place at hand."""

    def __new__(cls, names: Sequence[str]) -> Listed:
        """Return `names`, which must differ."""
        made = super().__new__(cls, names)
        made._where = {name: place for place, name in enumerate(made)}
        return made

    _where: dict[str, int]

    def places(self, names: Sequence[str]) -> Array:
        """Return where each of `names` stands, `(n,)` int64. Raises KeyError with one that is not there."""
        where = self._where
        return np.array([where[name] for name in names], np.int64)


Names: TypeAlias = Numbered | Listed


def places(among: Names, names: Sequence[str]) -> Array:
    """Return where each of `names` stands, `(n,)` int64. Raises DataError with the nearest name that is there."""
    try:
        return among.places(names)
    except KeyError as error:
        wrong = error.args[0]
        raise DataError(f"the fleet has no participant {wrong!r}: {nearest(wrong, among[:1000])}") from None


def given(devices: int | Sequence[str]) -> Names:
    """Return the names of so many devices, from device-0 on, or those given. Raises DataError."""
    if isinstance(devices, Numbered):
        return devices
    if isinstance(devices, int):
        if devices < 1:
            raise DataError(f"devices is {devices}: give at least one")
        return Numbered(range(devices))
    for name in devices:
        if not isinstance(name, str) or not _fits(name) or not name.strip("."):
            raise DataError(f"devices has the name {name!r}: letters, digits, . _ - and at most 64 of them make a name")
    if not len(devices):
        raise DataError("devices names none: give at least one")
    names = Listed(devices)
    if len(names._where) < len(names):
        twice = next(name for i, name in enumerate(names) if names._where[name] != i)
        raise DataError(f"devices has the name {twice!r} twice: each device has a name of its own")
    return names


# ------------------------------------------------------------------ who is who


def owners(samples: Table, participant: Grouping | None, where: str) -> tuple[Array, Names]:
    """Return the place of each sample's participant among the names, `(samples,)`, and these. Raises DataError."""
    if samples.device is None:
        raise DataError(f"{where} does not say whose each sample is: give it a column or key `device`")
    if isinstance(participant, Mapping):
        return _mapped(samples.device, participant, where)
    if participant is None:
        return _named(samples.device, where)
    owner = plain(participant, f"{where}: participant")
    same_length(f"{where}: participant", owner, len(samples.X))
    return _named(owner, where)


def _values(device: Array, where: str) -> tuple[Array, Array]:
    """Return the distinct values of `device`, sorted, and the place of each sample's value among them."""
    if device.ndim != 1:
        raise DataError(f"{where}: device has the shape {device.shape}: give one value a sample")
    if device.dtype.kind == "f":
        whole = device == np.trunc(device)
        if not whole.all():
            raise DataError(f"{where}: device has {device[~whole][0]}: name devices by text or whole numbers")
        device = device.astype(np.int64)
    if device.dtype.kind in "iu" and (device[1:] >= device[:-1]).all():  # sorted already, as large fleets often are
        first = np.concatenate([[True], device[1:] != device[:-1]])
        return device[first], np.cumsum(first) - 1
    values, found = np.unique(device, return_inverse=True)
    return values, found


def _named(device: Array, where: str) -> tuple[Array, Names]:
    values, found = _values(device, where)
    if values.dtype.kind in "iub" and values[-1] < 2**63:
        return found, Numbered(values.astype(np.int64))
    return found, _distinct([_name(value, where) for value in values.tolist()], values.tolist(), where)


def _mapped(device: Array, participant: Mapping[Any, str], where: str) -> tuple[Array, Names]:
    """Return codes and names where things that `participant` does not mention stay by themselves."""
    array, found = _values(device, where)
    values = array.tolist()
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
    return group[found], _distinct([_name(label, where) for label in groups], list(groups), where)


def _name(value: Any, where: str) -> str:
    """Return the name of the device `value`, fit for topics and files."""
    if isinstance(value, int):
        return f"{PREFIX}{int(value)}"
    text = str(value)
    if _fits(text) and text.strip("."):
        return text
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:64]
    if not cleaned:
        raise DataError(f"{where}: the device {text!r} has no letter or digit to name it by: rename it")
    return cleaned


def _distinct(names: list[str], values: list[Any], where: str) -> Listed:
    """Return `names`; raise DataError where two values have come to the same one."""
    listed = Listed(names)
    if len(listed._where) < len(names):
        first: dict[str, Any] = {}
        for name, value in zip(names, values, strict=True):
            if first.setdefault(name, value) != value:
                raise DataError(
                    f"{where}: the devices {first[name]!r} and {value!r} are both called {name!r} "
                    "(letters, digits, . _ - and at most 64): rename one"
                )
    return listed


def _spelled(numbers: range | Array) -> Iterator[str]:
    return map(f"{PREFIX}%d".__mod__, numbers if isinstance(numbers, range) else numbers.tolist())
