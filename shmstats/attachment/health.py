"""Health: whether counts are saved and pushed, and agents answer, as any process can tell from the block."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from .._version import __version__
from ..block import Worker
from ..core import CORE
from ..reading.reader import BlockReader
from ..series import Snapshot
from .own_metrics import OPERATIONS_DROPPED, OWN
from .peers import is_listening

#: The parts of a block that can be full; rows cannot, as they are shared if they are scarce.
_PARTS = ("names", "cells", "heap")

_NEARLY_FULL = 0.9


def health(
    reader: BlockReader, name: str, snapshot: Snapshot | None = None, live: list[Worker] | None = None
) -> dict[str, Any]:
    """Return the health of a block.

    Args:
        reader: of the block, attached or not.
        name: of its segment.
        snapshot: of the block, if it was already read.
        live: its live workers, if already known.

    Returns:
        ``saved_seconds_ago`` (None: never), ``save_error`` (None: the last save succeeded), ``saver`` (the pid of the
        saver; None: none), ``agents`` (live workers that answer questions), ``agents_missing`` (those
        that do not), ``pushed_seconds_ago`` (None: never), ``push_error``, ``operations_dropped``, ``pool`` (the
        used share of the fullest part of the block, 0 to 1), ``core`` and ``version``.

    Raises:
        BlockError: the block is damaged.
    """
    live = reader.lately_live() if live is None else live
    usage = reader.usage(live)
    agents = sum(is_listening(name, worker.slot) for worker in live)
    saved, pushed, saver = reader.header.numbers("saved", "pushed", "saver_pid")
    return {
        "saved_seconds_ago": _seconds_since(saved),
        "save_error": reader.header.save_error or None,
        "saver": saver if any(worker.pid == saver for worker in live) else None,
        "agents": agents,
        "agents_missing": len(live) - agents,
        "pushed_seconds_ago": _seconds_since(pushed),
        "push_error": reader.header.push_error or None,
        "operations_dropped": _dropped(reader.read() if snapshot is None else snapshot),
        "pool": max(usage[part].used / max(usage[part].capacity, 1) for part in _PARTS),
        "core": CORE,
        "version": __version__,
    }


def figures_of(health: Mapping[str, Any]) -> dict[str, int | float]:
    """Return the health as numbers; an error and a saver are 1, none is 0, and missing values are left out.

    The dropped operations are left out, too, because the block has a counter for them.
    """
    numbers = {metric: health[metric] for metric in ("saved_seconds_ago", "pushed_seconds_ago")}
    return {
        **{metric: number for metric, number in numbers.items() if number is not None},
        **{metric: int(health[metric] is not None) for metric in ("save_error", "push_error", "saver")},
        **{metric: health[metric] for metric in ("agents", "agents_missing", "pool")},
        "build": 1,
    }


def complaints_of(health: Mapping[str, Any], longest_without_save: float | None) -> list[str]:
    """Return the problems of a block, a sentence each.

    Args:
        health: from `health`.
        longest_without_save: seconds after which a snapshot is too old; None: nothing is saved.
    """
    found = [f"saving fails: {health['save_error']}"] if health["save_error"] else []
    age = health["saved_seconds_ago"]
    if longest_without_save is not None and age is not None and age > longest_without_save:
        found.append(f"the last snapshot was saved {age:.0f} s ago")
    if health["push_error"]:
        found.append(f"pushing fails: {health['push_error']}")
    if missing := health["agents_missing"]:
        found.append(f"{missing} of {missing + health['agents']} live workers cannot answer questions")
    if health["operations_dropped"]:
        found.append(f"{health['operations_dropped']} operations were dropped: see stats.capacity")
    if health["pool"] > _NEARLY_FULL:
        found.append(f"the block is {health['pool']:.0%} full: see stats.capacity")
    return found


def _seconds_since(moment: int) -> float | None:
    """Return the seconds since a moment, which is given in ns since 1970; None for 0."""
    return round(max(time.time_ns() - moment, 0) / 1e9, 3) if moment else None


def _dropped(read: Snapshot) -> int:
    value = read.value_of(OWN, OPERATIONS_DROPPED)
    return value if isinstance(value, int) else 0
