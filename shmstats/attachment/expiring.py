"""Removing label sets that nobody touches: a duty, which compares what two looks have seen and costs counting nothing.

A series is touched when its value changes. A gauge that is set to what it is already goes, and comes back when it is
set the next time, like any series that is used again.
"""

from __future__ import annotations

import time

from ..block import Record
from ..block.keys import OVERFLOW, encode_key
from ..config import Settings
from ..reading.attached import AttachedBlock
from ..series import Kind, Labels, Name, Snapshot, Value
from .moving import add_value

#: Looks in the time after which a label set goes, and seconds between two of them at most.
_LOOKS, _LONGEST = 8, 60.0

_Series = tuple[str, str, Labels]


def make_duty(settings: Settings) -> Expiry:
    """Return the duty that is configured."""
    return Expiry(settings.stats.expire_idle_seconds)


class Expiry:
    """Removes label sets whose value has not changed for a time.

    Args:
        seconds: how long.

    Attributes:
        name: of the duty.
        interval: seconds between two looks.
    """

    name = "expiry"

    def __init__(self, seconds: float) -> None:
        self.interval = min(seconds / _LOOKS, _LONGEST)
        self._seconds = seconds
        self._seen: dict[_Series, tuple[Value, float]] = {}

    def perform(self, block: AttachedBlock, snapshot: Snapshot) -> None:
        """Look at all label sets, and remove those that are due.

        Args:
            block: that is attached.
            snapshot: of its statistics.
        """
        now = time.monotonic()
        before, self._seen = self._seen, {}
        for name, value in zip(snapshot.names, snapshot.values, strict=True):
            if not name.labels or any(text == OVERFLOW for _, text in name.labels):
                continue
            series = name.category, name.metric, name.labels
            seen, since = before.get(series, (None, now))
            if seen != value:
                since = now
            elif now - since >= self._seconds and _remove(block, name, value):
                continue
            self._seen[series] = value, since

    def finish(self, block: AttachedBlock, snapshot: Snapshot) -> None:
        """Do nothing: what is saved at the end is looked at by who restores it."""


def _remove(block: AttachedBlock, name: Name, value: Value) -> bool:
    """Remove a label set that still has a value; returns whether it went.

    What is counted just before it goes is not lost: the series is there again then.
    """
    key = encode_key(name.category, name.metric, name.labels)
    with block.exclusive():
        record = block.names.find(key)
        if record is None or record.kind is not name.kind or block.reader.value(record) != value:
            return False
        left = _taken_out(block, record)
        if left != value and name.kind is not Kind.TIMESTAMP:
            add_value(block, name, left)
            return False
    return True


def _taken_out(block: AttachedBlock, record: Record) -> Value:
    """Remove a series; returns the value that it had when nobody could count into it any more."""
    block.names.remove([record])
    left = block.reader.value(record)
    deserted = block.names.deserted({record.family} if record.family >= 0 else set())
    if deserted:
        block.names.remove(deserted)
    return left
