"""The modules that attached processes import at their first use, and their import by root before a fork."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from functools import cache

from .. import lifecycle
from ..block.lock import importing, tell
from ..once import Once

#: All of them but what pushes, which takes as long as all others; what they import themselves is not listed, unless
#: that too comes at first use, as Python's own do for time.strptime, a structure of C and Counter.most_common.
LATE_MODULES = (
    "_strptime",
    "ctypes._layout" if sys.version_info >= (3, 14) else "ctypes",
    "heapq",
    "multiprocessing.shared_memory",
    "shmstats.attachment.buffer",
    "shmstats.attachment.expiring",
    "shmstats.attachment.extremes",
    "shmstats.attachment.moving",
    "shmstats.attachment.restoring",
    "shmstats.block.declaring",
    "shmstats.debug.processes",
    "shmstats.debug.stacks",
    "shmstats.history.archive",
    "shmstats.history.recorder",
    "shmstats.reading.reader",
    "shmstats.snapshot",
)


def import_as_root() -> None:
    """Import them if this is root: a child may give up root, and its new user may be unable to read them."""
    if os.geteuid() == 0 and not lifecycle.is_importing():
        _import_all()


@cache
def _import_all() -> None:
    logged = Once()
    for module in LATE_MODULES:
        try:
            with importing():
                importlib.import_module(module)
        except Exception as error:  # a fork must not fail
            if logged.first(str(error)):
                tell(f"children that give up root may be unable to save or read: {error}", logging.WARNING)
