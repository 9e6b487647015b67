"""Writing the ring: a duty of the saver, once a second.

All state of the past is in the ring: another saver continues where the last one ended, and makes
the rows of minutes from those of seconds. So a killed recorder loses only the seconds until another one takes over.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ..config import Settings
from ..proc import uses_of
from ..series import Deferred, Kind, Name, Snapshot, Value, items_at
from .events import Events
from .overview import Overview
from .ring import MINUTES, SECONDS, Ring, RingRow, make_ring, ring_file
from .tracks import Tracks, from_json, to_json

#: Seconds without a row after which the next row starts again: counts of the time between are in no row.
_LONGEST_SPAN = 10

#: Number of minutes that can be computed from the seconds in the ring.
_MINUTES_BACK = SECONDS.rows // 60 - 1

#: What the workers use together, as series; processor time is a total that does not go back when a worker ends.
_SYSTEM = (
    Name("system", "cpu_ms", Kind.COUNTER, monotonic=True, help="Processor time of all workers."),
    Name("system", "memory_bytes", Kind.GAUGE, help="Resident memory of all workers.", unit="bytes"),
    Name("system", "workers", Kind.GAUGE, help="Live workers."),
    Name("system", "busy_workers", Kind.GAUGE, help="Workers that serve a request."),
)


class HistoryRecorder:
    """Writes a row every second. Not for use by several threads.

    Args:
        data: the data directory.
        globs: of ``category.metric``: series that are kept before others.

    Attributes:
        name: of the duty.
        interval: seconds between two rows.
    """

    name = "history"
    interval = 1.0

    def __init__(self, data: Path, globs: Sequence[str] = ()) -> None:
        self._file = ring_file(data)
        self._globs = globs
        self._ring: Ring | None = None
        self._called = False
        self._overview = Overview()
        self._cpu: dict[int, float] = {}
        self._cpu_total = 0.0
        self._events = Events()
        self._last = 0
        self._tracks = Tracks((), globs)
        self._totals = array("d")
        self._joined: tuple[Sequence[Name], list[Name], list[Name]] = ((), [], [])

    def perform(self, block: Any, snapshot: Snapshot) -> None:
        """Write the row of this second.

        Args:
            block: the attached block; its workers and its table of requests are read.
            snapshot: of its statistics.

        Raises:
            OSError: the ring cannot be written.
        """
        if not self._called:
            self._called = True  # a process that counts only for a moment has no past, and leaves no file
            return
        self.record(block.reader, snapshot, time.time_ns())

    def finish(self, block: Any, snapshot: Snapshot) -> None:
        """Write the last row and close the ring, if there is one."""
        if self._ring is None:
            return
        try:
            self.perform(block, snapshot)
        finally:
            self.close()

    def close(self) -> None:
        """Close the ring."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def record(self, reader: Any, snapshot: Snapshot, now: int) -> None:
        """Write the row of a moment, and those of completed minutes.

        Args:
            reader: of the block.
            snapshot: of its statistics.
            now: ns since 1970.

        Raises:
            OSError: the ring cannot be written.
        """
        second = now // 10**9
        if self._ring is None or not self._ring.is_current() or second < self._last:  # the clock was set back
            self._open()
        assert self._ring is not None
        if second == self._last:
            return
        workers = reader.workers.live()
        names, values = self._with_derived(snapshot, reader, workers)
        if self._tracks.follow(names, second):
            self._ring.write_tracks(to_json(self._tracks.tracks.values()))
        totals = self._tracks.totals(values)
        span = second - self._last
        if 0 < span <= _LONGEST_SPAN:
            self._ring.write_row(SECONDS, second, span, self._deltas(totals))
        self._totals, since, self._last = totals, self._last, second
        for number, event in enumerate(self._events.notice(reader, snapshot, workers, now, self._ring)):
            self._ring.add_event(event._replace(time=event.time + number))  # so that their times keep the order
        if second // 60 != since // 60:
            self._write_minutes(second // 60)

    def _open(self) -> None:
        self.close()
        self._ring = make_ring(self._file)
        try:
            tracks = from_json(self._ring.read_tracks() or [])
        except ValueError:
            tracks = []
        self._tracks = Tracks(tracks, self._globs)
        self._totals = array("d")
        self._last = 0

    def _with_derived(
        self, snapshot: Snapshot, reader: Any, workers: Sequence[Any]
    ) -> tuple[list[Name], Sequence[Any]]:
        """Return names and values of a snapshot after those of the system and of the overview."""
        self._overview.follow(snapshot.names)
        of, overview, names = self._joined
        if of is not snapshot.names or overview is not self._overview.names:
            names = [*_SYSTEM, *self._overview.names, *snapshot.names]
            self._joined = snapshot.names, self._overview.names, names
        busy = sum(1 for each in reader.served(workers) if each.requests or each.further)
        system = self._system_values([worker.pid for worker in workers], busy)
        return names, _Joined([*system, *self._overview.values(snapshot.values)], snapshot.values)

    def _system_values(self, pids: Sequence[int], busy: int) -> list[Value]:
        """Return the values of `_SYSTEM`, of these workers."""
        uses = dict(uses_of(pids))
        for pid, use in uses.items():
            self._cpu_total += max(use.cpu - self._cpu.get(pid, use.cpu), 0.0)
        self._cpu = {pid: use.cpu for pid, use in uses.items()}
        return [round(self._cpu_total * 1000), sum(use.resident for use in uses.values()), len(uses), busy]

    def _deltas(self, totals: array[float]) -> array[float]:
        """Return the row: values of gauges, and increases of everything else since the last row.

        A counter that is smaller than before was reset meanwhile. If a series has other columns than before, as after
        a change of its buckets, its previous values are unknown.
        """
        before = (self._totals + array("d", [math.nan]) * len(totals))[: len(totals)]
        for track in self._tracks.added:
            before[track.first : track.first + track.width] = array("d", [math.nan]) * track.width
        for track in self._tracks.born:
            before[track.first : track.first + track.width] = array("d", bytes(8 * track.width))
        columns = zip(totals, before, self._tracks.gauges(), strict=True)
        return array("f", [now if is_gauge or now < was else now - was for now, was, is_gauge in columns])

    def _write_minutes(self, current: int) -> None:
        """Write the missing rows of the minutes before this one, if there are rows of their seconds."""
        assert self._ring is not None
        gauges = self._tracks.gauges()
        for minute in range(current - _MINUTES_BACK, current):
            if self._ring.has_row(MINUTES, minute):
                continue
            rows = self._ring.read_rows(SECONDS, minute * 60, minute * 60 + 59)
            for track in self._tracks.tracks.values():  # older values in its columns are another track's
                if track.since > minute * 60:
                    for row in rows:
                        if row.number < track.since:
                            row.blank(track.first, track.width)
            if rows:
                self._ring.write_row(MINUTES, minute, sum(row.span for row in rows), summed(rows, gauges))


class _Joined(Deferred[Any]):
    """Values of the system and of the overview, followed by those of a snapshot."""

    __slots__ = ("_derived", "_values")

    def __init__(self, derived: list[Any], values: Sequence[Any]) -> None:
        super().__init__(len(derived) + len(values))
        self._derived, self._values = derived, values

    def _make(self) -> list[Any]:
        return [*self._derived, *self._values]

    def at(self, positions: Sequence[int]) -> list[Any]:
        """Return the values at some positions, which must not be negative."""
        own = len(self._derived)
        found = iter(items_at(self._values, [each - own for each in positions if each >= own]))
        return [self._derived[each] if each < own else next(found) for each in positions]


def make_duty(settings: Settings) -> HistoryRecorder:
    """Return the duty that records the history."""
    return HistoryRecorder(settings.path.data, settings.history.series)


def summed(rows: Sequence[RingRow], gauges: bytearray) -> array[float]:
    """Return several rows merged into one: sums of deltas, means of gauges; NaN if no row has a value.

    Args:
        rows: of a tier.
        gauges: for each column, whether it is a gauge's.
    """
    result = array("f", [math.nan]) * len(gauges)
    columns = zip_longest(*(row.values[: len(gauges)] for row in rows), fillvalue=math.nan)
    for number, column in enumerate(columns):
        here = [value for value in column if value == value]  # NaN is not equal to itself
        if here:
            result[number] = sum(here) / len(here) if gauges[number] else sum(here)
    return result
