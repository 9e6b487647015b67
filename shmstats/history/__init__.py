"""The recent past of a data directory: a ring file that the saver writes and anybody reads.

`ring` is the form of the file, `tracks` says which series it holds and where, `recorder` writes it, `past` reads
it over a span of time, and `documents` makes JSON and CSV of what was read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .recorder import HistoryRecorder
from .ring import FILE, RingError, ring_file

if TYPE_CHECKING:
    from .past import Past, Query, QueryError, read_past, read_recent

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


def __getattr__(name: str) -> Any:
    """Return what reads the past: it takes numpy, which writing does without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import past

    return getattr(past, name)
