"""The memory figures of a process."""

from __future__ import annotations

import gc
import os
import signal
import subprocess

import psutil
import pytest
from helpers import BOUND, process_state, wait_until

from shmstats.debug import processes as inspect
from shmstats.debug.processes import memory, process_memory


def test_resident_memory_is_the_figure_of_the_system() -> None:
    hoard = bytearray(os.urandom(1)) * 50_000_000
    figures = process_memory(os.getpid())
    assert figures["rss"] is not None
    assert figures["uss"] is not None
    assert len(hoard) < figures["uss"] <= figures["rss"] <= psutil.Process().memory_info().vms


def test_memory_of_a_stopped_process_is_known(sleeper: int) -> None:
    os.kill(sleeper, signal.SIGSTOP)
    wait_until(lambda: process_state(sleeper) == "T")
    figures = process_memory(sleeper)
    assert figures["rss"]
    assert figures["uss"]


def test_memory_of_a_process_that_has_ended_is_unknown() -> None:
    process = subprocess.Popen(["true"])
    process.wait(BOUND)
    assert process_memory(process.pid) == {"rss": None, "uss": None}


def test_allocations_show_in_the_allocator_figures() -> None:
    gc.collect()  # otherwise a collection meanwhile would free the garbage of earlier tests
    before = memory()["allocator"]
    objects = [[number] for number in range(50_000)]
    hoard = bytearray(50_000_000)
    after = memory()["allocator"]
    assert after["python_blocks"] - before["python_blocks"] >= len(objects)
    if after["heap_bytes"] is None:
        pytest.skip("the C library has no mallinfo2")
    assert after["heap_used_bytes"] - before["heap_used_bytes"] >= len(hoard)
    assert after["heap_bytes"] == after["heap_used_bytes"] + after["heap_free_bytes"]


def test_collections_show_in_the_gc_figures() -> None:
    before = memory()["gc"]
    for _ in range(3):
        gc.collect()
    after = memory()["gc"]
    assert after["enabled"] is gc.isenabled()
    assert after["thresholds"] == list(gc.get_threshold())
    assert after["collections"][-1] - before["collections"][-1] == 3
    assert len(after["counts"]) == len(after["collected"]) == len(after["uncollectable"]) == 3


def test_without_figures_of_the_c_library_they_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "_mallinfo2", lambda: None)
    heap = {name: value for name, value in memory()["allocator"].items() if name != "python_blocks"}
    assert heap == {"heap_bytes": None, "heap_used_bytes": None, "heap_free_bytes": None}
