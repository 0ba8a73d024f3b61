"""What tells arrays from others."""

from __future__ import annotations

import numpy as np

from fedthings.vector import mark


def test_a_mark_tells_arrays_by_their_numbers_their_shape_and_their_type() -> None:
    row = np.arange(6.0)
    others = [row + 1, row.reshape(2, 3), row.reshape(3, 2), row.astype("f4"), row[:0], row[:0].reshape(0, 4)]
    assert len({mark(array) for array in (row, *others)}) == 7
    assert mark(row) == mark(np.arange(6.0), None) == mark(np.arange(12.0)[::2] / 2)
    assert mark(row, row) != mark(row) and mark(None) == mark() == ""
