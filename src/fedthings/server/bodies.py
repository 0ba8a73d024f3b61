"""What devices pull: the task and the models that open assignments name, and their retained chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

import msgspec

from fedthings import down
from fedthings.bodies import Work
from fedthings.engine import Engine
from fedthings.messages import Offer, Want
from fedthings.protocol.events import Ticket
from fedthings.spelling import encode
from fedthings.transport.chunks import CHUNK, Source
from fedthings.transport.transport import Transport
from fedthings.wire import pack_body

Body: TypeAlias = "tuple[str, int, int, Ticket | None]"
"""What it is, the phase, the version, and the ticket whose model it is told by, None for all of it."""

RETAINED = 64
"""Chunks: a body of at most so many is kept at the broker too, which then does the fan-out."""
INLINE = 4096
"""Bytes: a model of at most so many travels in the offer itself, which saves a round trip to the broker."""


class Bodies:
    """The sources of one service. Large bodies lie in `directory`; what lies at the broker is in `published`."""

    def __init__(self, directory: Path, transport: Transport, chunk: int = CHUNK) -> None:
        self._directory = directory
        self._transport = transport
        self._chunk = chunk
        self._sources: dict[Body, Source] = {}
        self.published: dict[bytes, int] = {}  # digest -> chunks
        self.files: dict[str, Path] = {}  # large bodies by their SHA-256, for HTTP
        self.also: Callable[[bytes], bool] = lambda digest: False  # whether another federation has it at the broker too
        self.http = self.token = ""  # where they can be had so
        directory.mkdir(parents=True, exist_ok=True)

    def task(self, engine: Engine) -> Offer:
        """Return the offer of the running phase's task."""
        key = ("task", engine.phase, 0, None)
        if key not in self._sources:
            self._add(key, pack_body(Work(engine.phase, encode(engine.spec))))
        return self._offer(key)

    def model(self, engine: Engine, version: int, kept: Ticket | None) -> tuple[Offer, Offer | None]:
        """Return the offers of the model that the running phase's devices receive as `version`.

        The first is of all of it, the second of what it differs in from that of `kept`, the last ticket of the device
        that was kept; None where that is not less.
        """
        base = down.base(engine, version, kept)
        whole = self._model(engine, version, None)
        if base is None:
            return whole, None
        return msgspec.structs.replace(whole, first=None), self._model(engine, version, base)

    def _model(self, engine: Engine, version: int, base: Ticket | None) -> Offer:
        told = None if base is None else base._replace(device="", attempt=0)  # the same for all that hold it
        key = ("model", engine.phase, version, told)
        if key not in self._sources:
            self._add(key, down.packed(engine, version, base))
        return self._offer(key)

    def find(self, want: Want) -> Source | None:
        """Return the source of the body that `want` names, if it is still to be had."""
        return next((s for s in self._sources.values() if s.digest == want.digest), None)

    def keep_only(self, phase: int, versions: Iterable[int]) -> None:
        """Forget models that no open task and no newest version needs, at the broker too."""
        wanted = {("model", phase, version) for version in versions} | {("task", phase, 0)}
        for key in [key for key in self._sources if key[:3] not in wanted]:
            source = self._sources.pop(key)
            self._clear(source.digest)
            self.files.pop(source.digest.hex(), None)
            if isinstance(source.body, Path):
                source.body.unlink(missing_ok=True)

    def publish(self) -> None:
        """Keep all chunks at the broker, which may have lost its store; clear what an earlier process left."""
        live = {source.digest for source in self._sources.values()}
        for digest in [digest for digest in self.published if digest not in live]:
            self._clear(digest)
        for key in self._sources:
            self._retain(key)

    def _offer(self, key: Body) -> Offer:
        source = self._sources[key]
        if self.http and isinstance(source.body, Path):
            return source.offer(key[0], http=self.http, token=self.token)
        return source.offer(key[0], retained=source.digest in self.published, first=self._inline(key))

    def _add(self, key: Body, body: bytes) -> None:
        kept: bytes | Path = body
        if len(body) > RETAINED * self._chunk:
            told = "" if key[3] is None else f"-{key[3].phase}-{key[3].version}"
            kept = self._directory / f"{key[0]}-{key[1]}-{key[2]}{told}.cbor"
            kept.write_bytes(body)
        self._sources[key] = source = Source(kept, self._chunk)
        if isinstance(kept, Path):
            self.files[source.digest.hex()] = kept
        self._retain(key)

    def _inline(self, key: Body) -> bool:
        """Return whether the offer holds the body: a task is fetched once, a model for each version."""
        source = self._sources[key]
        return key[0] == "model" and source.count == 1 and source.size <= INLINE

    def _retain(self, key: Body) -> None:
        source = self._sources[key]
        if source.count <= RETAINED and not self._inline(key):
            self.published[source.digest] = source.count
            for index in range(source.count):
                self._transport.publish_blob(index, source.chunk(index))

    def _clear(self, digest: bytes) -> None:
        count = self.published.pop(digest, 0)
        if count and not self.also(digest):
            self._transport.clear_blob(digest, count)
