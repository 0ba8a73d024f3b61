"""The exception tree: every error a user can meet, and the exit code a command ends with.

FedthingsError                exit 1
├── SpecError                 exit 2   a federation, a setting or a combination that cannot be right
├── DataError                 exit 3   a data file or array that does not fit
├── TransportError            exit 4   a broker that is not there, refuses, or vanishes
├── StoreError                exit 5   a run directory that cannot be used, a full disk
└── WireError                          a message that is refused; it carries the reason that is counted

Each message names the thing, the value and the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class FedthingsError(Exception):
    """Root of the tree; a command prints its message and exits with `exit_code`."""

    exit_code = 1


class SpecError(FedthingsError):
    """A federation, a setting or a combination of them that cannot be right."""

    exit_code = 2


class DataError(FedthingsError):
    """A data file or an array that does not fit the task."""

    exit_code = 3


class TransportError(FedthingsError):
    """A broker that is not there, refuses the password, or vanishes."""

    exit_code = 4


class StoreError(FedthingsError):
    """A run directory that cannot be used: another federation's, not writable, disk full."""

    exit_code = 5


class WireError(FedthingsError):
    """A message or body that is refused; `reason` is a short word that is counted and answered."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return the end of an error message: the nearest valid name, or all of them."""
    names = sorted(valid)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else f"valid are: {', '.join(names)}"
