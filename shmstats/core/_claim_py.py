"""Reserves the pure core for one interpreter of a process: the twin of ``claim_process`` in ``_cells.c``."""

from __future__ import annotations

import mmap
import os
import sys

from ..descriptors import clear_of_standard

#: Prefix of the names of interpreters' marks.
_MARK = "shmstats:interpreter:"


def claim_process() -> mmap.mmap | None:
    """Make the calling interpreter the one that counts; returns its mark, which must be kept as long as it counts.

    Interpreters share no Python objects, but they share memory: the mark is a mapping whose name contains its
    interpreter. A fork inherits it, and it ends with the interpreter or by exec. None: the system shows no names of
    mappings.

    Raises:
        ImportError: another interpreter of this process counts.
    """
    own = f"{id(sys):x}"
    try:
        mark = _map(_MARK + own)
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            marked = {line.split(_MARK, 1)[1].split()[0] for line in maps if _MARK in line}
    except (AttributeError, OSError):
        return None
    if marked - {own}:
        mark.close()
        raise ImportError(f"another interpreter of process {os.getpid()} counts with it already")
    return mark


def _map(name: str) -> mmap.mmap:
    with clear_of_standard():
        descriptor = os.memfd_create(name)
        try:
            os.ftruncate(descriptor, 1)
            return mmap.mmap(descriptor, 1)
        finally:
            os.close(descriptor)
