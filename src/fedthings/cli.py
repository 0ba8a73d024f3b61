"""The command line: the group, its commands found by name when asked for, and how errors end.

Nothing heavy may be imported here or at the top of a module in `commands`: `fedthings --help` stays quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from errno import ENOSPC
from importlib import import_module
from importlib.util import find_spec

import click

from fedthings import __version__
from fedthings.errors import FedthingsError, StoreError, nearest

COMMANDS = {
    "Train": ("demo", "simulate", "serve", "join", "gateway", "helper"),
    "Before": ("check", "audit"),
    "Who may join": ("enrol", "devices", "tls"),
    "A running federation": ("status", "pause", "resume", "cancel"),
    "Ask": ("query",),
    "Results": ("runs", "models", "export", "predict", "privacy"),
}
"""The commands in the order of `--help`; each is `fedthings.commands.NAME:command`, or as in `HOMES`."""

HOMES = dict.fromkeys(("status", "pause", "resume", "cancel"), "control")
"""Commands that share a module, in which they have their own names."""

INTERRUPTED = 130


class Commands(click.Group):
    """A group that imports a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in COMMANDS.values() for name in names if _there(name)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        module = import_module(f"fedthings.commands.{HOMES.get(name, name)}")
        found = getattr(module, name if name in HOMES else "command")
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            ctx.fail(f"there is no command {name!r}: {nearest(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in COMMANDS.items():
            found = [(name, command) for name in names if (command := self.get_command(ctx, name))]
            if found:
                with formatter.section(title):
                    formatter.write_dl([(name, command.get_short_help_str(100)) for name, command in found])


def _there(name: str) -> bool:
    return find_spec(f"fedthings.commands.{HOMES.get(name, name)}") is not None


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fedthings")
def fedthings() -> None:
    """Federated learning for fleets of things: the data stays on the devices.

    Begin with `fedthings demo`. Each command has an example in its --help.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 to 5 as in `errors`, 2 for wrong usage, 130 for Ctrl-C."""
    try:
        code = fedthings.main(arguments, prog_name="fedthings", standalone_mode=False)
        sys.stdout.flush()
    except FedthingsError as error:
        click.echo(f"fedthings: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; what is still buffered must not be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None and error.errno != ENOSPC:
            raise
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"fedthings: {where}{error.strerror}", err=True)
        return StoreError.exit_code if error.errno == ENOSPC else FedthingsError.exit_code
    return code if isinstance(code, int) else 0
