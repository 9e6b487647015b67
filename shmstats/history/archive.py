"""Dated copies of the saved snapshot, beside it: ``archive-20261127T081500.json``; the oldest are removed.

A duty of the saver. The copies are links to the saved file, or real copies on a volume without links, and are
read like any snapshot: ``shmstats-dump --from``, ``shmstats diff``.
"""

from __future__ import annotations

import calendar
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..config import Settings
from ..series import Snapshot
from ..snapshot.store import FILE, have_twice, stats_directory

_NAME = re.compile(r"archive-[0-9]{8}T[0-9]{6}\.json")
_HOUR = 3600.0


class Archive:
    """Keeps dated copies. Not for use by several threads.

    Args:
        data: the data directory.
        hours: between two copies.
        kept: number of copies to keep.

    Attributes:
        name: of the duty.
        interval: seconds between two checks whether a copy is due.
    """

    name = "archive"
    interval = 60.0

    def __init__(self, data: Path, hours: int, kept: int) -> None:
        self._directory = stats_directory(data)
        self._seconds = hours * _HOUR
        self._kept = kept

    def perform(self, block: Any, snapshot: Snapshot) -> None:
        """Make a copy if one is due, and remove the oldest ones beyond the limit.

        Raises:
            OSError: that failed.
        """
        self.rotate(time.time())

    finish = perform

    def rotate(self, now: float) -> None:
        """Do the same for a given moment, in seconds since 1970.

        Raises:
            OSError: that failed.
        """
        files = archived(self._directory)
        # By their names: copying a directory may change the times of its files. One from the future was made while the
        # clock was wrong.
        newest = max((moment for moment in map(_moment, files) if moment <= now), default=0.0)
        saved = self._directory / FILE
        if now - newest >= self._seconds and saved.is_file():
            _copy(saved, self._directory / time.strftime("archive-%Y%m%dT%H%M%S.json", time.gmtime(now)))
            files = archived(self._directory)
        for file in files[: -self._kept]:
            with suppress(FileNotFoundError):
                file.unlink()


def make_duty(settings: Settings) -> Archive:
    """Return the duty that keeps dated copies."""
    stats = settings.stats
    return Archive(settings.path.data, stats.archive_interval_hours, stats.archive_keep)


def archived(directory: Path) -> list[Path]:
    """Return the dated copies in a directory of statistics, the oldest first."""
    try:
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries if _NAME.fullmatch(entry.name))
    except FileNotFoundError:
        return []
    return [directory / name for name in names]


def _moment(file: Path) -> float:
    """Return when a copy was made, by its name; 0 for an invalid date."""
    try:
        return float(calendar.timegm(time.strptime(file.name, "archive-%Y%m%dT%H%M%S.json")))
    except ValueError:
        return 0.0


def _copy(saved: Path, copy: Path) -> None:
    temporary = copy.with_name(f".{copy.name}.{os.getpid()}")
    try:
        have_twice(saved, temporary)
        os.replace(temporary, copy)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
