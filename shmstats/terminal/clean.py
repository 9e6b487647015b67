"""``shmstats clean``: removes the files of a data directory that nobody will read or write again."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click

from shmstats.snapshot import store as saved
from shmstats.terminal.command import NotThereError, progress, reading_command, settings_of

_DAMAGED = re.compile(rf"(?:{re.escape(saved.FILE)}|{re.escape(saved.PREVIOUS)})\.damaged-.+")


@reading_command
def clean(config: str | None, data: str | None) -> None:
    """Remove damaged snapshots that were set aside, and temporary files of dead processes."""
    directory = settings_of(config, data).path.data
    if not directory.exists():
        raise NotThereError(f"there is no data directory {directory}")
    removed = []
    for file in progress(list(_left_over(saved.stats_directory(directory))), "Removing"):
        with suppress(FileNotFoundError):
            file.unlink()
            removed.append(f"removed {file}")
    click.echo("\n".join(removed) or "nothing to remove")


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
