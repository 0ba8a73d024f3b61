"""What an operator does to the list of devices of a run directory; tokens are left there for their owners.

`<directory>/tokens/NAME.token` is to be carried to the device; the coordinator keeps nothing that lets anybody in.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from fedthings.errors import StoreError
from fedthings.identity import tokens
from fedthings.identity.keys import held, public_of
from fedthings.identity.tokens import Token
from fedthings.server import place
from fedthings.server.access import Access
from fedthings.server.roll import Roll, check
from fedthings.server.store import Store
from fedthings.transport.topics import check_root

KEY_FILE = "coordinator.key"
"""The coordinator's private key, by which devices know it."""
LINKS_FILE = "coordinator.links"
TOKENS = "tokens"
LASTS = 30 * 86400.0
"""Seconds for which a token can be used, unless set otherwise."""


def enrol(
    directory: Path,
    names: Iterable[str] = (),
    count: int = 0,
    *,
    group: str = "",
    lasts: float = LASTS,
    approve: bool = False,
    broker: str = "",
    root: str = "",
    again: bool = False,
) -> list[Path]:
    """Make a token for each of `names`, or one for `count` devices of any name; return their files, of mode 0600.

    `broker` is the URL that devices are to use, without a user, `root` the first level of the topics there, "" for the
    run's; `approve`: the operator is asked; `again`: for devices on the list, whose keys are replaced.
    Raises SpecError for a name that cannot be, StoreError.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        check(name)
    if group:
        check(group, "a group")
    own(directory)
    root = check_root(root or _root(directory))
    with _roll(directory, new=not again) as roll:
        public = public_of(held(directory / KEY_FILE))
        authority = directory / "tls" / "ca.pem"
        ca = authority.read_text() if authority.is_file() else ""
        out = [
            replace(tokens.made(public, time.time() + lasts, name, group), broker=broker, root=root, ca=ca)
            for name in names or [""]
        ]
        roll.issue(out, count or 1, approve, again)
    return [_left(directory, token) for token in out]


def _root(directory: Path) -> str:
    """Return the first level of the topics of `directory`: where it was served, or is to be."""
    served = place.read(directory)
    return served.root if served is not None else Access(directory).root


def _left(directory: Path, token: Token) -> Path:
    try:
        (directory / TOKENS).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{directory / TOKENS} cannot be made: {error.strerror}") from None
    path = token_file(directory, token.name or token.group or token.id)
    token.write(path)
    return path


def token_file(directory: Path, name: str) -> Path:
    """Return where the token of device `name` is left for its owner."""
    return directory / TOKENS / f"{name}.token"


@contextmanager
def opened(directory: Path) -> Iterator[Roll]:
    """Read or change the roll of `directory`. Raises StoreError."""
    own(directory)
    with _roll(directory) as roll:
        yield roll


def listed(directory: Path) -> list[dict[str, Any]]:
    """Return every device on the list, with its state, key and group, and what it has cost."""
    with _store(directory) as store:
        return store.devices()


def costs(directory: Path) -> list[dict[str, Any]]:
    """Return the same as `listed`, with what each has cost in all federations that share `directory`."""
    found = {device["name"]: device for device in listed(directory)}
    for run in place.several(directory).values():
        for device in listed(run):
            for cost in ("reports", "bytes_up", "bytes_down"):
                if device["name"] in found:
                    found[device["name"]][cost] += device[cost]
    return list(found.values())


def own(directory: Path) -> None:
    """Raise StoreError where `directory` is one of several that share the devices of the directory above."""
    above = directory.resolve().parent
    shared = place.read(above)
    if shared is not None and not shared.federation and directory.resolve().name in place.several(above):
        raise StoreError(f"{directory} shares its devices with other federations: name {directory.parent} with --out")


@contextmanager
def _roll(directory: Path, new: bool = False) -> Iterator[Roll]:
    with _store(directory, new) as store:
        yield Roll(store)


@contextmanager
def _store(directory: Path, new: bool = False) -> Iterator[Store]:
    try:
        if new:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)  # keys lie in it
    except OSError as error:
        raise StoreError(f"{directory} cannot be made: {error.strerror}") from None
    if not directory.is_dir():
        raise StoreError(f"there is no run directory {directory}: name one with --out")
    store = Store(directory)
    try:
        yield store
    finally:
        store.close()
