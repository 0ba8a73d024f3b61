"""Who may connect to the embedded broker, and what each may read and write: one file, two brokers.

`broker.json` (mode 0600) holds the port and the passwords; from it come a file of hashes and a file of access
rules in mosquitto's formats. The amqtt broker reads the same files, in its own process.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedthings.errors import SpecError, StoreError
from fedthings.transport import topics
from fedthings.wire import NAME

ROUNDS = 1000
"""PBKDF2 iterations: generated passwords have 128 bits, and a broker hashes one each time a device links."""

_HASH = "$7$"


class Access:
    """The broker's place and the passwords, kept in `directory/broker.json`.

    A password may stand there as its hash: who joins is known so, and only the coordinator's is not.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.host = "127.0.0.1"
        self.port = 0
        self.root = topics.ROOT
        self.passwords: dict[str, str] = {}
        self.read()

    @property
    def hashes(self) -> Path:
        """The file of `user:$7$rounds$salt$hash` lines."""
        return self.directory / "broker.passwords"

    @property
    def rules(self) -> Path:
        """The file of access rules, as mosquitto.conf(5) describes them."""
        return self.directory / "broker.access"

    def read(self) -> None:
        """Take what `broker.json` says, where there is one. Raises StoreError."""
        path = self.directory / "broker.json"
        try:
            known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
            self.host = str(known.get("host", self.host))
            self.port = int(known.get("port", self.port))
            self.root = str(known.get("root", self.root))
            self.passwords = {str(k): str(v) for k, v in known.get("passwords", {}).items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise StoreError(f"{path} cannot be read ({error}): mend it, or move it away") from None

    def write(self) -> None:
        """Write all three files anew, readable by their owner only. Raises StoreError."""
        known = {"host": self.host, "port": self.port, "root": self.root, "passwords": self.passwords}
        private(self.directory / "broker.json", json.dumps(known, indent=1) + "\n")
        lines = [
            f"{user}:{word if word.startswith(_HASH) else hashed(word)}\n"
            for user, word in sorted(self.passwords.items())
        ]
        private(self.hashes, "".join(lines))
        private(self.rules, "".join(f"user {user}\n{self._rules(user)}\n" for user in sorted(self.passwords)))

    def admit(self, passwords: Mapping[str, str]) -> None:
        """Let these users in; a password "" is made up. Raises SpecError."""
        for user, password in passwords.items():
            if not NAME.fullmatch(user):
                raise SpecError(f"a device cannot be called {user!r}: use 1 to 64 of A-Z a-z 0-9 . _ -")
            self.passwords[user] = password or self.passwords.get(user) or secrets.token_urlsafe(16)

    def _rules(self, user: str) -> str:
        reads, writes = topics_of(self.root, user)
        lines = [f"topic read {topic}" for topic in reads] + [f"topic write {topic}" for topic in writes]
        return "\n".join(lines) + "\n"


def topics_of(root: str, user: str) -> tuple[list[str], list[str]]:
    """Return which topics `user` may read and write; a device cannot speak as another, nor hear for it."""
    if user == topics.COORDINATOR:
        return [f"{root}/#"], [f"{root}/#"]
    reads = [topics.to(root, user), f"{root}/announce/#", f"{root}/blob/#"]
    return reads, [topics.sent(root, user)]


def hashed(password: str, salt: bytes | None = None) -> str:
    """Return `$7$rounds$salt$hash`, PBKDF2 (RFC 8018) with HMAC-SHA-512, as mosquitto_passwd(1) writes it."""
    salt = salt or secrets.token_bytes(12)
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ROUNDS, 64)
    return f"{_HASH}{ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def matches(password: str, line: str) -> bool:
    """Return whether `password` is the one of the hash `line`, in a time that does not tell where it differs."""
    try:
        _, kind, rounds, salt, key = line.split("$")
        wanted = base64.b64decode(key)
        found = hashlib.pbkdf2_hmac("sha512", password.encode(), base64.b64decode(salt), int(rounds), 64)
    except ValueError:
        return False
    return kind == "7" and hmac.compare_digest(wanted, found)


def private(path: Path, text: str) -> None:
    """Write `text` to `path`, mode 0600, all of it or nothing. Raises StoreError."""
    fresh = path.with_name(path.name + ".new")
    try:
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        fresh.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; is the folder writable?") from error
