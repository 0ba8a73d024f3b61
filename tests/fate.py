"""kill -9 at a chosen point, in one process: what is durable or has left by then stays, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fedthings.device.shelf import Shelf
from fedthings.server.models import Models
from fedthings.server.store import Store
from fedthings.transport.chunks import Assembly
from fedthings.transport.memory import MemoryTransport

THINGS: Sequence[tuple[Any, str]] = (
    (Store, "journal"),
    (Store, "commit"),
    (Store, "checkpoint"),
    (Models, "__setitem__"),
    (Models, "__delitem__"),
    (Assembly, "__init__"),
    (MemoryTransport, "send"),
    (MemoryTransport, "publish_blob"),
    (Shelf, "hold"),
    (Shelf, "settle"),
    (Path, "unlink"),
)
"""What is durable or leaves the process: a class, and the name of its method."""


class Killed(BaseException):
    """kill -9 of whom it names: nothing is cleaned up."""


class Fate:
    """Kills once, just before the n-th of `things` (`at` n) or just after it (`at` -n); 0 kills nobody.

    `whose` says of the object of a method to whom it belongs, "" for one who is never killed.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        things: Sequence[tuple[Any, str]] = THINGS,
        whose: Callable[[Any], str] = lambda owner: "anybody",
    ) -> None:
        self.seen = self.at = 0
        self._whose = whose
        for kind, name in things:
            monkeypatch.setattr(kind, name, self._watched(getattr(kind, name)))

    def begin(self, at: int) -> None:
        """Count anew, and kill at that point."""
        self.seen, self.at = 0, at

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            victim = self._whose(args[0])
            if not victim:
                return function(*args, **kwargs)
            self.seen += 1
            number = self.seen  # what is done meanwhile has numbers of its own
            if number == self.at:
                raise Killed(victim)
            result = function(*args, **kwargs)
            if number == -self.at:
                raise Killed(victim)
            return result

        return watched
