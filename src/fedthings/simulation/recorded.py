"""Availability as a trace recorded it: a CSV file of device, start, end in seconds, each line one stretch."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Mapping, Sequence
from math import inf, isfinite
from pathlib import Path

import numpy as np

from fedthings.errors import SpecError, nearest
from fedthings.simulation.availability import Availability, Slice, ordered
from fedthings.vector import Array

COLUMNS = ["device", "start", "end"]


class Trace(Availability, frozen=True, tag="trace", dict=True):
    """There in the stretches of the CSV file `path`; its columns are device, start, end (seconds).

    A device's lines are in the order of time and do not overlap; after the last the device does not come back.
    Every device of the group needs a line, so that a misspelt name is found.
    """

    path: str

    @property
    def recorded(self) -> Mapping[str, array[float]]:
        """The stretches of each device, start, end, start, end, ...; read once. Raises SpecError."""
        if "_recorded" not in self.__dict__:
            self.__dict__["_recorded"] = read(self.path)
        found: Mapping[str, array[float]] = self.__dict__["_recorded"]
        return found

    def stretches(self, name: str, key: int, start: float) -> Iterator[tuple[float, float]]:
        times = self.recorded[name]
        for place in range(0, len(times), 2):
            if times[place + 1] > start:
                yield times[place], times[place + 1]

    def slices(self, names: Array, keys: Array) -> Iterator[Slice]:
        recorded = self.recorded
        at = np.frombuffer(b"".join(recorded[name].tobytes() for name in names))
        who = np.repeat(np.arange(len(names), dtype=np.int32), [len(recorded[name]) for name in names])
        yield ordered(at, who, np.arange(len(at)) % 2 == 0)

    def fits(self, group: Sequence[str], fleet: Sequence[str]) -> None:
        """Raise SpecError unless every device of `group` has a line, and every line is of a device of `fleet`."""
        recorded = self.recorded
        for name in group:
            if name not in recorded:
                raise SpecError(
                    f"{self.path} has no line for the device {name}: add one (start and end in seconds), "
                    f"or correct the name; {nearest(name, list(recorded)[:1000])}"
                )
        for name in recorded.keys() - set(fleet):
            raise SpecError(
                f"{self.path}, line {self.__dict__['_recorded'].lines[name]}: the fleet has no device {name!r}: "
                f"{nearest(name, list(fleet)[:1000])}"
            )


class Recorded(dict[str, "array[float]"]):
    """The stretches of each device, and the first line of each in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}


def read(path: str | Path) -> Recorded:
    """Return the stretches in a trace. Raises SpecError with the line, what stands there and the remedy."""
    path = Path(path)
    if not path.is_file():
        raise SpecError(f"there is no trace {path}: name a CSV file with the columns device, start, end")
    found = Recorded()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            if [cell.strip() for cell in header] != COLUMNS:
                raise SpecError(f"{path} begins with {','.join(header)!r}: its first line must be device,start,end")
            for row in rows:
                if row:
                    _take(found, row, f"{path}, line {rows.line_num}", rows.line_num)
    except (UnicodeDecodeError, csv.Error) as error:
        raise SpecError(f"{path} is not a CSV file of text ({error}): save it as CSV in UTF-8") from None
    if not found:
        raise SpecError(f"{path} has no line but its header: give each device its stretches")
    return found


def _take(found: Recorded, row: list[str], where: str, line: int) -> None:
    if len(row) != 3:
        raise SpecError(f"{where} has {len(row)} cells: give device,start,end")
    name = row[0].strip()
    if not name:
        raise SpecError(f"{where} has no device: give its name")
    start, end = (_seconds(cell.strip(), column, where) for cell, column in zip(row[1:], COLUMNS[1:], strict=True))
    if end <= start:
        raise SpecError(f"{where}: {name} ends at {end:g}, not after its start at {start:g}: correct one of them")
    times = found.setdefault(name, array("d"))
    found.lines.setdefault(name, line)
    if times and start < times[-1]:
        fault = "overlaps" if end > times[-2] else "comes before"
        raise SpecError(
            f"{where}: {name} from {start:g} to {end:g} {fault} its line before, {times[-2]:g} to {times[-1]:g}: "
            "put a device's lines in the order of time, and join those that overlap"
        )
    if times and start == times[-1]:
        times[-1] = end
    else:
        times.extend((start, end))


def _seconds(cell: str, column: str, where: str) -> float:
    if not cell:
        raise SpecError(f"{where} has no {column}: a trace has no gaps, so give the seconds or leave the line out")
    try:
        seconds = float(cell)
    except ValueError:
        seconds = inf
    if not isfinite(seconds) or seconds < 0:
        raise SpecError(f"{where}: {column} is {cell!r}: give seconds since the start of the run, 0 or more")
    return seconds
