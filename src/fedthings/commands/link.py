"""What a device, a gateway and a helper are asked alike: who they are, how they are linked upward, and for how long."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import ssl

    from fedthings.device.way import Way

PASSWORD = "FEDTHINGS_PASSWORD"

_OPTIONS = (
    click.option(
        "--token",
        "token_files",
        multiple=True,
        type=click.Path(),
        help="The file that `fedthings enrol` has made; or one for each broker. Needed once.",
    ),
    click.option(
        "--broker",
        "brokers",
        multiple=True,
        metavar="URL",
        help="mqtt://HOST:PORT or mqtts://HOST:PORT.  [default: the token's]",
    ),
    click.option("--root", metavar="NAME", help="The first level of the topics there.  [default: the token's, or ft]"),
    click.option(
        "--password-file",
        "password_files",
        multiple=True,
        type=click.Path(),
        help=f"For a broker with logins of its own: a file that holds the password.  [default: {PASSWORD}]",
    ),
    click.option("--ca", type=click.Path(), help="mqtts: the authority's certificates (PEM).  [default: the token's]"),
    click.option("--cert", type=click.Path(), help="Mutual TLS: this end's certificate (PEM)."),
    click.option("--cert-key", type=click.Path(), help="Mutual TLS: its private key (PEM)."),
    click.option(
        "--reconnect",
        default=60.0,
        show_default=True,
        type=click.FloatRange(0.1),
        help="Longest wait in seconds before a lost link is tried again.",
    ),
)


password = click.option(
    "--password-file",
    type=click.Path(),
    help=f"With --broker: a file that holds the coordinator's password there.  [default: {PASSWORD}]",
)
ca = click.option("--ca", type=click.Path(), help="With --broker mqtts://: the authority's certificates (PEM).")
"""What is asked of an operator who names a broker."""


def with_password(url: str, file: str | None) -> str:
    """Return the broker's `url` with the coordinator's password, which stands in `file` or in the environment.

    Raises DataError, SpecError.
    """
    if "://" not in url:
        return url
    from fedthings.transport.link import with_login
    from fedthings.transport.topics import COORDINATOR

    return with_login(url, COORDINATOR, _secret(file))


def trusted(file: str | None) -> ssl.SSLContext | None:
    """Return how a broker's certificate is checked, by those in `file`. Raises DataError, SpecError."""
    if file is None:
        return None
    from fedthings.device.identity import trust

    return trust(pem(file))


def link(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a link upward to `command`: those of `way`, and reconnect."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


once = click.option("--once", is_flag=True, help="End with the federation instead of waiting for the next.")
federation = click.option("--federation", metavar="NAME", help="Take part in this one only.")


def way(
    name: str | None,
    state: str | None,
    token_files: Sequence[str],
    brokers: Sequence[str],
    root: str | None,
    password_files: Sequence[str],
    ca: str | None,
    cert: str | None,
    cert_key: str | None,
) -> Way:
    """Return who this end is and how it is linked, its state in `state` or `~/.fedthings/NAME`.

    Raises DataError, SpecError.
    """
    from fedthings.device.way import Way, named

    name, given = named(name, token_files)
    directory = Path(state).expanduser() if state else Path.home() / ".fedthings" / name
    words = [_secret(file) for file in password_files or (None,)]
    authority = pem(ca) if ca else ""
    return Way(
        name,
        directory,
        brokers,
        given,
        words,
        root=root or "",
        ca=authority,
        certificate=cert or "",
        key=cert_key or "",
    )


def pem(file: str) -> str:
    """Return the text of the certificates in `file`. Raises DataError."""
    from fedthings.errors import DataError

    try:
        return Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the certificates {file} cannot be read: {error}") from None


def say(text: str) -> None:
    """Tell the owner what is going on."""
    click.echo(text, err=True)


def _secret(file: str | None) -> str:
    """Return the password in `file`, or in the environment, or ""."""
    if file is None:
        return os.environ.get(PASSWORD, "")
    from fedthings.errors import DataError

    try:
        return Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the password file {file} cannot be read: {error}") from None
