"""``shmstats reset``, ``remove`` and ``clean``.

The first two attach to the live block as a worker, change it, and leave; without a block, remove changes the saved
snapshot. The last one removes the files of a data directory that nobody will read or write again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import click

from shmstats.block import identify
from shmstats.block.attaching import nobody_attaches
from shmstats.config import Settings
from shmstats.reading.reader import read_only
from shmstats.registry import Registry
from shmstats.snapshot import store as saved
from shmstats.terminal.command import NotThereError, progress, reading_command, settings_of

_DAMAGED = re.compile(rf"(?:{re.escape(saved.FILE)}|{re.escape(saved.PREVIOUS)})\.damaged-.+")


def _change_command(function: Callable[..., None]) -> click.Command:
    """Make a command from a function that changes a metric, or a whole category."""
    return reading_command(click.argument("category")(click.argument("metric", required=False)(function)))


@_change_command
def reset(config: str | None, data: str | None, category: str, metric: str | None) -> None:
    """Set a metric, or a whole category, to 0 for all workers."""
    _change(settings_of(config, data), Registry.reset, "reset", category, metric)


@_change_command
def remove(config: str | None, data: str | None, category: str, metric: str | None) -> None:
    """Remove a metric, or a whole category, for all workers.

    If there is no live block, it is removed from the saved snapshot.
    """
    settings = settings_of(config, data)
    removed = _remove_saved(settings.path.data, category, metric)
    if removed:
        click.echo(f"removed {_statistics(removed)} from the saved snapshot: there is no live block")
    else:
        _change(settings, Registry.remove, "removed", category, metric)


@reading_command
def clean(config: str | None, data: str | None) -> None:
    """Remove damaged snapshots and temporary files.

    These are snapshots that were set aside because they are damaged, and temporary files of dead processes.
    """
    directory = settings_of(config, data).path.data
    if not directory.exists():
        raise NotThereError(f"there is no data directory {directory}")
    removed = []
    for file in progress(list(_left_over(saved.stats_directory(directory))), "Removing"):
        with suppress(FileNotFoundError):
            file.unlink()
            removed.append(f"removed {file}")
    click.echo("\n".join(removed) or "nothing to remove")


def _remove_saved(data: Path, category: str, metric: str | None) -> int:
    """Remove series from the saved snapshot; returns their number."""
    identity = identify(data)
    identity.check_user()
    if os.path.lexists(identity.segment):
        return 0
    with nobody_attaches(identity) as alone:
        return saved.remove(saved.stats_directory(data), category, metric) if alone else 0


def _change(
    settings: Settings,
    operation: Callable[[Registry, str, str | None], int],
    done: str,
    category: str,
    metric: str | None,
) -> None:
    registry = attached(settings)
    if registry is None:
        _refuse_without_block(settings.path.data)
    try:
        changed = operation(registry, category, metric)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    finally:
        registry.close()
    if not changed:
        what = f"category {category!r}" if metric is None else f"metric {metric!r} of category {category!r}"
        raise NotThereError(f"there is no {what}")
    click.echo(f"{done} {_statistics(changed)}")


def attached(settings: Settings) -> Registry | None:
    """Return a registry attached to the live block, with the block's size; None if there is no block."""
    try:
        with read_only(settings.path.data) as reader:
            layout = reader.layout
    except FileNotFoundError:
        return None
    stats = settings.stats.replaced(enabled=True, capacity=layout.capacity, max_workers=layout.max_workers)
    registry = Registry()
    registry.init(settings.replaced(stats=stats).as_mapping())
    return registry


def _statistics(number: int) -> str:
    return f"{number} {'statistic' if number == 1 else 'statistics'}"


def _refuse_without_block(data: Path) -> NoReturn:
    directory = saved.stats_directory(data)
    kept = next((file for name in (saved.FILE, saved.PREVIOUS) if (file := directory / name).exists()), None)
    rest = f", only the saved snapshot {kept}: start the application first" if kept else ""
    raise NotThereError(f"there is no live block for the data directory {data}{rest}")


def _left_over(directory: Path) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        stale = saved.stale(directory)
    except FileNotFoundError:
        return
    for entry in entries:
        file = Path(entry.path)
        if entry.is_file(follow_symlinks=False) and (file in stale or _DAMAGED.fullmatch(entry.name)):
            yield file
