"""The modules that attached processes import at their first use, and when some of them are imported before."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

from .. import lifecycle
from ..block import BlockError
from ..block.lock import guards, late, tell

#: All of them but what pushes, which takes as long as all others; what they import themselves is not listed, unless
#: that too comes at first use, as Python's own do for time.strptime, a structure of C and Counter.most_common.
LATE_MODULES = (
    "_strptime",
    "ctypes._layout" if sys.version_info >= (3, 14) else "ctypes",
    "heapq",
    "multiprocessing.shared_memory",
    "shmstats.attachment.expiring",
    "shmstats.attachment.restoring",
    "shmstats.debug.processes",
    "shmstats.debug.stacks",
    "shmstats.history.archive",
    "shmstats.history.recorder",
    "shmstats.reading.reader",
    "shmstats.snapshot.store",
)


#: Seconds that a fork waits for a thread that holds the guard; after that the next fork tries again.
_PATIENCE = 0.5

_imported = False


def import_as_root() -> None:
    """Import them if this is root: a child may give up root, and its new user may be unable to read them."""
    global _imported
    guard = guards.current
    if _imported or os.geteuid() != 0 or lifecycle.is_importing() or not guard.lock.acquire(timeout=_PATIENCE):
        return
    try:
        _import_all()
        _imported = True
    finally:
        guard.leave()


def import_to_save() -> bool:
    """Import what saving takes while the files are those of this process: later an upgrade may have replaced them.

    Each process may become the last one, which saves. A fork is not waited for, because it may wait for the thread that
    calls this.

    Returns:
        Whether that was tried: a later call may do it.
    """
    guard = guards.current
    if not guard.lock.acquire(blocking=False):
        return False
    try:
        if lifecycle.is_forking():
            return False
        with suppress(BlockError):  # a save meets it again, and says so
            late("shmstats.reading.reader")
            late("shmstats.snapshot.store")
        return True
    finally:
        guard.leave()


def _import_all() -> None:
    errors: list[Exception] = []
    for module in LATE_MODULES:
        try:
            late(module)
        except Exception as error:  # a fork must not fail
            errors.append(error)
    if errors:
        tell(f"children that give up root may be unable to save or read: {errors[0]}", logging.WARNING)
