"""Deadlines: what each device took for its last tasks, and the seconds it is given for the next one.

A time is that from the assignment to the report, so it holds the link, the training and any sleep in between.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from fedthings.protocol.pace import Pace

LAST = 16
"""Times remembered of a device."""
FEWEST = 3
"""Times below which a device has all of the patience: too little is known."""
QUANTILE = 0.9


class Deadlines:
    """Seconds for each device: `pace.slack` times its own quantile, at most `pace.patience`.

    A missed deadline doubles the next one, until a report comes (RFC 6298, section 5.5): how long the task would
    have taken is not known.
    """

    def __init__(self) -> None:
        self._took: dict[str, list[float]] = {}
        self._missed: dict[str, int] = {}  # in a row

    def seconds(self, device: str, pace: Pace) -> float:
        """Return the seconds that `device` has for a task given out now."""
        took = self._took.get(device, ())
        if not pace.slack or len(took) < FEWEST:
            return pace.patience
        usual: float = sorted(took)[ceil(QUANTILE * len(took)) - 1]
        return min(pace.patience, pace.slack * usual * 2.0 ** min(self._missed.get(device, 0), 64))

    def took(self, device: str, seconds: float) -> None:
        """Note that a report came after `seconds`."""
        took = self._took.setdefault(device, [])
        took.append(seconds)
        del took[:-LAST]
        self._missed.pop(device, None)

    def missed(self, device: str) -> None:
        """Note that a deadline has passed."""
        self._missed[device] = self._missed.get(device, 0) + 1

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data."""
        return {"took": {device: list(took) for device, took in self._took.items()}, "missed": dict(self._missed)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `snapshot` returned."""
        self._took = {device: list(took) for device, took in state["took"].items()}
        self._missed = dict(state["missed"])
