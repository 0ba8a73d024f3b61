"""What a device keeps on its disk: its own state, the report under way, and the newest model.

State commits when its report was kept and rolls back otherwise (law 8). Without a directory it is in memory.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any, NamedTuple

from fedthings import checkpoint
from fedthings.errors import StoreError
from fedthings.learn import save
from fedthings.learn.model import Sequential
from fedthings.protocol.events import Ticket
from fedthings.vector import Vector

STATE, REPORT, MODEL, BODIES = "state.cbor", "report.cbor", "model.safetensors", "bodies"


class Pending(NamedTuple):
    """A report that waits for its receipt, and what the device keeps if the report is kept.

    That is its state, and the body of the model it was trained from, empty where nothing is told by it.
    """

    ticket: Ticket
    report: bytes
    state: Any
    model: bytes


class Held(NamedTuple):
    """The body of the model of the last ticket that was kept: the next is told by what differs from it."""

    ticket: Ticket
    body: bytes


class Shelf:
    """The state of one device in one phase of one federation. Raises StoreError where it cannot be written."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self.scope = ""  # federation and phase that the state belongs to
        self.state: Any = None
        self.held: Held | None = None
        self.pending: Pending | None = None
        if directory is not None:
            with _told(directory):
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._load(directory)

    def enter(self, scope: str, closing: bool = False) -> None:
        """Begin `scope` with nothing kept, unless it is the one at hand; `closing` goes on with what was kept."""
        if scope != self.scope:
            self.scope, self.state, self.pending = scope, self.state if closing else None, None
            self._write()

    def hold(self, ticket: Ticket, report: bytes, state: Any, model: bytes = b"") -> None:
        """Keep the finished report of `ticket` until its receipt; a restart sends it again."""
        self.pending = Pending(ticket, report, state, model)
        self._write()

    def holds(self, ticket: Ticket | None) -> bool:
        """Return whether the report of `ticket` is made, and waits for its receipt."""
        return self.pending is not None and self.pending.ticket == ticket

    def settle(self, kept: Ticket | None) -> None:
        """Commit the pending state if `kept` names its ticket; roll back otherwise."""
        pending, self.pending = self.pending, None
        if pending is None:
            return
        changed = pending.ticket == kept and (pending.state is not None or bool(pending.model))
        if changed and pending.state is not None:
            self.state = pending.state
        if changed and pending.model:
            self.held = Held(pending.ticket, pending.model)
        if self.directory is not None:
            if changed:
                self._write()
            else:  # the state on the disk is right; only the report goes
                with _told(self.directory):
                    (self.directory / REPORT).unlink(missing_ok=True)

    def keep(self, model: Sequential, row: Vector, version: int) -> None:
        """Keep the newest model for predictions; without a directory there is nowhere to."""
        if self.directory is not None:
            with _told(self.directory):
                save.save(self.directory / MODEL, model, row, {"version": str(version)})

    def place(self, digest: bytes) -> Path | None:
        """Return where the large body with this SHA-256 lies or comes in; None without a directory."""
        if self.directory is None:
            return None
        with _told(self.directory):
            (self.directory / BODIES).mkdir(exist_ok=True)
        return self.directory / BODIES / digest.hex()

    def keep_bodies(self, digests: Container[bytes]) -> None:
        """Remove all large bodies but these."""
        if self.directory is not None and (self.directory / BODIES).is_dir():
            with _told(self.directory):
                for path in (self.directory / BODIES).iterdir():
                    if bytes.fromhex(path.name.removesuffix(".part")) not in digests:
                        path.unlink()

    def _write(self) -> None:
        if self.directory is None:
            return
        held = None if self.held is None else [list(self.held.ticket), self.held.body]
        with _told(self.directory):
            # The state first: killed in between, the report is still there and commits it once more.
            if self.pending is None or not (self.directory / STATE).exists():
                _replace(self.directory / STATE, checkpoint.pack([self.scope, self.state, held]))
            if self.pending is None:
                (self.directory / REPORT).unlink(missing_ok=True)
            else:
                ticket, *rest = self.pending
                _replace(self.directory / REPORT, checkpoint.pack([self.scope, list(ticket), *rest]))

    def _load(self, directory: Path) -> None:
        if not (directory / STATE).exists():
            return
        try:
            self.scope, self.state, held = checkpoint.unpack((directory / STATE).read_bytes())
            self.held = None if held is None else Held(Ticket(*held[0]), held[1])
            if (directory / REPORT).exists():
                scope, ticket, *rest = checkpoint.unpack((directory / REPORT).read_bytes())
                if scope == self.scope:
                    self.pending = Pending(Ticket(*ticket), *rest)
        except (StoreError, ValueError, TypeError):
            raise StoreError(
                f"the state in {directory} is damaged: remove {STATE} and {REPORT} there, and this device begins anew"
            ) from None


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(data)
    partial.replace(path)


class _told:  # noqa: N801
    """Turn the disk's errors into ours."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError):
            raise StoreError(
                f"the device's directory {self.directory} cannot be used: {error.strerror}; "
                "make room or name another with --state"
            ) from None
