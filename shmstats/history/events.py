"""Detects starts, reloads and exits of the application's processes, from one row of the ring to the next.

Counters of the gunicorn integration report them exactly. Without them the table of workers is used: the slot of a
process that left is free, that of a killed process is not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from ..series import Kind, Name, Snapshot, items_at
from .ring import Event, Ring

_EXITS, _RELOADS = "gunicorn_worker_exits", "gunicorn_reloads"

#: For the label ``reason`` of a gunicorn worker's exit: the kind of event, and its text about the worker.
_REASONS = {
    "exit": ("exit", "ended"),
    "signal": ("kill", "was killed by a signal"),
    "timeout": ("timeout", "was aborted after its timeout"),
}

#: Start times that differ by less, in ns, are the same: the clock may have been set.
_SAME_START = 2 * 10**9


class Events:
    """Compares each state with the previous one."""

    def __init__(self) -> None:
        self._live: set[tuple[int, int]] | None = None  # pid and claim of each worker
        self._counts: dict[str, int] = {}
        self._ended: list[int] = []
        self._killed: set[tuple[int, int]] = set()
        self._names: Sequence[Name] | None = None
        self._counters: dict[int, str] = {}

    def notice(self, reader: Any, snapshot: Snapshot, workers: Sequence[Any], now: int, ring: Ring) -> Iterator[Event]:
        """Give the events since the last call; at the first one, the start of the application.

        Args:
            reader: of the block.
            snapshot: of its statistics.
            workers: the live ones.
            now: ns since 1970.
            ring: with the events that are already known.
        """
        counts = self._counted_now(snapshot)
        live = {(worker.pid, worker.claim) for worker in workers}
        if self._live is None:
            yield from _started(reader, now, ring)
        else:
            dead = {(worker.pid, worker.claim) for worker in reader.workers} - live
            gone = (self._live - live) | (dead - self._killed)
            if any(key in counts for key in _REASONS):
                yield from self._counted(counts, sorted(pid for pid, _ in gone), now)
            else:
                yield from (_ended(pid, (pid, claim) in dead, now) for pid, claim in sorted(gone))
            self._killed = dead
        self._live, self._counts = live, counts

    def _counted_now(self, snapshot: Snapshot) -> dict[str, int]:
        """Return gunicorn's counters: reloads, and exits by reason."""
        if self._names is not snapshot.names:
            self._names = snapshot.names
            self._counters = dict(_counters(snapshot.names))
        values = items_at(snapshot.values, list(self._counters))
        return {
            key: value for key, value in zip(self._counters.values(), values, strict=True) if isinstance(value, int)
        }

    def _counted(self, counts: dict[str, int], gone: list[int], now: int) -> Iterator[Event]:
        """Give the events that gunicorn counted, with a worker's pid if it is certain."""
        self._ended += gone
        added = {key: counts[key] - self._counts.get(key, counts[key]) for key in counts}
        if added.pop(_RELOADS, 0) > 0:
            yield Event(now, "reload", "the workers are being replaced")
        ends = [reason for reason in _REASONS for _ in range(max(added.get(reason, 0), 0))]
        certain = len(ends) == len(self._ended)
        for number, reason in enumerate(ends):
            kind, what = _REASONS[reason]
            who = f"worker {self._ended[number]}" if certain else "a worker"
            yield Event(now, kind, f"{who} {what}")
        if ends:
            self._ended = []


def _counters(names: Sequence[Name]) -> Iterator[tuple[int, str]]:
    """Give the positions of gunicorn's counters, and what each counts: reloads, or exits for a reason."""
    for position, name in enumerate(names):
        if name.category == "gunicorn" and name.kind is Kind.COUNTER:
            if name.metric == _RELOADS:
                yield position, _RELOADS
            elif name.metric == _EXITS:
                yield position, dict(name.labels).get("reason", "")


def _started(reader: Any, now: int, ring: Ring) -> Iterator[Event]:
    moment = now - round(reader.uptime * 1e9)
    known = [event for event in ring.events() if event.kind in ("start", "restart")]
    if not any(abs(event.time - moment) < _SAME_START for event in known):
        shown = time.strftime("%H:%M:%S", time.localtime(moment / 1e9))
        yield Event(moment, "restart" if known else "start", f"the application was started at {shown}")


def _ended(pid: int, killed: bool, now: int) -> Event:
    if killed:
        return Event(now, "kill", f"process {pid} was killed")
    return Event(now, "exit", f"process {pid} ended")
