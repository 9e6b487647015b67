"""Which series a push ends."""

from __future__ import annotations

import enum


class Stale(enum.Enum):
    """The series of a snapshot that are pushed as ended; those that are gone from it always are."""

    NONE = enum.auto()
    #: Gauges of living workers: the last of them has left.
    LIVE = enum.auto()
    ALL = enum.auto()
