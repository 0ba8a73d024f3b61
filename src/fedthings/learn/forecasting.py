"""Models that forecast a series from a window of it, as lists of layers that end in the units of the target.

`input` is (steps, channels), as `window` of a task gives it.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedthings.errors import SpecError
from fedthings.learn.model import Sequential, conv1d, decompose, dense, flatten, gru, rescale, sequential


def dlinear(input: Sequence[int], outputs: int = 1, kernel: int = 25) -> Sequential:
    """Return DLinear: one linear layer on the trend and one on the remainder, added (Zeng et al. 2023, section 4).

    Where there are several channels, each has its own weights to every output.
    """
    return sequential(_checked("dlinear", input), decompose(kernel), flatten(), dense(outputs), rescale())


def rnn(input: Sequence[int], units: int = 32, outputs: int = 1) -> Sequential:
    """Return a recurrent network: gated units (Cho et al. 2014), and a linear layer on their last state."""
    return sequential(_checked("rnn", input), gru(units), dense(outputs), rescale())


def tcn(input: Sequence[int], filters: int = 32, outputs: int = 1) -> Sequential:
    """Return a temporal network: causal convolutions with dilations 1, 2, 4, ..., and a linear layer on the last step.

    Bai et al. 2018, section 3.2; without residual blocks, which a list of layers has no place for. Together they see
    the window and nothing before it, so no zeros are put in front, and of each layer only what the last step needs is
    computed.
    """
    steps, _ = _checked("tcn", input)
    convolutions, left, dilation = [], steps - 1, 1
    while left:
        dilation = min(dilation, left)
        convolutions.append(conv1d(filters, 2, activation="relu", dilation=dilation))
        left, dilation = left - dilation, 2 * dilation
    return sequential(input, *convolutions, flatten(), dense(outputs), rescale())


def _checked(name: str, input: Sequence[int]) -> tuple[int, int]:
    """Return steps and channels. Raises SpecError."""
    if not isinstance(input, Sequence) or len(input) != 2 or min(input) < 1:
        raise SpecError(f"{name}: the input is {input!r}: give (steps, channels), such as (24, 1)")
    return input[0], input[1]
