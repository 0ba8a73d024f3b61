"""A lane: one federation's share of a transport that several use. What it sends bears that federation's id."""

from __future__ import annotations

from fedthings.messages import Announce, Chunk, Envelope
from fedthings.transport.transport import Inbox, Transport


class Lane:
    """See `transport.Transport` for what its methods promise; everything arrives in the inbox of the `whole`."""

    def __init__(self, whole: Transport, federation: str) -> None:
        self.whole = whole
        self.federation = federation

    @property
    def inbox(self) -> Inbox:
        """Where everything arrives, of other federations too."""
        return self.whole.inbox

    @property
    def linked(self) -> bool:
        """Whether the link stands now."""
        return self.whole.linked

    @property
    def bytes_sent(self) -> int:
        """Payload bytes published so far, by all."""
        return self.whole.bytes_sent

    @property
    def bytes_received(self) -> int:
        """Payload bytes delivered so far, to all."""
        return self.whole.bytes_received

    def send(self, to: str, message: Envelope, federation: str = "") -> bool:
        """Send to the address `to`."""
        return self.whole.send(to, message, federation or self.federation)

    def announce(self, message: Announce, federation: str = "") -> bool:
        """Keep `message` at the broker for every device, now and later."""
        return self.whole.announce(message, federation or self.federation)

    def retract(self, federation: str = "") -> bool:
        """Take the announcement away from the broker."""
        return self.whole.retract(federation or self.federation)

    def publish_blob(self, index: int, chunk: Chunk, federation: str = "") -> bool:
        """Keep a chunk at the broker."""
        return self.whole.publish_blob(index, chunk, federation or self.federation)

    def clear_blob(self, digest: bytes, count: int) -> bool:
        """Take the chunks of a body away from the broker."""
        return self.whole.clear_blob(digest, count)

    def want_blob(self, digest: bytes, indexes: tuple[int, ...]) -> bool:
        """Fetch these retained chunks."""
        return self.whole.want_blob(digest, indexes)

    def close(self) -> None:
        """Nothing: the link is everyone's."""
