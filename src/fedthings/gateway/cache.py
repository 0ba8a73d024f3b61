"""The bodies that a gateway has fetched once for all its devices: tasks and models, by their SHA-256, on disk."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from fedthings.device.bodies import LARGEST
from fedthings.messages import Chunk, Offer, Want
from fedthings.server.bodies import INLINE, RETAINED
from fedthings.transport.chunks import CHUNK, Assembly, Source
from fedthings.transport.pacing import Pacing
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Transport


class Cache:
    """Files `<what>-<SHA-256>` in `directory`; small ones lie at the broker below as well, as the coordinator's do.

    Raises StoreError where the disk is full.
    """

    def __init__(self, directory: Path, up: Transport, down: Transport, pacing: Pacing, chunk: int = CHUNK) -> None:
        self._directory, self._up, self._down, self._chunk = directory, up, down, chunk
        self._sources: dict[bytes, tuple[str, Source]] = {}  # digest -> what it is, the body
        self._incoming: dict[bytes, Assembly] = {}
        self._pacing = pacing
        self._fetched = 0  # bytes that the link upward has brought
        self._published: dict[bytes, int] = {}  # digest -> chunks
        directory.mkdir(parents=True, exist_ok=True)
        for file in directory.glob("*-*"):
            what, _, name = file.name.partition("-")
            source = Source(file, chunk) if file.stat().st_size and not file.suffix else None
            if source is not None and source.digest.hex() == name:
                self._sources[source.digest] = what, source
            elif not file.suffix:  # with a suffix it is on its way in, and goes on
                file.unlink()

    @property
    def fetching(self) -> int:
        """How many bodies are on their way in."""
        return len(self._incoming)

    def has(self, digest: bytes) -> bool:
        """Return whether a body is here."""
        return digest in self._sources

    def here(self, offer: Offer) -> bool:
        """Return whether a body is here; begin to fetch it where it is not. Raises WireError for a wrong offer."""
        if offer.digest in self._sources:
            return True
        if offer.digest not in self._incoming:
            assembly = Assembly(offer, LARGEST, self._path(offer))
            if assembly.done:
                self._keep(offer)
                return True
            self._incoming[offer.digest] = assembly
        return False

    def ask(self, direct: bool = False) -> None:
        """Ask for the next chunks of what is on its way: from the broker above where they lie there."""
        for digest, assembly in self._incoming.items():
            chunk = assembly.offer.chunk
            assembly.length = min(chunk, self._pacing.length)
            from_broker = assembly.offer.retained and not direct and not assembly.wrong  # which may have it damaged
            for want in assembly.wants():
                if from_broker and want.length == chunk:
                    self._up.want_blob(digest, tuple(start // chunk for start in want.starts))
                else:
                    self._up.send(COORDINATOR, want)

    def retry(self, direct: bool = False) -> None:
        """Ask again for all that has not come: the link was lost, or a deadline has passed."""
        for assembly in self._incoming.values():
            assembly.retry()
        self.ask(direct)

    def again(self) -> None:
        """After the link was lost, ask again for all that was under way; in shorter chunks where little came."""
        if self._incoming:
            self._pacing.broke(self._fetched)
        self._fetched = 0
        self.retry()

    def add(self, chunk: Chunk) -> bool:
        """Take a chunk; return whether a body is whole with it. Raises WireError where it is not one of the body."""
        assembly = self._incoming.get(chunk.digest)
        if assembly is None:
            return False
        if assembly.add(chunk):
            self._fetched += len(chunk.data)
            self._pacing.flows(self._fetched)
        if not assembly.done:
            self.ask()
            return False
        del self._incoming[chunk.digest]
        self._keep(assembly.offer)
        return True

    def body(self, digest: bytes) -> bytes:
        """Return a whole body. Raises KeyError where it is not here."""
        body = self._sources[digest][1].body
        return body.read_bytes() if isinstance(body, Path) else body

    def tasks(self) -> Iterator[bytes]:
        """Yield the digests of the tasks that are here."""
        return (digest for digest, (what, _) in self._sources.items() if what == "task")

    def offer(self, digest: bytes) -> Offer:
        """Return the offer of a body that is here, for those below."""
        what, source = self._sources[digest]
        return source.offer(what, retained=digest in self._published, first=_inline(what, source))

    def find(self, want: Want) -> Source | None:
        """Return the source of the body that `want` names, if it is here."""
        return self._sources[want.digest][1] if want.digest in self._sources else None

    def publish(self) -> None:
        """Keep all small bodies at the broker below, which may have lost its store."""
        for digest in self._sources:
            self._retain(digest)

    def keep_only(self, digests: Collection[bytes]) -> None:
        """Forget all but these, at the broker below too."""
        for digest in self._sources.keys() - set(digests):
            _, source = self._sources.pop(digest)
            count = self._published.pop(digest, 0)
            if count:
                self._down.clear_blob(digest, count)
            assert isinstance(source.body, Path)
            source.body.unlink(missing_ok=True)
        for digest in self._incoming.keys() - set(digests):
            self._incoming.pop(digest).discard()

    def _path(self, offer: Offer) -> Path:
        return self._directory / f"{offer.what}-{offer.digest.hex()}"

    def _keep(self, offer: Offer) -> None:
        self._sources[offer.digest] = offer.what, Source(self._path(offer), self._chunk)
        self._retain(offer.digest)

    def _retain(self, digest: bytes) -> None:
        what, source = self._sources[digest]
        if source.count <= RETAINED and not _inline(what, source):
            self._published[digest] = source.count
            for index in range(source.count):
                self._down.publish_blob(index, source.chunk(index))


def _inline(what: str, source: Source) -> bool:
    return what == "model" and source.count == 1 and source.size <= INLINE
