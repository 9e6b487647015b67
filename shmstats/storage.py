"""The size of the data directory, and the free space of its file system.

The directory may be the application's own, with any number of files in it. `StorageMeter` walks through it a few
milliseconds at a time, and continues in a thread if that is not enough, so no answer waits for it.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from . import native
from .frozen import NamedTuple

#: Greatest age of storage figures in seconds, if they take little time to get.
MAX_AGE = 10.0

#: Seconds of a walk that an answer may take; the thread pauses as long after each such piece.
PIECE = 0.01

#: A long walk is repeated after this many times its own duration.
_REST = 30

#: Greatest depth of directories: each level is an open descriptor.
_MAX_DEPTH = 64


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


class Walk:
    """One walk through a directory, which can be interrupted. Links are not followed.

    Files that vanish meanwhile or may not be read are not counted.

    Attributes:
        store: bytes found so far.
        done: whether the walk is complete.
    """

    def __init__(self, directory: Path) -> None:
        self.store = 0
        self.done = False
        self._sizes = _sizes(directory)

    def advance(self, seconds: float) -> bool:
        """Continue for some time; returns whether the walk is complete."""
        deadline = time.monotonic() + seconds
        while not self.done and time.monotonic() < deadline:
            size = next(self._sizes, None)
            if size is None:
                self.done = True
            else:
                self.store += size
        return self.done


class StorageMeter:
    """Measures a data directory repeatedly, without making anybody wait.

    Args:
        directory: to measure; it need not exist.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._start_anew()

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._lock = native.make_lock()
        self._walk: Walk | None = None
        self._begun = 0.0
        self._store: tuple[int, float] | None = None  # result of the last walk, and when it ended
        self._due = 0.0

    def read(self) -> Storage:
        """Return the figures: of the last walk, or of the part of the first one that there was time for."""
        if self._pid != os.getpid():  # the thread runs in the process that this one was forked from
            self._start_anew()
        with self._lock:
            if self._walk is None and time.monotonic() >= self._due:
                self._walk, self._begun = Walk(self._directory), time.monotonic()
                if self._walk.advance(PIECE):
                    self._finish(self._walk)
                else:
                    self._go_on_later(self._walk)
            if self._store is not None:
                return measured(self._directory, self._store[0], True, time.monotonic() - self._store[1])
            return measured(self._directory, self._walk.store if self._walk else 0, False, 0.0)

    def _go_on_later(self, walk: Walk) -> None:
        def go_on() -> None:
            while not walk.advance(PIECE):
                time.sleep(PIECE)
            with self._lock:
                self._finish(walk)

        try:
            native.Thread(go_on, "shmstats-storage").start()
        except RuntimeError:  # no thread can be started now
            self._walk, self._due = None, time.monotonic() + MAX_AGE

    def _finish(self, walk: Walk) -> None:
        now = time.monotonic()
        self._walk, self._store = None, (walk.store, now)
        self._due = now + max(MAX_AGE, _REST * (now - self._begun))


def measured(directory: Path, store: int, complete: bool, age: float) -> Storage:
    """Return the storage figures of a directory whose size is known."""
    place = directory
    while not os.path.exists(place) and place != place.parent:
        place = place.parent
    system = os.statvfs(place)
    return Storage(
        store=store,
        all=system.f_blocks * system.f_frsize,
        used=(system.f_blocks - system.f_bfree) * system.f_frsize,
        free=system.f_bfree * system.f_frsize,
        available=system.f_bavail * system.f_frsize,
        complete=complete,
        age=age,
    )


def _sizes(directory: Path) -> Iterator[int]:
    """Give the size of each entry below a directory: 0 for all but regular files."""
    opened: list[os._ScandirIterator[str]] = []
    try:
        with suppress(OSError):
            opened.append(os.scandir(directory))
        while opened:
            entry = None
            with suppress(OSError):
                entry = next(opened[-1], None)
            if entry is None:
                opened.pop().close()
                continue
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(found.st_mode) and len(opened) < _MAX_DEPTH:
                with suppress(OSError):
                    opened.append(os.scandir(entry.path))
            yield found.st_size if stat.S_ISREG(found.st_mode) else 0
    finally:
        for entries in opened:
            entries.close()
