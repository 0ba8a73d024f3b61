"""MNIST from its four idx files in a folder; the images are not fetched and not bundled."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from fedthings.errors import DataError
from fedthings.vector import Array

NAMES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def mnist(folder: str | Path) -> tuple[Array, Array, Array, Array]:
    """Return X, y, test_X, test_y: images float32 `(n, 28, 28, 1)` from 0 to 1, labels int64 `(n,)`.

    Raises DataError where a file is missing or damaged.
    """
    X, y, test_X, test_y = (_read(Path(folder) / f"{name}-ubyte.gz") for name in NAMES)
    for images, labels in ((X, y), (test_X, test_y)):
        if len(images) != len(labels):
            raise DataError(f"{folder} has {len(images)} images but {len(labels)} labels: fetch the files again")
    return _images(X), y.astype(np.int64), _images(test_X), test_y.astype(np.int64)


def _images(pixels: Array) -> Array:
    return (pixels.astype(np.float32) / np.float32(255))[..., None]


def _read(path: Path) -> Array:
    """Read one idx file of bytes: two zeros, type 8, the number of axes, each length, the values."""
    if not path.is_file():
        raise DataError(
            f"there is no file {path}: put MNIST's four files {', '.join(f'{n}-ubyte.gz' for n in NAMES)} "
            f"into {path.parent}"
        )
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file ({error}): fetch it again") from None
    axes = 3 if "idx3" in path.name else 1
    if data[:4] != bytes([0, 0, 8, axes]) or len(data) < 4 + 4 * axes:
        raise DataError(f"{path} is not an idx file of bytes with {axes} axes: fetch it again")
    shape = tuple(int(length) for length in np.frombuffer(data, ">u4", axes, 4))
    values = np.frombuffer(data, np.uint8, -1, 4 + 4 * axes)
    if len(values) != np.prod(shape):
        raise DataError(f"{path} has {len(values)} values, not {shape}: fetch it again")
    return values.reshape(shape)
