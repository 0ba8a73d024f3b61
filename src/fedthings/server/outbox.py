"""The outbox: what is to be said once what is being done is durable."""

from __future__ import annotations

from msgspec.structs import replace

from fedthings.messages import Assignment, Envelope, Pause, Receipt


class Outbox:
    """Messages in order, each with its address; `take` empties it."""

    def __init__(self) -> None:
        self._messages: list[tuple[str, Envelope]] = []

    def put(self, to: str, message: Envelope) -> None:
        """Add `message` to the address `to`."""
        self._messages.append((to, message))

    def follow(self, device: str, message: Assignment | Pause) -> None:
        """Add what a sleeper is to do next: in one message with its receipt, where it is just given one.

        Each message keeps its radio on. A pause goes into the receipt; an assignment says itself what was kept.
        """
        for at, (to, said) in enumerate(self._messages):
            if to == device and isinstance(said, Receipt) and (isinstance(message, Pause) or not said.reason):
                in_one = replace(said, seconds=message.seconds) if isinstance(message, Pause) else message
                self._messages[at] = device, in_one
                return
        self.put(device, message)

    def take(self) -> list[tuple[str, Envelope]]:
        """Return all, and forget them; who has been given work meanwhile is not told to rest."""
        messages, self._messages = self._messages, []
        working = {to for to, message in messages if isinstance(message, Assignment)}
        return [(to, message) for to, message in messages if to not in working or not isinstance(message, Pause)]
