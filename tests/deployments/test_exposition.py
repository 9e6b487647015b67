"""Exposed values are on the disk: after a power loss no total goes back."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from helpers import PythonRunner, segment_of, wait_until

from shmstats.storage import StorageMeter

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


def test_no_exposed_total_goes_back_after_power_losses(
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


def test_concurrent_pages_of_all_processes_share_a_save(
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


@pytest.fixture
def shown(shmstats: ModuleType) -> Callable[[], Any]:
    """The value of c.m on a page; None if it is missing."""

    def shown() -> Any:
        read = shmstats.stats.shared.exposable()
        values = zip(read.names, read.values, strict=True)
        return next((value for name, value in values if (name.category, name.metric) == ("c", "m")), None)

    return shown


@pytest.fixture
def hanging(shmstats: ModuleType, configure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """A disk that hangs until this is set; pages wait for it a moment only."""
    configure(snapshot_interval_ms=3_600_000)
    go_on = Event()
    go_on.set()
    sync = os.fsync

    def fsync(fd: int) -> None:
        go_on.wait(30)
        sync(fd)

    monkeypatch.setattr("os.fsync", fsync)
    monkeypatch.setattr(shmstats.attachment.saver, "_EXPOSE_SECONDS", 0.2)
    yield go_on
    go_on.set()


def test_a_page_waits_for_no_save_if_its_values_are_saved(
    shmstats: ModuleType, configure: Callable[..., Any], shown: Callable[[], Any]
) -> None:
    configure(snapshot_interval_ms=3_600_000)
    shmstats.stats.incr("c", "m")
    assert shown() == 1
    header = shmstats.stats.shared.attach().header
    due = header.expose_due
    assert [shown() for _ in range(3)] == [1] * 3
    assert (header.saved_count, header.expose_due) == (1, due)  # none of them has saved
    shmstats.stats.incr("c", "m")
    assert shown() == 2
    assert header.saved_count == 2


def test_three_pages_within_a_second_do_not_wait_for_the_interval_of_saves(
    shmstats: ModuleType, configure: Callable[..., Any], shown: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(snapshot_interval_ms=3_600_000)
    shmstats.stats.incr("c", "other")
    saver = shmstats.attachment.saver
    never = {"sleep": lambda seconds: pytest.fail("a page waited for its turn")}
    monkeypatch.setattr(saver, "time", SimpleNamespace(**vars(saver.time) | never))
    for number in (1, 2, 3):
        shmstats.stats.incr("c", "m")
        assert shown() == number
    assert shmstats.stats.shared.attach().header.saved_count == 3


def test_a_page_after_a_reboot_does_not_wait_for_a_time_of_the_former_boot(
    shmstats: ModuleType,
    python: PythonRunner,
    configure: Callable[..., Any],
    shown: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configure(snapshot_interval_ms=3_600_000)
    saver = shmstats.attachment.saver
    python.run(
        "import os; from shmstats import stats; stats.incr('c', 'm');"
        f"stats.shared.attach().header.expose_due = {saver._now() + 10**15}; os._exit(0)"
    )
    never = {"sleep": lambda seconds: pytest.fail("a page waited for its turn")}
    monkeypatch.setattr(saver, "time", SimpleNamespace(**vars(saver.time) | never))
    shmstats.stats.incr("c", "m")
    assert shown() == 2


def save_error(shmstats: ModuleType) -> str | None:
    health = importlib.import_module("shmstats.attachment.health").health
    block = shmstats.stats.shared.attach()
    found: str | None = health(block.reader, block.name)["save_error"]
    return found


def test_the_size_of_a_large_directory_is_a_lower_bound_until_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(50):
        (tmp_path / str(i)).write_bytes(b"x")
    goes_on, scandir = Event(), os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: goes_on.wait() and scandir(path))
    meter = StorageMeter(tmp_path)
    first = meter.read()
    assert (first.store, first.complete) == (0, False)
    assert first.all > 0
    goes_on.set()
    wait_until(lambda: meter.read().complete)
    assert meter.read().store == 50


@pytest.mark.parametrize("remembers", [True, False])
def test_while_the_disk_hangs_a_page_shows_the_saved_values(
    shmstats: ModuleType, hanging: Event, shown: Callable[[], Any], remembers: bool
) -> None:
    stats = shmstats.stats
    hanging.clear()
    stats.incr("c", "m", 3)
    assert shown() is None
    hanging.set()
    wait_until(lambda: shown() == 3)
    hanging.clear()
    stats.incr("c", "m")
    if not remembers:
        stats.shared._saver._saved = None  # another process has saved the value
    assert shown() == 3
    hanging.set()
    wait_until(lambda: shown() == 4)


def test_after_a_long_hang_of_the_disk_a_page_shows_the_counted_values(
    shmstats: ModuleType, hanging: Event, shown: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shmstats.stats.incr("c", "m", 3)
    monkeypatch.setattr(shmstats.attachment.saver, "_HANG_SECONDS", 0.5)
    hanging.clear()
    wait_until(lambda: shown() == 3)
    assert "no save has finished" in str(save_error(shmstats))
    hanging.set()
    wait_until(lambda: shown() == 3 and save_error(shmstats) is None)


def test_if_the_disk_fails_a_page_shows_the_counted_values(
    shmstats: ModuleType, hanging: Event, shown: Callable[[], Any], data: Path
) -> None:
    stats = shmstats.stats
    stats.incr("c", "m", 4)
    wait_until(lambda: shown() == 4)
    shutil.rmtree(data / "stats")
    (data / "stats").write_text("in the way")
    stats.incr("c", "m")
    wait_until(lambda: shown() == 5)
    assert "stats" in str(save_error(shmstats))
    (data / "stats").unlink()
    stats.incr("c", "m")
    wait_until(lambda: shown() == 6 and save_error(shmstats) is None)


def test_a_save_does_not_replace_one_that_read_later(
    shmstats: ModuleType,
    configure: Callable[..., Any],
    attach: Callable[..., Any],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first save is delayed before it reads, the second afterwards."""
    settings = shmstats.config.load(configure(snapshot_interval_ms=3_600_000))
    blocks = [attach(), attach()]
    savers = [shmstats.attachment.saver.Saver(block, settings, print, print) for block in blocks]
    counted = blocks[0].find_or_add(b"c\0m", shmstats.series.Kind.COUNTER)
    waiting, go_on = (Event(), Event()), (Event(), Event())
    saved: dict[int, Any] = {}

    def hold(number: int) -> None:
        waiting[number].set()
        assert go_on[number].wait(30)

    read, write = blocks[0].reader.read, shmstats.snapshot.store.write
    monkeypatch.setattr(blocks[0].reader, "read", lambda: hold(0) or read())
    threads = [
        threading.Thread(target=lambda: saved.update({0: savers[0].save()})),
        threading.Thread(target=lambda: saved.update({1: savers[1].save()}), name="second"),
    ]
    named = threading.current_thread
    monkeypatch.setattr(
        shmstats.snapshot.store, "write", lambda *what: (named().name == "second" and hold(1)) or write(*what)
    )
    for number, thread in enumerate(threads):
        thread.start()
        assert waiting[number].wait(30)
    cells = blocks[0].cells
    assert cells.add(blocks[0].row_for(counted), counted.cell, 7, cells.generation)
    for number, thread in enumerate(threads):
        go_on[number].set()
        thread.join(30)
    assert list(saved[0].values) == [7]
    assert saved[1] is None
    assert list(shmstats.snapshot.store.load(data / "stats" / "simple.json").values) == [7]


def test_any_reader_shows_the_health(
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
    with shmstats.reading.reader.read_only(data) as reader:
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
