"""``shmstats info``: what is installed, configured and running."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from shmstats._version import __version__
from shmstats.attachment.health import complaints_of, health
from shmstats.block import BlockError, identify
from shmstats.config import Settings
from shmstats.core import CORE
from shmstats.reading.reader import BlockReader, read_only
from shmstats.snapshot import store as saved
from shmstats.terminal.command import described, reading_command, settings_of, time_of, write_lines


@reading_command
def info(config: str | None, data: str | None) -> None:
    """Show what is installed, configured and running.

    The exit code is 1 if something is wrong.
    """
    settings = settings_of(config, data)
    wrong: list[str] = []
    facts = [*_facts(settings, wrong), *(("wrong", complaint) for complaint in wrong)]
    write_lines(f"{title:<15} {text}".rstrip() for title, text in facts)
    if wrong:
        raise click.exceptions.Exit(1)


def _facts(settings: Settings, wrong: list[str]) -> Iterator[tuple[str, str]]:
    """Give titles and texts, and collect what is wrong."""
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
            found = health(reader, identify(data).name)
            block = [("block", identify(data).name), *_block_facts(reader), *_health_facts(found)]
    except FileNotFoundError:
        block = [("block", "none")]
    except BlockError as error:
        block = [("block", f"not usable: {error}")]
        wrong.append("the block is not usable")
    else:
        wrong += complaints_of(found, _longest_without_save(settings))
    yield from block


def _block_facts(reader: BlockReader) -> Iterator[tuple[str, str]]:
    yield "layout version", str(reader.header.number("layout_version"))
    yield "protocol", reader.protocol
    yield "uptime", f"{reader.uptime:.0f} s"
    for part, usage in reader.usage().items():
        unit = " bytes" if part == "heap" else ""
        yield part, f"{usage.used} of {usage.capacity}{unit} in use"
    workers = reader.workers.live()
    yield "workers", f"{len(workers)} live"
    for worker in workers:
        yield "", f"pid {worker.pid}, row {worker.row}"


def _health_facts(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "saved", _ago(found["saved_seconds_ago"])
    yield "saver", "none" if found["saver"] is None else f"pid {found['saver']}"
    yield "pushed", _ago(found["pushed_seconds_ago"])
    yield "agents", f"{found['agents']} answer, {found['agents_missing']} do not"
    yield "dropped", f"{found['operations_dropped']} operations"


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.0f} s ago"


def _longest_without_save(settings: Settings) -> float | None:
    """Return the age in seconds at which a snapshot is too old: another saver takes over within 3 intervals."""
    return 4 * settings.stats.snapshot_interval_ms / 1000 + 10 if settings.stats.persist else None


def _saved_file(file: Path) -> str:
    try:
        found = file.stat()
    except FileNotFoundError:
        return "none"
    except OSError as error:
        return f"cannot be read: {described(error)}"
    return f"{file}, {found.st_size} bytes, saved {time_of(found)}"
