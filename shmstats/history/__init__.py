"""The recent past of a data directory: a ring file that the saver writes and anybody reads.

`ring` is the form of the file, `tracks` says which series it holds and where, `recorder` writes it, `past` reads
it over a span of time, and `documents` makes JSON and CSV of what was read.
"""

from __future__ import annotations

from .past import Past, Query, QueryError, read_past, read_recent
from .recorder import HistoryRecorder
from .ring import FILE, RingError, ring_file

__all__ = [
    "FILE",
    "HistoryRecorder",
    "Past",
    "Query",
    "QueryError",
    "RingError",
    "read_past",
    "read_recent",
    "ring_file",
]
