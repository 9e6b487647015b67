"""Removing unused label sets: a duty that compares the values of two checks, at no cost for counting.

A series is used when its value changes. A gauge that is set to its current value is removed too, and comes back when it
is set the next time, like any series that is used again.
"""

from __future__ import annotations

import time

from ..block.keys import OVERFLOW, encode_key
from ..config import Settings
from ..reading.attached import AttachedBlock
from ..series import Kind, Name, SeriesKey, Snapshot, Value
from .restoring import add_value

#: Checks within the time after which a label set is removed, and most seconds between two checks.
_LOOKS, _LONGEST = 8, 60.0


def make_duty(settings: Settings) -> Expiry:
    """Return the duty that is configured."""
    return Expiry(settings.stats.expire_idle_seconds)


class Expiry:
    """Removes label sets whose value has not changed for a time.

    Args:
        seconds: that time.

    Attributes:
        name: of the duty.
        interval: seconds between two checks.
    """

    name = "expiry"

    def __init__(self, seconds: float) -> None:
        self.interval = min(seconds / _LOOKS, _LONGEST)
        self._seconds = seconds
        self._seen: dict[SeriesKey, tuple[Value, float]] = {}

    def perform(self, block: AttachedBlock, snapshot: Snapshot) -> None:
        """Check all label sets, and remove those that are due.

        Args:
            block: the attached one.
            snapshot: of its statistics.
        """
        now = time.monotonic()
        before, self._seen = self._seen, {}
        for name, value in zip(snapshot.names, snapshot.values, strict=True):
            if not name.labels or any(text == OVERFLOW for _, text in name.labels):
                continue
            seen, since = before.get(name.key, (None, now))
            if seen != value:
                since = now
            elif now - since >= self._seconds and _remove(block, name, value):
                continue
            self._seen[name.key] = value, since

    def finish(self, block: AttachedBlock, snapshot: Snapshot) -> None:
        """Do nothing: the process that restores the saved values will check them."""


def _remove(block: AttachedBlock, name: Name, value: Value) -> bool:
    """Remove a label set that still has a value; returns whether it was removed.

    Counts made just before the removal are not lost: the series then exists again.
    """
    key = encode_key(*name.key)
    with block.exclusive():
        record = block.names.find(key)
        if record is None or record.kind is not name.kind or block.reader.value(record) != value:
            return False
        block.remove([record.number])
        left = block.reader.value(record)  # nobody can count into it any more
        if left != value and name.kind is not Kind.TIMESTAMP:
            add_value(block, name, left)
            return False
    return True
