"""Samples as a table: arrays, an npz or a CSV file, checked and in the types that learning takes.

Which sample belongs to which participant is `fleet`'s matter; what fits a task is `data`'s.
"""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fedthings.errors import DataError, nearest
from fedthings.vector import Array

KEYS = ("X", "y", "device", "split", "columns", "feature_names")
TARGETS = ("y", "target", "label")
"""What the target column of a CSV file is called where nobody says."""
ROWS_AT_ONCE = 8192
"""Cells are text only for this many rows, so that a large CSV file fits in memory."""


class Table(NamedTuple):
    """`X` float32 `(n, ...)`; `y` int64 (labels) or float32 (real) `(n, ...)`; `test` bool `(n,)`.

    `device` `(n,)` as it was found, or None. `classes` names the labels where they were text;
    `left_out` names the columns that hold no number at all. `columns` are what the features are called, and the target.
    """

    X: Array
    y: Array
    test: Array
    device: Array | None
    classes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


def table(
    X: ArrayLike,
    y: ArrayLike,
    split: ArrayLike | None = None,
    device: ArrayLike | None = None,
    classes: Sequence[str] = (),
    where: str = "the data",
) -> Table:
    """Return the table of these arrays; `where` opens each message.

    Raises DataError for lengths that differ, objects, no rows, a split that is not 0 or 1.
    """
    features, targets = plain(X, f"{where}: X"), plain(y, f"{where}: y")
    n = len(features)
    if features.dtype.kind not in "biuf":
        raise DataError(f"{where}: X holds {features.dtype}, not numbers: encode text as numbers first")
    if features.ndim < 2:
        raise DataError(f"{where}: X has the shape {features.shape}: give it one row a sample, (n, features)")
    if n == 0:
        raise DataError(f"{where}: X has no rows: give at least one sample")
    same_length(f"{where}: y", targets, n)
    test = np.zeros(n, bool) if split is None else _split(plain(split, f"{where}: split"), n, where)
    owner = None
    if device is not None:
        owner = plain(device, f"{where}: device")
        same_length(f"{where}: device", owner, n)
    targets, classes = _targets(targets, tuple(classes), where)
    # What is beyond float32 becomes Inf here and is refused, by value and device, in `data.check`.
    with np.errstate(over="ignore"):
        return Table(features.astype(np.float32, copy=False), targets, test, owner, classes)


def plain(values: ArrayLike, what: str) -> Array:
    """Return `values` as an array; raise DataError where it holds Python objects or is no array."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{what} is no array: {error}") from None
    if array.dtype.kind not in "biufUS" or array.ndim == 0:
        raise DataError(f"{what} holds {array.dtype} with the shape {array.shape}: give an array of numbers or text")
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


def same_length(what: str, array: Array, n: int) -> None:
    """Raise DataError unless `array` has one entry a sample."""
    if len(array) != n:
        raise DataError(f"{what} has {len(array)} entries but X has {n} rows: give one for each sample")


def _split(split: Array, n: int, where: str) -> Array:
    same_length(f"{where}: split", split, n)
    train, test = ("train", "test") if split.dtype.kind == "U" else (0, 1)
    wrong = (split != train) & (split != test)
    if wrong.any():
        raise DataError(f"{where}: split has {split[wrong][0]!s}: it must be 0 (train) or 1 (test)")
    return np.asarray(split == test)


def _targets(y: Array, classes: tuple[str, ...], where: str) -> tuple[Array, tuple[str, ...]]:
    """Return the targets as numbers, and the names of the classes where they were text."""
    if y.dtype.kind != "U":
        return y.astype(np.float32 if y.dtype.kind == "f" else np.int64, copy=False), classes
    found, codes = np.unique(y, return_inverse=True)
    names = tuple(str(name) for name in found)
    if not classes:
        return codes.reshape(y.shape).astype(np.int64), names
    for name in names:
        if name not in classes:
            raise DataError(f"{where}: the label {name!r} is not among the classes: {nearest(name, classes)}")
    places = np.array([classes.index(name) for name in names], np.int64)
    return places[codes].reshape(y.shape), classes


# ------------------------------------------------------------------------ npz


def read_npz(path: str | Path, classes: Sequence[str] = (), need: Sequence[str] = ("X", "y")) -> Table:
    """Read the keys X, y and, where they are there, device and split. Raises DataError."""
    path = existing(path)
    arrays = entries(path, need, KEYS)
    y = arrays.get("y", np.zeros(arrays["X"].shape[:1], np.int64))
    made = table(arrays["X"], y, arrays.get("split"), arrays.get("device"), classes, where=str(path))
    return made._replace(columns=_named(arrays, made, path))


def entries(path: Path, need: Sequence[str] = (), among: Sequence[str] | None = None) -> dict[str, Array]:
    """Return the arrays of an npz file, those alone that are `among` these keys.

    Raises DataError where the file is none or damaged, lacks a key of `need`, or holds Python objects.
    """
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not an npz file: write it with numpy.savez, or name a .csv file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in need if key not in archive.files]
            if missing:
                found = ", ".join(archive.files) or "none"
                raise DataError(f"{path} lacks the keys {', '.join(missing)} (found: {found})")
            return {key: _entry(archive, key, path) for key in archive.files if among is None or key in among}
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read as npz, it may be damaged: {error}") from None


def _named(arrays: dict[str, Array], made: Table, path: Path) -> tuple[str, ...]:
    """Return what the features are called, by the key columns or feature_names, and "y"."""
    key = "columns" if "columns" in arrays else "feature_names"
    if key not in arrays:
        return ()
    names, features = arrays[key], prod(made.X.shape[1:])
    if names.dtype.kind not in "US" or names.shape != (features,):
        raise DataError(
            f"{path}: {key} holds {names.dtype} with the shape {names.shape}: give each of {features} features a name"
        )
    return (*plain(names, f"{path}: {key}").tolist(), "y")


def _entry(archive: Any, key: str, path: Path) -> Array:
    try:
        return np.asarray(archive[key])  # what lies there may be no array
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        raise DataError(f"{path}: {key} holds Python objects, which are not loaded: save numbers") from None


def existing(path: str | Path) -> Path:
    """Return `path`; raise DataError unless it is a file that can be read."""
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a directory: name an npz or a CSV file")
    if not path.exists():
        raise DataError(f"there is no file {path}: name an npz or a CSV file")
    return path


# ------------------------------------------------------------------------ CSV


def read_csv(
    path: str | Path,
    target: str | None = None,
    device: str | None = None,
    split: str | None = None,
    classes: Sequence[str] = (),
    labelled: bool = True,
) -> Table:
    """Read a CSV file with a header; every other column that holds numbers becomes a feature.

    An empty cell is NaN. Where no names are given, `target` is the column y, target or label, `device`
    and `split` are the columns of that name, if there are any. Raises DataError.
    """
    path = existing(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _parse(path, csv.reader(file), target, device, split, classes, labelled)
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from None


def _parse(
    path: Path,
    lines: Iterator[list[str]],
    target: str | None,
    device: str | None,
    split: str | None,
    classes: Sequence[str],
    labelled: bool,
) -> Table:
    header = [cell.strip() for cell in next(lines, [])]
    if not header:
        raise DataError(f"{path} is empty: its first line must name the columns")
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise DataError(f"{path} has the column {min(twice)!r} twice: give each its own name")
    target = target or next((name for name in TARGETS if name in header), None)
    if target is None and labelled:
        raise DataError(f"{path}: say which column is the target, of {', '.join(header)}")
    device = device or ("device" if "device" in header else None)
    split = split or ("split" if "split" in header else None)
    special = [name for name in (target, device, split) if name is not None]
    for name in special:
        if name not in header:
            raise DataError(f"{path} has no column {name!r}: {nearest(name, header)}")
    texts: dict[str, list[str]] = {name: [] for name in special}
    n = 0
    features = [_Column(name) for name in header if name not in special]
    for numbers, cells in _pieces(path, lines, header):
        n += len(numbers)
        for name in special:
            texts[name] += cells[name]
        for column in features:
            column.add(cells[column.name], numbers)
    if n == 0:
        raise DataError(f"{path} has no line below its header: give at least one sample")
    kept = [column for column in features if column.fits(path)]
    if not kept:
        raise DataError(f"{path} has no column of numbers besides {special}: add features")
    X = np.stack([np.concatenate(column.pieces) for column in kept], axis=1)
    found = {name: _column(path, name, cells) for name, cells in texts.items()}
    y = found[target] if target else np.zeros(n, np.int64)
    made = table(X, y, found.get(split or ""), found.get(device or ""), classes, str(path))
    return made._replace(
        left_out=tuple(column.name for column in features if column not in kept),
        columns=(*(column.name for column in kept), target or "y"),
    )


def _pieces(
    path: Path, lines: Iterator[list[str]], header: list[str]
) -> Iterator[tuple[list[int], dict[str, list[str]]]]:
    """Yield some thousand lines at a time: their numbers in the file, and the cells of each column."""
    numbered = ((number, row) for number, row in enumerate(lines, 2) if row)
    while some := list(islice(numbered, ROWS_AT_ONCE)):
        for number, row in some:
            if len(row) != len(header):
                raise DataError(f"{path} has {len(row)} cells in line {number}, but its header {len(header)}")
        columns = zip(*(row for _, row in some), strict=True)
        cells = {name: [c.strip() for c in column] for name, column in zip(header, columns, strict=True)}
        yield [number for number, _ in some], cells


class _Column:
    """One feature column while it is read: its numbers so far, and the first text in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pieces: list[Array] = []
        self.seen = False
        self.text: tuple[int, str] | None = None

    def add(self, cells: list[str], numbers: list[int]) -> None:
        """Take the cells of the lines `numbers`."""
        try:
            values = np.array([cell or "nan" for cell in cells], np.float64)
            self.seen = self.seen or any(cells)
        except ValueError:
            values = np.full(len(cells), np.nan)
            for cell, number in zip(cells, numbers, strict=True):
                if _is_number(cell):
                    self.seen = True
                elif cell:
                    self.text = self.text or (number, cell)
        with np.errstate(over="ignore"):
            self.pieces.append(values.astype(np.float32))

    def fits(self, path: Path) -> bool:
        """Return whether this column is a feature; raise DataError where it holds numbers and text."""
        if self.text and self.seen:
            number, cell = self.text
            raise DataError(
                f"{path}: the column {self.name!r} has {cell!r} in line {number} among its numbers: "
                "leave the cell empty where a value is missing, or take the column out"
            )
        return self.text is None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _column(path: Path, name: str, cells: list[str]) -> Array:
    """Return the target, device or split column: integers where all are, else reals, else text."""
    if "" in cells:
        raise DataError(f"{path}: the column {name!r} has an empty cell in sample {cells.index('') + 1}")
    for kind in (np.int64, np.float64):
        try:
            return np.array(cells, dtype=np.str_).astype(kind)
        except (ValueError, OverflowError):
            continue
    return np.array(cells, dtype=np.str_)


def read(
    path: str | Path,
    target: str | None = None,
    device: str | None = None,
    classes: Sequence[str] = (),
    labelled: bool = True,
) -> Table:
    """Read an npz or, by its ending, a CSV file; `labelled` is whether y must be there. Raises DataError."""
    if Path(path).suffix.lower() == ".csv":
        return read_csv(path, target, device, None, classes, labelled)
    return read_npz(path, classes, ("X", "y") if labelled else ("X",))
