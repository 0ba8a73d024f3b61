"""Who may connect to the embedded broker, and what each may read and write: one file, two brokers.

`broker.json` (mode 0600) holds the port and the passwords; from it come a file of hashes and a file of access
rules in mosquitto's formats. The amqtt broker reads the same files, in its own process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedthings.errors import SpecError, StoreError
from fedthings.identity.files import private
from fedthings.identity.passwords import HASH, drawn, hashed
from fedthings.server.tls import mosquitto_lines
from fedthings.transport import topics
from fedthings.wire import NAME


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
        self.home = directory  # whose TLS files the broker has
        self.read()

    @property
    def hashes(self) -> Path:
        """The file of `user:$7$rounds$salt$hash` lines."""
        return self.directory / "broker.passwords"

    @property
    def rules(self) -> Path:
        """The file of access rules, as mosquitto.conf(5) describes them."""
        return self.directory / "broker.access"

    @property
    def tls(self) -> list[str]:
        """The lines of mosquitto.conf(5) for TLS; none: without."""
        return mosquitto_lines(self.home)

    def read(self) -> None:
        """Take what `broker.json` says, where there is one. Raises StoreError."""
        path = self.directory / "broker.json"
        try:
            known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
            self.host = str(known.get("host", self.host))
            self.port = int(known.get("port", self.port))
            self.root = str(known.get("root", self.root))
            self.home = Path(known.get("home", self.home))
            self.passwords = {str(k): str(v) for k, v in known.get("passwords", {}).items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise StoreError(f"{path} cannot be read ({error}): mend it, or move it away") from None

    def write(self) -> None:
        """Write all three files anew, readable by their owner only. Raises StoreError."""
        known = {"host": self.host, "port": self.port, "root": self.root, "passwords": self.passwords}
        if self.home != self.directory:
            known["home"] = str(self.home.absolute())
        private(self.directory / "broker.json", json.dumps(known, indent=1) + "\n")
        lines = [
            f"{user}:{word if word.startswith(HASH) else hashed(word)}\n"
            for user, word in sorted(self.passwords.items())
        ]
        private(self.hashes, "".join(lines))
        private(self.rules, rules(self.root))

    def admit(self, passwords: Mapping[str, str]) -> None:
        """Let in these users, and the coordinator, and nobody else; "" is the password there, or made up.

        Raises SpecError.
        """
        for user in passwords:
            if not NAME.fullmatch(user):
                raise SpecError(f"a device cannot be called {user!r}: use 1 to 64 of A-Z a-z 0-9 . _ -")
        known = self.passwords
        all_of_them = {topics.COORDINATOR: "", **passwords}
        self.passwords = {user: word or known.get(user) or drawn() for user, word in all_of_them.items()}


def topics_of(root: str, user: str) -> tuple[list[str], list[str]]:
    """Return which topics `user` may read and write; a device cannot speak as another, nor hear for it."""
    if user == topics.COORDINATOR:
        return [f"{root}/#"], [f"{root}/#"]
    own = f"{root}/to/{user}"
    return [own, f"{own}/#", f"{root}/announce/#", f"{root}/blob/#"], [f"{root}/from/{user}"]


def rules(root: str) -> str:
    """Return mosquitto's access file: as `topics_of`, for whoever it lets in."""
    reads, writes = topics_of(root, "%u")
    lines = [f"user {topics.COORDINATOR}", f"topic readwrite {root}/#", ""]
    lines += [f"pattern read {topic}" for topic in reads] + [f"pattern write {topic}" for topic in writes]
    return "\n".join(lines) + "\n"
