"""The trace of a run: every event and the commands that followed, with the time (law 2)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from fedthings.protocol.events import Command, Event


def traced(now: float, event: Event, commands: Sequence[Command]) -> str:
    """Return the line of trace.jsonl for one event and its commands."""
    words = [[type(word).__name__.lower(), *word] for word in (event, *commands)]
    return json.dumps([now, *words]) + "\n"
