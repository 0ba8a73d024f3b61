"""The TLS files of one machine: where they lie, and what is linked and configured with them.

All lies in `DIRECTORY/tls`, where `certificates` makes it: `ca.pem` is for everybody, all else for this machine only,
mode 0600.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from fedthings.device.identity import trust
from fedthings.errors import StoreError
from fedthings.transport.topics import COORDINATOR

FOLDER = "tls"
BROKER, CLIENTS = "broker", "clients"


def own_trust(directory: Path) -> ssl.SSLContext | None:
    """Return how the own broker of `directory` is linked to: over TLS where `make` was called, else None.

    Raises SpecError, StoreError.
    """
    folder = directory / FOLDER
    if not (folder / "ca.pem").is_file():
        return None
    own = folder / CLIENTS / f"{COORDINATOR}.pem"
    certificate = (str(own), str(own.with_suffix(".key"))) if own.is_file() else ()
    try:
        return trust((folder / "ca.pem").read_text(), *certificate)
    except OSError as error:
        raise StoreError(f"{folder / 'ca.pem'} cannot be read: {error.strerror}") from None


def mosquitto_lines(directory: Path) -> list[str]:
    """Return the lines of mosquitto.conf(5) for TLS; none where there is none."""
    folder = directory / FOLDER
    if not (folder / f"{BROKER}.pem").is_file():
        return []
    lines = [
        f"cafile {folder / 'ca.pem'}",
        f"certfile {folder / BROKER}.pem",
        f"keyfile {folder / BROKER}.key",
        "tls_version tlsv1.2",
    ]
    return [*lines, "require_certificate true"] if mutual(directory) else lines


def mutual(directory: Path) -> bool:
    """Return whether the broker asks everyone for a certificate."""
    return (directory / FOLDER / CLIENTS).is_dir()
