"""What a device and a gateway are asked alike: how they are linked upward, and for how long."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PASSWORD = "FEDTHINGS_PASSWORD"

_OPTIONS = (
    click.option(
        "--password-file",
        type=click.Path(),
        help=f"A file that holds the password.  [default: the environment's {PASSWORD}]",
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
    """Add the options of a link upward to `command`: password_file, root, federation, once, reconnect."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def linked(broker: str, name: str, password_file: str | None) -> str:
    """Return the URL of `broker` with the password of `name`. Raises DataError, SpecError."""
    from fedthings.device.join import with_password

    return with_password(broker, name, _secret(password_file))


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
