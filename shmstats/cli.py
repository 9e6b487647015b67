"""The commands: ``shmstats`` with its subcommands, and ``shmstats-dump``.

``shmstats-dump`` (also ``shmstats dump``) and ``info`` only read: the live block through `read_only`, without
attaching as a worker, or else the saved snapshot. ``reset`` and ``remove`` attach as a worker for as long
as they take, ``clean`` works on files alone, and ``serve`` becomes gunicorn's master.

A command that cannot do what it is asked to raises, and `Command` makes one line on stderr of that: exit
code 1. Wrong usage is click's to report: exit code 2. What only some commands need (flask, gunicorn,
psutil, the formats) is imported where it is needed, because a dump should take no longer than it must.
"""

from __future__ import annotations

import json
import os
import platform
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

import click

from . import snapshot as saved
from ._version import __version__
from .block import BlockError, BlockReader, read_only, segment_name
from .block.workers import start_time
from .config import ApiSettings, ConfigError, PathSettings, Rule, Settings, load
from .core import CORE
from .registry import Registry
from .series import Snapshot

_FORMATS = ("json", "prometheus", "openmetrics", "csv", "table")

#: The formats that have a place for the values of single workers.
_FORMATS_BY_WORKER = ("json", "csv", "table")

_LONGEST_WATCH = 86_400.0


def main() -> None:
    """Run ``shmstats``."""
    commands.main(prog_name="shmstats")


def dump_main() -> None:
    """Run ``shmstats-dump``."""
    dump.main(prog_name="shmstats-dump")


class _NotThereError(Exception):
    """What a command is to work on is not there: a block, a snapshot, a statistic."""


class _Failure(click.ClickException):
    """What could not be done, as one line."""

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(" ".join(f"{command}: {reason}".split("\n")))

    def show(self, file: Any = None) -> None:
        click.echo(self.message, file=file, err=file is None)


class Command(click.Command):
    """A command that reports what it cannot do in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Do what is asked for; what fails ends the command by exit code 1 and one line."""
        try:
            return super().invoke(ctx)
        except (BlockError, ConfigError, _NotThereError, saved.SnapshotError) as error:
            raise _Failure(ctx.command_path, str(error)) from error
        except OSError as error:
            raise _Failure(ctx.command_path, _described(error)) from error


class Key(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 or so
    """The type of an option that overrides a key of the configuration, and has its rule."""

    def __init__(self, section: type[Any], key: str) -> None:
        rules = {field.name: field.metadata["rule"] for field in fields(section)}
        self._rule: Rule = rules[key]
        self._type = int if int in self._rule.types else str
        self.name = "integer" if self._type is int else "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value as the configuration has it; what its rule does not accept is wrong usage."""
        try:
            converted = self._type(value)
        except ValueError:
            converted = None
        if converted is None or not self._rule.accepts(converted):
            self.fail(f"found {value!r}; allowed: {self._rule.allowed}", param, ctx)
        return converted


def _interval(ctx: click.Context, param: click.Parameter, seconds: float | None) -> float | None:
    if seconds is not None and not 0 < seconds <= _LONGEST_WATCH:
        raise click.BadParameter(f"found {seconds}; allowed: more than 0, at most {_LONGEST_WATCH:.0f}")
    return seconds


def _not_empty(ctx: click.Context, param: click.Parameter, given: Any) -> Any:
    if given == "" or (isinstance(given, tuple) and "" in given):
        raise click.BadParameter("found ''; allowed: a text that is not empty")
    return given


_config_option = click.option("--config", metavar="FILE", help="YAML file with the configuration.")
_data_option = click.option(
    "--data", metavar="DIR", type=Key(PathSettings, "data"), help="Data directory, instead of path.data."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="shmstats")
def commands() -> None:
    """Exact statistics for preforked Python web servers."""


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@_config_option
@_data_option
@click.option("--format", "form", type=click.Choice(_FORMATS), default="json", show_default=True)
@click.option(
    "--category",
    "globs",
    metavar="GLOB",
    multiple=True,
    callback=_not_empty,
    help="Only categories that match. Repeatable.",
)
@click.option("--workers", "by_worker", is_flag=True, help="Break values down by worker row.")
@click.option("--watch", metavar="SECONDS", type=float, callback=_interval, help="Again every so many seconds.")
@click.option(
    "--output",
    metavar="FILE",
    default="-",
    callback=_not_empty,
    help="Replace FILE, atomically; - is stdout.",
)
@click.option("--from", "file", metavar="SNAPSHOT", callback=_not_empty, help="Read this saved snapshot instead.")
def dump(
    config: str | None,
    data: str | None,
    form: str,
    globs: tuple[str, ...],
    by_worker: bool,
    watch: float | None,
    output: str,
    file: str | None,
) -> None:
    """Write a snapshot of all statistics.

    It is taken of the live block, without disturbing it. Where there is none, the saved snapshot is written.
    """
    if by_worker and form not in _FORMATS_BY_WORKER:
        raise click.UsageError(f"--workers goes with --format {', '.join(_FORMATS_BY_WORKER)} only.")

    if file is not None and (data is not None or watch is not None):
        raise click.UsageError("--from reads one file, once: it goes neither with --data nor with --watch.")

    def chosen(category: str) -> bool:
        return not globs or any(fnmatchcase(category, glob) for glob in globs)

    read = _file_reader(Path(file)) if file is not None else _data_reader(config, data, by_worker, chosen)

    def write_once() -> None:
        _write(output, _formatted(_only(read(), chosen), form))

    if watch is None:
        write_once()
    else:
        _repeat(write_once, watch)


@commands.command(cls=Command)
@_config_option
@_data_option
def info(config: str | None, data: str | None) -> None:
    """Tell what is installed, configured and running."""
    settings = _settings(config, data)
    _print("".join(f"{title:<15} {text}".rstrip() + "\n" for title, text in _facts(settings)).encode())


def _change_command(function: Callable[..., None]) -> click.Command:
    """Make a command of a function that changes a metric, or a whole category."""
    function = click.argument("category")(click.argument("metric", required=False)(function))
    return commands.command(cls=Command)(_config_option(_data_option(function)))


@_change_command
def reset(config: str | None, data: str | None, category: str, metric: str | None) -> None:
    """Set a metric, or a whole category, to 0 for all workers."""
    _change(_settings(config, data), Registry.reset, "reset", category, metric)


@_change_command
def remove(config: str | None, data: str | None, category: str, metric: str | None) -> None:
    """Remove a metric, or a whole category, for all workers."""
    _change(_settings(config, data), Registry.remove, "removed", category, metric)


@commands.command(cls=Command)
@_config_option
@_data_option
def clean(config: str | None, data: str | None) -> None:
    """Remove damaged snapshots that were set aside, and temporary files of dead processes."""
    directory = _settings(config, data).path.data
    if not directory.exists():
        raise _NotThereError(f"there is no data directory {directory}")
    removed = 0
    for file in _left_over(saved.stats_directory(directory)):
        with suppress(FileNotFoundError):
            file.unlink()
            removed += 1
            click.echo(f"removed {file}")
    if not removed:
        click.echo("nothing to remove")


@commands.command(cls=Command)
@_config_option
@_data_option
@click.option("--bind", metavar="ADDRESS", type=Key(ApiSettings, "bind"), help="Instead of api.bind.")
@click.option("--workers", metavar="N", type=Key(ApiSettings, "workers"), help="Instead of api.workers.")
def serve(config: str | None, data: str | None, bind: str | None, workers: int | None) -> None:
    """Serve the statistics endpoints under gunicorn."""
    settings = _settings(config, data)
    check_data_directory(settings.path.data)
    api = replace(settings.api, bind=bind or settings.api.bind, workers=workers or settings.api.workers)
    with suppress(FileNotFoundError), read_only(settings.path.data):
        pass  # a block that must not be used is found here, not by every worker
    _serve(replace(settings, api=api))


commands.add_command(dump, "dump")


# Settings ----------------------------------------------------------------------------------------


def _settings(config: str | None, data: str | None) -> Settings:
    settings = load(config)
    return settings if data is None else replace(settings, path=PathSettings(Path(data)))


# Reading -----------------------------------------------------------------------------------------


def _file_reader(file: Path) -> Callable[[], Snapshot]:
    def read() -> Snapshot:
        return saved.load(file)

    return read


def _data_reader(
    config: str | None, data: str | None, by_worker: bool, chosen: Callable[[str], bool]
) -> Callable[[], Snapshot]:
    """Return a function that reads the live block; else the saved snapshot, which it says, once."""
    settings = _settings(config, data)
    said = ""

    def read() -> Snapshot:
        nonlocal said
        with ExitStack() as opened:
            try:
                reader = opened.enter_context(read_only(settings.path.data))
            except FileNotFoundError:
                snapshot, notice = _read_saved(settings.path.data)
            else:
                system = _system_figures(reader, settings) if chosen("system") else {}
                snapshot, notice = replace(reader.read(by_worker), system=system), ""
        if notice != said:
            _note(notice)
        said = notice
        return snapshot

    return read


def _read_saved(data: Path) -> tuple[Snapshot, str]:
    """Return the newest snapshot that can be read, and a line that says which it is.

    `shmstats.snapshot.load_newest` is for those who start a block: it moves damaged files, a reader must not.

    Raises:
        _NotThereError: there is none.
    """
    directory = saved.stats_directory(data)
    failures = ""
    for file in (directory / saved.FILE, directory / saved.PREVIOUS):
        try:
            snapshot = saved.load(file)
            written = _time_of(file.stat())
        except FileNotFoundError:
            continue
        except OSError as error:
            failures += f"; {_described(error)}"
        except saved.SnapshotError as error:
            failures += f"; {error}"
        else:
            return snapshot, f"no live block for {data}: this is {file}, saved {written}{failures}"
    raise _NotThereError(
        f"there is neither a live block nor a readable snapshot for the data directory {data}{failures}"
    )


def _system_figures(reader: BlockReader, settings: Settings) -> dict[str, int | float]:
    from .debug.processes import system_figures
    from .files import directory_bytes

    figures = system_figures((worker.pid for worker in reader.workers.live()), reader.uptime)
    figures.pop("gc", None)  # of this process alone, which is none of the workers
    if settings.stats.include_storage_stats_in_api:
        figures["store"] = directory_bytes(settings.path.data)
    return figures


def _only(snapshot: Snapshot, chosen: Callable[[str], bool]) -> Snapshot:
    """Return the part of a snapshot that is in the chosen categories."""
    kept = [i for i, name in enumerate(snapshot.names) if chosen(name.category)]
    return replace(
        snapshot,
        names=[snapshot.names[i] for i in kept],
        values=[snapshot.values[i] for i in kept],
        workers={row: [values[i] for i in kept] for row, values in snapshot.workers.items()},
    )


# Writing -----------------------------------------------------------------------------------------


def _formatted(snapshot: Snapshot, form: str) -> bytes:
    from . import export

    match form:
        case "json":
            return (json.dumps(export.to_document(snapshot), ensure_ascii=False, indent=2) + "\n").encode()
        case "csv":
            return export.to_csv(snapshot).encode()
        case "table":
            return export.to_table(snapshot).encode()
        case "openmetrics":
            return export.render(snapshot, export.Exposition.OPENMETRICS)
        case _:
            return export.render(snapshot, export.Exposition.TEXT)


def _repeat(write_once: Callable[[], None], seconds: float) -> None:
    """Write again and again until interrupted, which is the proper end and not a failure.

    While an application restarts there may be nothing to read for a moment, or a block that is not finished;
    only at the beginning is that a reason to give up.
    """
    said = ""
    try:
        write_once()
        while True:
            time.sleep(seconds)
            try:
                write_once()
                said = ""
            except (BlockError, _NotThereError) as error:
                if str(error) != said:
                    _note(str(error))
                said = str(error)
    except KeyboardInterrupt:
        return


def _write(output: str, content: bytes) -> None:
    if output == "-":
        _print(content)
        return
    try:
        if _is_replaceable(output):
            _replace_file(Path(os.path.realpath(output)), content)
        else:
            with open(output, "wb") as stream:
                stream.write(content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"--output {output}") from error


def _is_replaceable(output: str) -> bool:
    """Tell whether there is a regular file or nothing yet; a device or a pipe is written to as it is."""
    try:
        return stat.S_ISREG(os.stat(output).st_mode)
    except FileNotFoundError:
        return True


def _replace_file(file: Path, content: bytes) -> None:
    """Replace a file's content at once, with the mode that it has, or that a new file gets."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    stream = open(temporary, "xb")  # noqa: SIM115 - what follows is undone if it fails
    try:
        with stream:
            with suppress(FileNotFoundError):
                os.fchmod(stream.fileno(), stat.S_IMODE(file.stat().st_mode))
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _note(text: str) -> None:
    if text:
        click.echo(f"{click.get_current_context().command_path}: {text}", err=True)


def _print(content: bytes) -> None:
    if sys.stdout is None:
        raise OSError("standard output is closed")
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except OSError as error:
        # What is left in the buffer must not fail once more when the interpreter exits.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise OSError(error.errno, error.strerror, "standard output") from error


# Changing ----------------------------------------------------------------------------------------


def _change(
    settings: Settings,
    operation: Callable[[Registry, str, str | None], int],
    done: str,
    category: str,
    metric: str | None,
) -> None:
    """Attach to the live block, do something with the names that are meant, and leave."""
    try:
        with read_only(settings.path.data) as reader:
            layout = reader.layout
    except FileNotFoundError:
        _refuse_without_block(settings.path.data)
    stats = replace(settings.stats, enabled=True, capacity=layout.capacity, max_workers=layout.max_workers)
    registry = Registry()
    registry.init(asdict(replace(settings, stats=stats)))
    try:
        changed = operation(registry, category, metric)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    finally:
        registry.close()
    if not changed:
        what = f"category {category!r}" if metric is None else f"metric {metric!r} of category {category!r}"
        raise _NotThereError(f"there is no {what}")
    click.echo(f"{done} {changed} {'statistic' if changed == 1 else 'statistics'}")


def _refuse_without_block(data: Path) -> NoReturn:
    directory = saved.stats_directory(data)
    kept = next((file for name in (saved.FILE, saved.PREVIOUS) if (file := directory / name).exists()), None)
    rest = f", only the saved snapshot {kept}: start the application first" if kept else ""
    raise _NotThereError(f"there is no live block for the data directory {data}{rest}")


# Cleaning ----------------------------------------------------------------------------------------

_DAMAGED = re.compile(rf"(?:{re.escape(saved.FILE)}|{re.escape(saved.PREVIOUS)})\.damaged-.+")
_TEMPORARY = re.compile(rf"\.{re.escape(saved.FILE)}\.([0-9]+)-[0-9]+(?:\.1)?")


def _left_over(directory: Path) -> Iterator[Path]:
    """Find the files that nobody will read or write again."""
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        temporary = _TEMPORARY.fullmatch(entry.name)
        is_stale = temporary is not None and start_time(int(temporary[1])) is None
        if entry.is_file(follow_symlinks=False) and (is_stale or _DAMAGED.fullmatch(entry.name)):
            yield Path(entry.path)


# Telling -----------------------------------------------------------------------------------------


def _facts(settings: Settings) -> Iterator[tuple[str, str]]:
    data = settings.path.data
    yield "version", __version__
    yield "core", CORE
    yield "python", platform.python_version()
    yield "configuration", settings.source or "defaults"
    yield "data directory", str(data)
    yield "statistics", "enabled" if settings.stats.enabled else "disabled"
    yield "snapshot", _saved_file(saved.stats_directory(data) / saved.FILE)
    try:
        with read_only(data) as reader:
            block = [("block", segment_name(data)), *_block_facts(reader)]
    except FileNotFoundError:
        block = [("block", "none")]
    except BlockError as error:
        block = [("block", f"not usable: {error}")]
    yield from block


def _block_facts(reader: BlockReader) -> Iterator[tuple[str, str]]:
    yield "layout version", str(reader.header("layout_version"))
    yield "protocol", reader.protocol
    yield "uptime", f"{reader.uptime:.0f} s"
    for part, usage in reader.usage().items():
        unit = " bytes" if part == "heap" else ""
        yield part, f"{usage.used} of {usage.capacity}{unit} in use"
    workers = reader.workers.live()
    yield "workers", f"{len(workers)} live"
    for worker in workers:
        yield "", f"pid {worker.pid}, row {worker.row}"


def _saved_file(file: Path) -> str:
    try:
        found = file.stat()
    except FileNotFoundError:
        return "none"
    return f"{file}, {found.st_size} bytes, saved {_time_of(found)}"


def _time_of(saved_file: os.stat_result) -> str:
    """Return when a snapshot was saved, as people of this time zone read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(saved_file.st_mtime))


def _described(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{os.fsdecode(error.filename)}: {error.strerror}"


# Serving -----------------------------------------------------------------------------------------


def check_data_directory(data: Path) -> None:
    """Refuse a data directory that is none and cannot be made, because of a file in its place or above it.

    An application goes on without it; who starts a server by hand is better told at once.

    Raises:
        NotADirectoryError: the file that is in the way.
    """
    place = saved.stats_directory(data)
    there = next(path for path in (place, *place.parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(
            f"the data directory {data} "
            + ("is not a directory" if there == data else f"cannot be made: {there} is not a directory")
        )


def _serve(settings: Settings) -> NoReturn:
    """Become gunicorn's master; returns by exit only."""
    from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]

    class Server(BaseApplication):  # type: ignore[misc]  # here, because its base takes long to import
        def load_config(self) -> None:
            self.cfg.set("bind", settings.api.bind)
            self.cfg.set("workers", settings.api.workers)
            self.cfg.set("proc_name", "shmstats")
            if "control_socket_disable" in self.cfg.settings:  # since gunicorn 25
                self.cfg.set("control_socket_disable", True)

        def load(self) -> Any:
            from .web import create_app

            return create_app(asdict(settings))

    Server(prog="shmstats serve").run()
    sys.exit(0)
