"""The counter-based generator of a key (Salmon et al. 2011, Philox 4x64)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import Generator, Philox
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray


def generator(key: int) -> Generator:
    """Return the generator of the 128-bit `key`: that of `Philox(key=key)`, which asks the system for entropy first."""
    return Generator(Philox(_Words(key)))  # type: ignore[arg-type]


class _Words(ISeedSequence):
    """A key, where NumPy expects a sequence of seeds."""

    def __init__(self, key: int) -> None:
        self.key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[np.uint64]:
        """Return the two words of 64 bits that Philox asks for."""
        return np.array([self.key & (2**64 - 1), self.key >> 64], np.uint64)
