"""``shmstats info``: what is installed, configured and running."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import click

from shmstats import snapshot as saved
from shmstats._version import __version__
from shmstats.block import BlockError, BlockReader, read_only, segment_name
from shmstats.config import Settings
from shmstats.core import CORE
from shmstats.terminal.command import CONTEXT, Command, reading_options, settings_of, time_of, write_to_stdout


@click.command(cls=Command, context_settings=CONTEXT)
@reading_options
def info(config: str | None, data: str | None) -> None:
    """Tell what is installed, configured and running."""
    settings = settings_of(config, data)
    lines = (f"{title:<15} {text}".rstrip() + "\n" for title, text in _facts(settings))
    write_to_stdout("".join(lines).encode())


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
    return f"{file}, {found.st_size} bytes, saved {time_of(found)}"
