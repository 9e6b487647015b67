"""Health: whether what is counted is saved, pushed and answered for, as any process can tell from the block."""

from __future__ import annotations

import os
import time
from typing import Any

from .._version import __version__
from ..block import BlockReader
from ..core import CORE
from ..series import Kind, Snapshot
from .own_metrics import OPERATIONS_DROPPED, OWN
from .peers import socket_path

#: The parts of a block that can be full; rows are shared where they are scarce.
_PARTS = ("names", "cells", "heap")


def health(reader: BlockReader, name: str, snapshot: Snapshot | None = None) -> dict[str, Any]:
    """Return how a block fares.

    Args:
        reader: of the block, attached or not.
        name: of its segment.
        snapshot: of the block, where it was read already.

    Returns:
        ``saved_seconds_ago`` (None: never), ``save_error`` (None: the last save succeeded), ``saver`` (the pid of the
        process that saves; None: none), ``agents`` (live workers that answer questions), ``agents_missing`` (those
        that do not), ``pushed_seconds_ago`` (None: never), ``push_error``, ``operations_dropped``, ``pool`` (the
        largest share in use of what a block has, 0 to 1), ``core`` and ``version``.

    Raises:
        BlockError: the block is damaged.
    """
    header = reader.open_header()
    try:
        usage = reader.usage()
        live = reader.workers.live()
        agents = sum(os.path.lexists(socket_path(name, worker.slot)) for worker in live)
        saver = header.saver_pid
        return {
            "saved_seconds_ago": _seconds_since(header.saved),
            "save_error": header.save_error or None,
            "saver": saver if any(worker.pid == saver for worker in live) else None,
            "agents": agents,
            "agents_missing": len(live) - agents,
            "pushed_seconds_ago": _seconds_since(header.pushed),
            "push_error": header.push_error or None,
            "operations_dropped": _dropped(reader.read() if snapshot is None else snapshot),
            "pool": max(usage[part].used / max(usage[part].capacity, 1) for part in _PARTS),
            "core": CORE,
            "version": __version__,
        }
    finally:
        header.close()


def _seconds_since(moment: int) -> float | None:
    """Return how long ago a moment was, which is given in ns since 1970; None for 0."""
    return round(max(time.time_ns() - moment, 0) / 1e9, 3) if moment else None


def _dropped(read: Snapshot) -> int:
    for each, value in zip(read.names, read.values, strict=True):
        if each.category == OWN and each.metric == OPERATIONS_DROPPED and each.kind is Kind.COUNTER:
            return int(value)  # type: ignore[arg-type]
    return 0
