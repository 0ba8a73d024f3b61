"""Who may join: the devices table of a run directory, and the password that each is given once.

The coordinator keeps hashes only; `<directory>/passwords/NAME` is for its owner to carry to the device.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedthings.errors import SpecError, StoreError
from fedthings.server import place
from fedthings.server.access import hashed, private
from fedthings.server.store import Store
from fedthings.transport.topics import COORDINATOR
from fedthings.wire import NAME

PASSWORDS = "passwords"


def add(directory: Path, names: Iterable[str]) -> dict[str, str]:
    """Let `names` join; return each one's new password, kept here as its hash only.

    Raises SpecError for a name that cannot be, StoreError where one is there already.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        check(name)
    passwords = {name: secrets.token_urlsafe(16) for name in names}
    own(directory)
    with _store(directory, new=True) as store:
        there = {device["name"] for device in store.devices()} & set(names)
        if there:
            raise StoreError(f"the device {min(there)} is there already: remove it first for a new password")
        for name, password in passwords.items():
            store.add_device(name, hashed(password))
    return passwords


def remove(directory: Path, names: Iterable[str]) -> None:
    """Let `names` join no longer. Raises StoreError where one is not on the list."""
    names = list(dict.fromkeys(names))
    own(directory)
    with _store(directory) as store:
        known = [device["name"] for device in store.devices()]
        for name in names:
            if name not in known:
                shown = ", ".join(known[:10]) or "nobody"
                raise StoreError(f"the device {name!r} is not on the list of {directory}, which has {shown}")
        for name in names:
            store.remove_device(name)
            password_file(directory, name).unlink(missing_ok=True)


def listed(directory: Path) -> list[dict[str, Any]]:
    """Return every device that may join, with what it has cost."""
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


def hand_out(directory: Path, passwords: dict[str, str]) -> dict[str, Path]:
    """Write each password into a file that only its owner may read, and return where."""
    try:
        (directory / PASSWORDS).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{directory / PASSWORDS} cannot be made: {error.strerror}") from None
    for name, password in passwords.items():
        private(password_file(directory, name), password + "\n")
    return {name: password_file(directory, name) for name in passwords}


def password_file(directory: Path, name: str) -> Path:
    """Return where the password of device `name` is left for its owner."""
    return directory / PASSWORDS / name


def check(name: str) -> None:
    """Raise SpecError unless `name` can be a device's: part of a topic and of a file's name."""
    if not NAME.fullmatch(name) or not name.strip("."):
        raise SpecError(f"a device cannot be called {name!r}: use 1 to 64 of A-Z a-z 0-9 . _ -")
    if name == COORDINATOR:
        raise SpecError(f"a device cannot be called {name!r}, which is the coordinator's: choose another name")


def own(directory: Path) -> None:
    """Raise StoreError where `directory` is one of several that share the devices of the directory above."""
    above = directory.resolve().parent
    shared = place.read(above)
    if shared is not None and not shared.federation and directory.resolve().name in place.several(above):
        raise StoreError(f"{directory} shares its devices with other federations: name {directory.parent} with --out")


@contextmanager
def _store(directory: Path, new: bool = False) -> Iterator[Store]:
    try:
        if new:
            directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{directory} cannot be made: {error.strerror}") from None
    if not directory.is_dir():
        raise StoreError(f"there is no run directory {directory}: name one with --out")
    store = Store(directory)
    try:
        yield store
    finally:
        store.close()
