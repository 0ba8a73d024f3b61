"""kill -9 at a chosen point, in one process: what is durable or has left by then stays, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedthings.device.shelf import Shelf
from fedthings.server.models import Models
from fedthings.server.store import Store
from fedthings.transport.chunks import Assembly
from fedthings.transport.memory import MemoryTransport


class Killed(BaseException):
    """kill -9: nothing is cleaned up."""


class Fate:
    """Kills once, just before or just after the n-th thing that is durable or leaves the process.

    `more` are further such things: a class, and the name of its method.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *more: tuple[type, str]) -> None:
        self.seen = 0
        self.at = -1
        self.owner: object = None
        for kind, name in (
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
            *more,
        ):
            monkeypatch.setattr(kind, name, self.watch(getattr(kind, name)))

    def watch(self, function):
        def watched(*args, **kwargs):
            self.seen += 1
            number = self.seen  # what is done meanwhile has numbers of its own
            if number == self.at:
                raise Killed
            result = function(*args, **kwargs)
            if number == -self.at - 2:
                self.at = -1
                raise Killed
            return result

        return watched
