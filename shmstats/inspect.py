"""Figures of processes and of the block, for the endpoints and the commands.

psutil is imported where it is needed: code that only counts never loads it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable
from typing import Any

from .block import BlockReader


def system_figures(pids: Iterable[int], uptime: float) -> dict[str, int | float]:
    """Return what the live workers use, summed over them.

    Args:
        pids: of the workers. One that ends meanwhile is left out.
        uptime: of the application, in seconds.

    Returns:
        ``uptime`` (s), ``memory_usage`` (bytes resident), ``cpu`` (per cent of one processor, on the
        average since each worker's start), ``user_in_ms`` and ``sys_in_ms`` (processor time), ``threads``,
        ``workers``, and ``gc`` (garbage collections of the process that answers).
    """
    import psutil

    figures: dict[str, int | float] = {
        "uptime": int(uptime),
        "memory_usage": 0,
        "cpu": 0.0,
        "user_in_ms": 0,
        "sys_in_ms": 0,
        "threads": 0,
        "workers": 0,
        "gc": sum(generation["collections"] for generation in gc.get_stats()),
    }
    for pid in pids:
        try:
            worker = _process_figures(psutil.Process(pid))
        except psutil.Error:
            continue
        for metric, value in worker.items():
            figures[metric] += value
    figures["cpu"] = round(figures["cpu"], 2)
    return figures


def _process_figures(process: Any) -> dict[str, int | float]:
    with process.oneshot():
        times = process.cpu_times()
        age = max(time.time() - process.create_time(), 0.01)
        return {
            "memory_usage": process.memory_info().rss,
            "cpu": 100 * (times.user + times.system) / age,
            "user_in_ms": round(1000 * times.user),
            "sys_in_ms": round(1000 * times.system),
            "threads": process.num_threads(),
            "workers": 1,
        }


def pool_figures(reader: BlockReader) -> dict[str, Any]:
    """Return how much of the block is in use: for each part ``used``, ``capacity`` and ``bytes``."""
    return {part: usage._asdict() for part, usage in reader.usage().items()}
