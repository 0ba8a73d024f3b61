"""What ends a process of ours: Ctrl-C, SIGTERM, the death of its parent; and what it alone may hold."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fedthings.errors import StoreError

_PR_SET_PDEATHSIG = 1  # prctl(2), Linux


class Ending:
    """Ctrl-C and SIGTERM as a note: `with Ending() as ending: ending.attach(inbox.wake); while not ending: ...`.

    `number` is the signal that came, 0 before. A second one, or one that comes before `attach`, ends the
    program at once. To be entered in the main thread; elsewhere whoever is there deals with signals.
    """

    def __init__(self) -> None:
        self.number = 0
        self._wake: Callable[[], None] | None = None
        self._before: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.number != 0

    @property
    def code(self) -> int:
        """The exit code that says which signal it was, as shells have it: 130 for Ctrl-C; 0 for none."""
        return 128 + self.number if self.number else 0

    def attach(self, wake: Callable[[], None]) -> None:
        """From now on there is a loop to end in order: `wake` makes it look at the note."""
        self._wake = wake

    def detach(self) -> None:
        """From now on there is none: a signal ends the program at once."""
        self._wake = None

    def __enter__(self) -> Self:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread
            self._before = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if self.number or self._wake is None:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        self.number = number
        self._wake()


def die_with(parent: int) -> None:
    """End this process when `parent` dies, whatever kills it (Linux); to be called in the main thread."""

    def orphaned(number: int, frame: object) -> None:
        if os.getppid() != parent:  # the kernel also signals when only the thread that started us ends
            os._exit(0)

    signal.signal(signal.SIGUSR1, orphaned)
    death_signal(signal.SIGUSR1)
    orphaned(0, None)  # it may have died before we asked


def death_signal(number: int) -> None:
    """Ask the kernel for signal `number` when the parent dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


@contextmanager
def alone(directory: Path, what: str) -> Iterator[None]:
    """Hold `directory` for this process; `what` names it. Raises StoreError where another one holds it.

    The kernel lets go when the process ends, whatever ends it.
    """
    path = directory / "lock"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"{directory} cannot be used: {error.strerror}; name another directory") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(handle, 20).decode(errors="replace").strip() or "unknown"
            raise StoreError(
                f"{what} {directory} is in use by process {holder}: stop that one, or name another"
            ) from None
        with suppress(OSError):  # on a full disk the lock holds too; only who has it is not to be read
            os.truncate(handle, 0)
            os.write(handle, b"%d\n" % os.getpid())
        yield
    finally:
        os.close(handle)
