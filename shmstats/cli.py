"""The commands: ``shmstats`` with its subcommands, and ``shmstats-dump``.

A command is a row of `COMMANDS` and a function in a module of `shmstats.terminal`, which is imported when the
command runs.
"""

from __future__ import annotations

from importlib import import_module

import click

from shmstats._version import __version__

#: The function of each command: ``module:function``.
COMMANDS = {
    "serve": "shmstats.terminal.serve:serve",
    "dump": "shmstats.terminal.dump:dump",
    "top": "shmstats.terminal.top:top",
    "stacks": "shmstats.terminal.top:stacks",
    "diff": "shmstats.terminal.diff:diff",
    "info": "shmstats.terminal.info:info",
    "reset": "shmstats.terminal.change:reset",
    "remove": "shmstats.terminal.change:remove",
    "clean": "shmstats.terminal.change:clean",
    "push": "shmstats.terminal.push:push",
    "kit": "shmstats.terminal.kit:kit",
}


def main() -> None:
    """Run ``shmstats``."""
    commands.main(prog_name="shmstats")


def dump_main() -> None:
    """Run ``shmstats-dump``."""
    command("dump").main(prog_name="shmstats-dump")


def command(name: str) -> click.Command:
    """Import and return a command.

    Raises:
        KeyError: there is no command with that name.
    """
    module, _, function = COMMANDS[name].partition(":")
    found = getattr(import_module(module), function)
    assert isinstance(found, click.Command)
    return found


class _Commands(click.Group):
    """The group of all commands in `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return command(cmd_name) if cmd_name in COMMANDS else None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="shmstats")
def commands() -> None:
    """Exact statistics for preforked Python web servers."""
