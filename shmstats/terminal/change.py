"""``shmstats reset`` and ``shmstats remove``: attach to the live block as a worker, change it, and leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

import click

from shmstats import snapshot as saved
from shmstats.block import read_only
from shmstats.config import Settings
from shmstats.registry import Registry
from shmstats.terminal.command import CONTEXT, Command, NotThereError, reading_options, settings_of


def _change_command(function: Callable[..., None]) -> click.Command:
    """Make a command of a function that changes a metric, or a whole category."""
    function = click.argument("category")(click.argument("metric", required=False)(function))
    return click.command(cls=Command, context_settings=CONTEXT)(reading_options(function))


@_change_command
def reset(config: str | None, data: str | None, category: str, metric: str | None) -> None:
    """Set a metric, or a whole category, to 0 for all workers."""
    _change(settings_of(config, data), Registry.reset, "reset", category, metric)


@_change_command
def remove(config: str | None, data: str | None, category: str, metric: str | None) -> None:
    """Remove a metric, or a whole category, for all workers."""
    _change(settings_of(config, data), Registry.remove, "removed", category, metric)


def _change(
    settings: Settings,
    operation: Callable[[Registry, str, str | None], int],
    done: str,
    category: str,
    metric: str | None,
) -> None:
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
        raise NotThereError(f"there is no {what}")
    click.echo(f"{done} {changed} {'statistic' if changed == 1 else 'statistics'}")


def _refuse_without_block(data: Path) -> NoReturn:
    directory = saved.stats_directory(data)
    kept = next((file for name in (saved.FILE, saved.PREVIOUS) if (file := directory / name).exists()), None)
    rest = f", only the saved snapshot {kept}: start the application first" if kept else ""
    raise NotThereError(f"there is no live block for the data directory {data}{rest}")
