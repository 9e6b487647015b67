"""Exact statistics for preforked Python web servers.

Counters that all worker processes share through shared memory::

    from shmstats import stats

    stats.incr("user_actions", "login")
"""

from __future__ import annotations

import sys

if sys.platform == "win32":
    raise ImportError(
        "shmstats cannot be used on Windows: it needs fork, record locks and Unix sockets. Use it on Linux (WSL has"
        " one), or for development on macOS"
    )

from . import core as core  # first: its error is the clearest one if the package cannot be used here
from ._version import __version__
from .block import BlockError, DeclarationError, KindError
from .config import ConfigError
from .core import Counter, Gauge, Histogram
from .handles import Labelled
from .registry import Registry, stats
from .termination import arrange as _leave_at_sigterm

__all__ = [
    "BlockError",
    "ConfigError",
    "Counter",
    "DeclarationError",
    "Gauge",
    "Histogram",
    "KindError",
    "Labelled",
    "Registry",
    "__version__",
    "absolute",
    "close",
    "decr",
    "gauge",
    "incr",
    "init",
    "stats",
    "timestamp",
    "timing",
]

init, close = stats.init, stats.close

# For code that has the module: Python finds these sooner than the same attributes of shmstats.stats.
incr, decr, gauge, absolute = stats.incr, stats.decr, stats.gauge, stats.absolute
timing, timestamp = stats.timing, stats.timestamp

_leave_at_sigterm()
