"""Figures of processes and of the block, for the endpoints and the commands.

`memory` is what this process has allocated; each process answers that itself (`shmstats.attachment.peers` asks it).
`system_figures` and `process_memory` ask the operating system, and so work for a stopped process. psutil is imported
only there; if /proc is restricted (``ProcSubset=pid``, ``hidepid``) it raises more than its own errors.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from typing import Any

from ..lifecycle import no_fork
from ..once import Lately
from ..proc import ProcessUse, uses_of
from ..reading.reader import BlockReader


def system_figures(pids: Iterable[int], uptime: float) -> dict[str, int | float]:
    """Return the resource use of the live workers, summed; figures of the last second are reused.

    Args:
        pids: of the workers. Workers that end meanwhile are left out.
        uptime: of the application, in seconds.

    Returns:
        ``uptime`` (s), ``memory_usage`` (bytes resident), ``cpu`` (per cent of one processor, averaged
        since each worker's start), ``user_in_ms`` and ``sys_in_ms`` (processor time), ``threads``,
        ``workers``, and ``gc`` (garbage collections of the answering process).
    """
    uses = _uses.get(tuple(pids))
    return {
        "uptime": int(uptime),
        "memory_usage": sum(use.resident for use in uses),
        "cpu": round(sum(100 * (use.user + use.system) / max(use.age, 0.01) for use in uses), 2),
        "user_in_ms": sum(round(1000 * use.user) for use in uses),
        "sys_in_ms": sum(round(1000 * use.system) for use in uses),
        "threads": sum(use.threads for use in uses),
        "workers": len(uses),
        "gc": sum(generation["collections"] for generation in gc.get_stats()),
    }


def _uses_of(pids: tuple[int, ...]) -> list[ProcessUse]:
    return [use for _, use in uses_of(pids)]


_uses = Lately(_uses_of)


def pool_figures(reader: BlockReader) -> dict[str, Any]:
    """Return how much of the block is in use: for each part ``used``, ``capacity`` and ``bytes``."""
    return {part: usage._asdict() for part, usage in reader.usage().items()}


def process_memory(pid: int) -> dict[str, int | None]:
    """Return the memory of a process in bytes: ``rss`` resident, ``uss`` the part not shared with any other process.

    Either is None if the system does not provide it, or the process has ended.
    """
    import psutil

    figures: dict[str, int | None] = {"rss": None, "uss": None}
    with suppress(psutil.Error, OSError, RuntimeError, ValueError):
        process = psutil.Process(pid)
        figures["rss"] = process.memory_info().rss
        figures["uss"] = process.memory_full_info().uss
    return figures


def memory() -> dict[str, Any]:
    """Return what this process has allocated, and the figures of its garbage collector.

    Returns:
        ``allocator``: ``python_blocks`` of Python's own allocator, and in bytes the ``heap_bytes`` that the
        C library has from the system, of them ``heap_used_bytes`` and ``heap_free_bytes``; None if it
        does not provide them, see mallinfo2(3).
        ``gc``: whether it is ``enabled``, and for each of its generations ``counts``, ``thresholds``,
        ``collections``, and how many objects were ``collected`` or ``uncollectable``.
    """
    generations = gc.get_stats()
    return {
        "allocator": {"python_blocks": sys.getallocatedblocks(), **_heap_figures()},
        "gc": {
            "enabled": gc.isenabled(),
            "counts": list(gc.get_count()),
            "thresholds": list(gc.get_threshold()),
            **{
                figure: [generation[figure] for generation in generations]
                for figure in ("collections", "collected", "uncollectable")
            },
        },
    }


_MALLINFO2 = (
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
)  # fmt: skip


@cache
def _mallinfo2() -> Any:
    """Return the function of the C library (glibc 2.33 and later), or None if it has none."""
    with no_fork():
        import ctypes  # only here: the import takes longer than everything else in this module
    try:
        function = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return None
    function.argtypes = ()
    fields = [(field, ctypes.c_size_t) for field in _MALLINFO2]
    function.restype = type("mallinfo2", (ctypes.Structure,), {"_fields_": fields})
    return function


def _heap_figures() -> dict[str, int | None]:
    function = _mallinfo2()
    if function is None:
        return dict.fromkeys(("heap_bytes", "heap_used_bytes", "heap_free_bytes"))
    info = function()
    return {
        "heap_bytes": info.arena + info.hblkhd,
        "heap_used_bytes": info.uordblks + info.hblkhd,
        "heap_free_bytes": info.fordblks,
    }
