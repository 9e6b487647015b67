"""The notes of workers: a file that all of them map, with a page for each.

A worker writes the number of an operation before and after it, each by one store of eight
bytes. So whenever it is killed, at most the one operation in progress is uncertain: what it counted is
``after`` or ``before``, and these differ by 1 at most.
"""

from __future__ import annotations

import mmap
from pathlib import Path

PAGE = 4096

#: The streams that a worker counts, each with a ``before`` and an ``after``: a counter of its own, one shared with all
#: workers, observations of a histogram, decrements of a counter, the value of a gauge, and
#: a label set, all of its own.
STREAMS = ("own", "shared", "timing", "down", "gauge", "labelled")

_STOP, _LONGEST, _TAKEOVERS, _QUEUED, _AWAKE = 64, 65, 66, 67, 68

#: In page 0: when a process that was held inside a critical section was killed, CLOCK_MONOTONIC in ns.
_KILLED_AT = 0


class Notes:
    """The page of one worker.

    Attributes:
        words: ``words[2 * stream]`` is the number of begun operations, ``words[2 * stream + 1]`` that of ended ones.
    """

    def __init__(self, words: memoryview) -> None:
        self.words = words

    def before(self, stream: str) -> int:
        """Return the number of begun operations of a stream."""
        return self.words[2 * STREAMS.index(stream)]

    def after(self, stream: str) -> int:
        """Return the number of operations of a stream known to be done."""
        return self.words[2 * STREAMS.index(stream) + 1]

    def settle(self, stream: str, counted: int) -> None:
        """Treat the counted operations as done: the next worker of this page continues from there."""
        place = 2 * STREAMS.index(stream)
        self.words[place] = self.words[place + 1] = counted

    @property
    def stopping(self) -> int:
        """Whether the worker is asked to leave."""
        return self.words[_STOP]

    @stopping.setter
    def stopping(self, stopping: int) -> None:
        self.words[_STOP] = stopping

    @property
    def longest(self) -> int:
        """The longest operation in ns in which the lock of a dead process was taken over."""
        return self.words[_LONGEST]

    @property
    def takeovers(self) -> int:
        """The number of such operations."""
        return self.words[_TAKEOVERS]

    @property
    def awake(self) -> int:
        """The longest of those after a kill inside in ns, without the time spent waiting for a processor."""
        return self.words[_AWAKE]

    @property
    def queued(self) -> int:
        """How long the worker had waited for a processor at a kill inside, in ns."""
        return self.words[_QUEUED]

    @queued.setter
    def queued(self, nanoseconds: int) -> None:
        self.words[_QUEUED] = nanoseconds

    def note_takeover(self, nanoseconds: int, awake: int) -> None:
        """Record an operation in which the lock of a dead process was taken over."""
        self.words[_TAKEOVERS] += 1
        self.words[_LONGEST] = max(self.words[_LONGEST], nanoseconds)
        self.words[_AWAKE] = max(self.words[_AWAKE], awake)

    def forget_takeovers(self) -> None:
        """Start again with these notes."""
        self.words[_TAKEOVERS] = self.words[_LONGEST] = self.words[_AWAKE] = 0


def time_in_queue(pid: int) -> int:
    """Return how long a process's main thread has waited for a processor, in ns; 0 if unknown.

    Source: sched-stats of the kernel's documentation, /proc/<pid>/schedstat.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    except (OSError, IndexError):
        return 0


class Ledger:
    """The file of the notes.

    Args:
        file: its path; it is made if it is missing.
        places: number of workers with a page in it.
    """

    def __init__(self, file: Path, places: int) -> None:
        self.file = file
        self.places = places
        size = (places + 1) * PAGE
        if not file.exists():
            file.write_bytes(bytes(size))
        with file.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), size)
        self._words = memoryview(self._map).cast("Q")

    def notes(self, place: int) -> Notes:
        """Return the notes of a place, 0 to ``places`` - 1."""
        first = (place + 1) * PAGE // 8
        return Notes(self._words[first : first + PAGE // 8])

    @property
    def killed_at(self) -> int:
        """When a holder that was held inside was killed, in ns of CLOCK_MONOTONIC; 0: none was."""
        return self._words[_KILLED_AT]

    @killed_at.setter
    def killed_at(self, moment: int) -> None:
        self._words[_KILLED_AT] = moment
