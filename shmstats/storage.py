"""The size of the data directory, and the free space of its file system.

The directory may be the application's own, with any number of files in it. `StorageMeter` walks through it in a
thread, and an answer waits for that only for a few milliseconds.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from . import native
from .frozen import NamedTuple

#: Greatest age of storage figures in seconds, if they take little time to get.
MAX_AGE = 10.0

#: Seconds that an answer waits for a walk.
PATIENCE = 0.01

#: A long walk is repeated after this many times its own duration.
_REST = 30


class Storage(NamedTuple):
    """Storage figures of a data directory, in bytes.

    Attributes:
        store: sum of the sizes of its files.
        all: size of the file system.
        used: used part of it.
        free: free part of it.
        available: part of it that is free for this user.
        complete: whether ``store`` includes all files; else it is a lower bound.
        age: of ``store``, in seconds.
    """

    store: int
    all: int
    used: int
    free: int
    available: int
    complete: bool
    age: float


class _Walk(native.Thread):
    """One walk through a directory, in a thread. Links are not followed.

    Files that vanish meanwhile or may not be read are not counted.

    Raises:
        RuntimeError: no thread can be started now.

    Attributes:
        store: bytes found so far.
        ended: when the walk was complete, by the monotonic clock; None as long as it is not.
    """

    def __init__(self, directory: Path) -> None:
        self.store = 0
        self.ended: float | None = None
        self._begun = time.monotonic()
        self._pid = os.getpid()
        super().__init__(partial(self._go, directory), "shmstats-storage")
        self.start()

    def is_outdated(self) -> bool:
        """Tell whether another walk must begin: the last one was long ago, or its thread is in the parent process."""
        if self._pid != os.getpid():
            return True
        return self.ended is not None and time.monotonic() - self.ended > max(
            MAX_AGE, _REST * (self.ended - self._begun)
        )

    def _go(self, directory: Path) -> None:
        pending = [str(directory)]
        while pending:
            with suppress(OSError), os.scandir(pending.pop()) as entries:
                for entry in entries:
                    with suppress(OSError):
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(entry.path)
                        elif entry.is_file(follow_symlinks=False):
                            self.store += entry.stat(follow_symlinks=False).st_size
        self.ended = time.monotonic()


class StorageMeter:
    """Measures a data directory repeatedly, without making anybody wait for long.

    Args:
        directory: to measure; it need not exist.
        patience: seconds that `read` waits for a walk that it begins.
    """

    def __init__(self, directory: Path, patience: float = PATIENCE) -> None:
        self._directory = directory
        self._patience = patience
        self._walk: _Walk | None = None
        self._complete: _Walk | None = None

    def read(self) -> Storage:
        """Return the figures: of the last complete walk, or of the part of the first one that there was time for."""
        walk = self._walk
        if walk is None or walk.is_outdated():
            with suppress(RuntimeError):  # no thread can be started now: a later call tries again
                walk = self._walk = _Walk(self._directory)
                walk.join(self._patience)
        if walk is not None and walk.ended is not None:
            self._complete = walk
        walk = self._complete or walk
        place = self._directory
        while not os.path.exists(place) and place != place.parent:
            place = place.parent
        system = os.statvfs(place)
        return Storage(
            store=0 if walk is None else walk.store,
            all=system.f_blocks * system.f_frsize,
            used=(system.f_blocks - system.f_bfree) * system.f_frsize,
            free=system.f_bfree * system.f_frsize,
            available=system.f_bavail * system.f_frsize,
            complete=self._complete is not None,
            age=0.0 if walk is None or walk.ended is None else time.monotonic() - walk.ended,
        )
