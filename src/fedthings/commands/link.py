"""What a device and a gateway are asked alike: how they are linked upward, and for how long."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

PASSWORD = "FEDTHINGS_PASSWORD"

_OPTIONS = (
    click.option(
        "--password-file",
        "password_files",
        multiple=True,
        type=click.Path(),
        help=f"A file that holds the password; or one for each broker.  [default: the environment's {PASSWORD}]",
    ),
    click.option("--root", default="ft", show_default=True, help="The first level of the topics there."),
    click.option("--federation", metavar="NAME", help="Take part in this one only."),
    click.option("--once", is_flag=True, help="End with the federation instead of waiting for the next."),
    click.option(
        "--reconnect",
        default=60.0,
        show_default=True,
        type=click.FloatRange(0.1),
        help="Longest wait in seconds before a lost link is tried again.",
    ),
)


def link(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a link upward to `command`: password_files, root, federation, once, reconnect."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def linked(brokers: Sequence[str], name: str, password_files: Sequence[str]) -> list[str]:
    """Return the URLs of `brokers` with the passwords of `name`. Raises DataError, SpecError, UsageError."""
    from fedthings.device.join import with_password

    if len(password_files) > 1 and len(password_files) != len(brokers):
        raise click.UsageError(
            f"there are {len(password_files)} password files for {len(brokers)} brokers: give one for all or each"
        )
    words = [_secret(file) for file in password_files or (None,)]
    words *= len(brokers) // len(words)
    return [with_password(broker, name, word) for broker, word in zip(brokers, words, strict=True)]


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
