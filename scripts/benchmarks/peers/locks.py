"""Counters written by hand: ``multiprocessing.Value`` with its lock, and a numpy array with a lock beside it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from . import serving
from .serving import CallLoop, Loops, empty


def make_value() -> tuple[CallLoop, CallLoop]:
    """``with value.get_lock(): value.value += 1``."""
    value = multiprocessing.get_context("fork").Value("q", 0)

    def loop(calls: int) -> None:
        each = value
        for _ in range(calls):
            with each.get_lock():
                each.value += 1

    return loop, empty


def make_array() -> tuple[CallLoop, CallLoop]:
    """``with lock: array[0] += 1``, the array being in shared memory."""
    memory = SharedMemory(create=True, size=4096)
    array = np.ndarray((512,), np.int64, memory.buf)
    # Unlinked at once, so that nothing stays at any end of this process. The memory stays while it is mapped.
    memory.unlink()
    _kept.append(memory)
    lock = multiprocessing.get_context("fork").Lock()

    def loop(calls: int) -> None:
        each, guard = array, lock
        for _ in range(calls):
            with guard:
                each[0] += 1

    return loop, empty


_kept: list[SharedMemory] = []


def prepare() -> tuple[dict[str, str], dict[str, Callable[..., Any]]]:
    """Make the operations."""
    loops = Loops({"value": make_value, "array": make_array})
    return serving.versions_of("numpy"), {**loops.operations}


if __name__ == "__main__":
    serving.serve(prepare)
