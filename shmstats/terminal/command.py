"""The common parts of all commands: options, errors of one line, writing to standard output.

Exit codes: 0 success, 1 failure, 2 wrong usage. A command raises, and `Command` prints the error as one line on
stderr.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from shmstats.block import BlockError
from shmstats.config import ConfigError, PathSettings, Settings, SettingsSection, load
from shmstats.export.printable import printable
from shmstats.snapshot.format import SnapshotError

_Item = TypeVar("_Item")

_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?P<count>[0-9]{1,9}(?:\.[0-9]+)?) *(?P<unit>s|m|min|h|d|)")
_LONGEST = 366 * 86400

_CONTEXT = {"help_option_names": ["-h", "--help"]}


class NotThereError(Exception):
    """The object of a command does not exist: a block, a snapshot, a statistic, a directory."""


class Failure(click.ClickException):
    """A failure, as one line."""

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(printable(" ".join(f"{command}: {reason}".split("\n"))))

    def show(self, file: Any = None) -> None:
        """Write the line on stderr."""
        click.echo(self.message, file=file, err=file is None)


class Command(click.Command):
    """A command that reports failures in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a failure ends it with exit code 1 and one line."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (BlockError, ConfigError, NotThereError, SnapshotError) as error:
            raise Failure(ctx.command_path, str(error)) from error
        except OSError as error:
            raise Failure(ctx.command_path, described(error)) from error
        except Exception as error:
            reason = f"{type(error).__name__}: {error} (this is a bug in shmstats: please report it)"
            raise Failure(ctx.command_path, reason) from error


class Key(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 or so
    """The type of an option that overrides a key of the configuration, and follows its rule."""

    def __init__(self, section: type[SettingsSection], key: str) -> None:
        self._rule = section.rules[key]
        self._type = int if int in self._rule.types else str
        self.name = "integer" if self._type is int else "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value of the key; a value that its rule does not accept is wrong usage."""
        try:
            converted = self._type(value)
        except ValueError:
            converted = None
        if converted is None or not self._rule.accepts(converted):
            self.fail(f"found {value!r}; allowed: {self._rule.allowed}", param, ctx)
        return converted


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 or so
    """The type of an option for a duration: ``90``, ``10s``, ``15m``, ``1h``, ``1d``; its value is in seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds; anything but a duration above 0 is wrong usage."""
        match = _DURATION.fullmatch(str(value))
        seconds = float(match["count"]) * _UNITS[match["unit"]] if match else 0.0
        if not 0 < seconds <= _LONGEST:
            self.fail(f"found {value!r}; allowed: a time above 0, as 90, 10s, 15m, 1h, 1d; at most a year", param, ctx)
        return seconds


def command(function: Callable[..., Any]) -> click.Command:
    """Make a command of a function."""
    return click.command(cls=Command, context_settings=_CONTEXT)(function)


def reading_command(function: Callable[..., Any]) -> click.Command:
    """Make a command of a function, with the options ``--config`` and ``--data`` before its own."""
    config = click.option("--config", metavar="FILE", help="YAML file with the configuration.")
    data = click.option(
        "--data", metavar="DIR", type=Key(PathSettings, "data"), help="Data directory, instead of path.data."
    )
    return command(config(data(function)))


def not_empty(ctx: click.Context, param: click.Parameter, given: Any) -> Any:
    """Refuse an empty text as an option's value."""
    if given == "" or (isinstance(given, tuple) and "" in given):
        raise click.BadParameter("found ''; allowed: a text that is not empty")
    return given


def settings_of(config: str | None, data: str | None) -> Settings:
    """Return the settings for the options ``--config`` and ``--data``."""
    settings = load(config)
    return settings if data is None else settings.replaced(path=PathSettings(Path(data)))


def note(text: str) -> None:
    """Write a line on stderr, unless it is empty."""
    if text:
        click.echo(printable(f"{click.get_current_context().command_path}: {text}"), err=True)


def repeat(do: Callable[[], None], seconds: float, *expected: type[Exception]) -> None:
    """Do something repeatedly until interrupted; an expected error is printed once for each reason."""
    said = ""
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(seconds)
            try:
                do()
                said = ""
            except expected as error:
                reason = getattr(error, "reason", str(error))
                note(str(error) if reason != said else "")
                said = reason


def progress(items: Sequence[_Item], label: str) -> Sequence[_Item]:
    """Return the items; if stderr is a terminal, it shows a progress bar whenever they are iterated over."""
    return _Watched(items, label) if has_bar() else items


def has_bar() -> bool:
    """Tell whether `progress` shows a bar."""
    return sys.stderr is not None and sys.stderr.isatty()


class _Watched(list[_Item]):
    """A list with a progress bar.

    Args:
        items: of the list.
        label: of the bar.
    """

    def __init__(self, items: Iterable[_Item], label: str) -> None:
        super().__init__(items)
        self._label = label

    def __iter__(self) -> Iterator[_Item]:
        steps = max(len(self) // 200, 1)
        with click.progressbar(self[:], label=self._label, file=sys.stderr, update_min_steps=steps) as items:
            yield from items


def write_to_stdout(content: bytes) -> None:
    """Write to standard output.

    Raises:
        OSError: it is closed or full, or its reader has gone.
    """
    if sys.stdout is None:
        raise OSError("standard output is closed")
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except OSError as error:
        # The rest of the buffer must not fail again when the interpreter exits.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise OSError(error.errno, error.strerror, "standard output") from error


def write_lines(lines: Iterable[str]) -> None:
    """Write lines to standard output, with nothing in them that a terminal would obey."""
    write_to_stdout("".join(f"{printable(line)}\n" for line in lines).encode(errors="replace"))


def time_of(file: os.stat_result) -> str:
    """Return when a file was last written, in local time for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(file.st_mtime))


def described(error: OSError) -> str:
    """Return the message of a system error, with the file that it is about."""
    if error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{os.fsdecode(error.filename)}: {error.strerror}"
