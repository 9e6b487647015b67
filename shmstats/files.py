"""The data directory: how much is in it."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

#: How old storage figures may be, in seconds: walking a large directory takes long.
MAX_AGE = 10.0


class Storage(NamedTuple):
    """Storage figures of a data directory, in bytes.

    Attributes:
        store: what its files hold.
        all: size of the file system it is on.
        used: of that.
        free: of that.
        available: of that, to this user.
        measured: when, CLOCK_MONOTONIC in seconds.
    """

    store: int
    all: int
    used: int
    free: int
    available: int
    measured: float

    @property
    def age(self) -> float:
        """Seconds since the figures were taken."""
        return time.monotonic() - self.measured


class StorageMeter:
    """Measures a data directory, at most once in `MAX_AGE` seconds.

    Args:
        directory: to measure; it need not exist.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._last: Storage | None = None

    def read(self) -> Storage:
        """Return the figures; while one thread measures anew the others are given the last ones."""
        last = self._last
        if last is not None and (last.age < MAX_AGE or not self._lock.acquire(blocking=False)):
            return last
        if last is None:
            self._lock.acquire()
        try:
            self._last = measured = measure(self._directory)
        finally:
            self._lock.release()
        return measured


def measure(directory: Path) -> Storage:
    """Return the storage figures of a directory as they are now; ``store`` is 0 where there is none."""
    place = directory
    while not place.exists() and place != place.parent:
        place = place.parent
    system = os.statvfs(place)
    return Storage(
        store=directory_bytes(directory),
        all=system.f_blocks * system.f_frsize,
        used=(system.f_blocks - system.f_bfree) * system.f_frsize,
        free=system.f_bfree * system.f_frsize,
        available=system.f_bavail * system.f_frsize,
        measured=time.monotonic(),
    )


def directory_bytes(directory: Path) -> int:
    """Return the bytes that the regular files below a directory hold; links are not followed.

    What vanishes meanwhile, and what may not be read, counts nothing.
    """
    total = 0
    with suppress(OSError):
        for _, _, names, descriptor in os.fwalk(directory, follow_symlinks=False):
            for name in names:
                with suppress(OSError):
                    total += os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_size
    return total
