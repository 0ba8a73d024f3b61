"""Passwords for a broker, and their hashes as mosquitto_passwd(1) writes them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

ROUNDS = 1
"""PBKDF2 iterations: our passwords are drawn with 128 bits or more, which no iteration protects further, and
mosquitto hashes one for every client whenever it reads its files again."""
HASH = "$7$"
"""What a hash begins with."""


def drawn() -> str:
    """Return a new password of 128 bits."""
    return secrets.token_urlsafe(16)


def hashed(password: str, salt: bytes | None = None) -> str:
    """Return `$7$rounds$salt$hash`, PBKDF2 (RFC 8018) with HMAC-SHA-512."""
    salt = salt or secrets.token_bytes(12)
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ROUNDS, 64)
    return f"{HASH}{ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def parts(line: str) -> tuple[int, bytes, bytes] | None:
    """Return the iterations, salt and hash of `line`; None where it is none."""
    try:
        _, kind, rounds, salt, key = line.split("$")
        found = int(rounds), base64.b64decode(salt, validate=True), base64.b64decode(key, validate=True)
    except ValueError:
        return None
    return found if kind == "7" and 0 < found[0] <= 1_000_000 and len(found[2]) == 64 else None


def matches(password: str, line: str) -> bool:
    """Return whether `password` is the one of the hash `line`, in a time that does not tell where it differs."""
    known = parts(line)
    if known is None:
        return False
    rounds, salt, key = known
    return hmac.compare_digest(key, hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds, 64))
