"""What a page has shown is on the disk: after a loss of power no total goes back."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any

import pytest
from helpers import PythonRunner, segment_of, wait_until

pytestmark = pytest.mark.far_from_core

SHOW = """
    import sys
    from shmstats import stats
    for line in sys.stdin:
        stats.incr('c', 'm', int(line))
        stats.timing('c', 't', 1.5)
        shown = stats.shared.exposable()
        values = {name.metric: value for name, value in zip(shown.names, shown.values)}
        print(values['m'], values['t'].count, flush=True)
"""


def test_no_total_goes_back_over_losses_of_power(
    python: PythonRunner, configure: Callable[..., Any], lose_power: Callable[..., None]
) -> None:
    configure(snapshot_interval_ms=3_600_000)
    shown = (0, 0)
    for _ in range(3):
        first, second = python.start(SHOW), python.start(SHOW)
        for child in (first, second, first):
            child.tell("10")
            now = tuple(map(int, child.hear().split()))
            assert now >= (shown[0] + 10, shown[1] + 1)
            shown = now
        lose_power(first, second)
    assert shown == (90, 9)


def test_pages_that_come_together_share_a_save_in_all_processes(
    python: PythonRunner, configure: Callable[..., Any], lose_power: Callable[..., None]
) -> None:
    configure(snapshot_interval_ms=3_600_000)
    code = """
        import sys, threading, time
        from shmstats import stats
        stats.incr('c', 'm')
        print('ready', flush=True)
        sys.stdin.readline()
        def show():
            for _ in range(3):
                stats.incr('c', 'm')
                stats.shared.exposable()
        threads = [threading.Thread(target=show) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        header = stats.shared.attach().header
        print(header.saved_count, flush=True)
        sys.stdin.readline()
        """
    children = [python.start(code) for _ in range(2)]
    for child in children:
        assert child.hear() == "ready"
    for child in children:
        child.tell()
    saves = max(int(child.hear()) for child in children)
    assert 1 <= saves <= 8  # of 48 pages in some seconds
    lose_power(*children)


def test_a_disk_that_hangs_or_fails_does_not_keep_a_page_back(
    shmstats: ModuleType, configure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    configure(snapshot_interval_ms=3_600_000)
    stats, go_on = shmstats.stats, Event()
    stats.incr("c", "m", 3)
    monkeypatch.setattr(shmstats.attachment.saver, "_EXPOSE_SECONDS", 0.2)

    def shown() -> Any:
        read = stats.shared.exposable()
        return {(name.category, name.metric): value for name, value in zip(read.names, read.values, strict=True)}

    monkeypatch.setattr("os.fsync", lambda fd: go_on.wait(30))
    assert shown()["c", "m"] == 3
    go_on.set()
    monkeypatch.undo()
    stats.incr("c", "m")
    assert shown()["c", "m"] == 4
    (data / "stats" / "simple.json").unlink()
    (data / "stats").rename(data / "gone")
    (data / "stats").write_text("in the way")
    stats.incr("c", "m")
    assert shown()["c", "m"] == 5
    health = importlib.import_module("shmstats.attachment.health").health
    block = stats.shared.attach()
    assert "stats" in health(block.reader, block.name)["save_error"]
    (data / "stats").unlink()
    stats.incr("c", "m")
    wait_until(lambda: shown() and health(block.reader, block.name)["save_error"] is None)


def test_health_is_told_by_any_reader(
    shmstats: ModuleType, configure: Callable[..., Any], python: PythonRunner, data: Path
) -> None:
    configure(snapshot_interval_ms=100)
    child = python.start(
        """
        import os
        from shmstats import stats
        stats.incr('c', 'm')
        print(os.getpid(), flush=True)
        input()
        """
    )
    pid = int(child.hear())
    health = importlib.import_module("shmstats.attachment.health").health
    with shmstats.reading.read_only(data) as reader:
        name = segment_of(data)
        wait_until(lambda: health(reader, name)["saved_seconds_ago"] is not None)
        found = health(reader, name)
    assert (found["saver"], found["save_error"]) == (pid, None)
    assert (found["agents"], found["agents_missing"], found["operations_dropped"]) == (1, 0, 0)
    assert 0 <= found["saved_seconds_ago"] < 60
    assert 0 < found["pool"] < 1
    json.dumps(found)
    child.tell()
    child.finish()
