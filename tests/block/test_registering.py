"""Registration in C, which may wait for the table lock with an outdated declaration."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers import wait_until

from shmstats.layout import NAME
from shmstats.series import Mode

PEER = """
    from shmstats import stats
    from shmstats.block.declaring import declare
    from shmstats.series import Declaration, Kind
    block = stats.shared.attach()
    stats.incr("c", "other", labels={"a": "2"})
    print(flush=True)
    input()
    with block.exclusive():
        print(flush=True)
        input()
        declare(block, "c", "m", Declaration(Kind.COUNTER, labelnames=("b",)))
        print(flush=True)
        input()
    input()
"""


def waits_for_a_lock() -> bool:
    """Tell whether this process waits for a record lock."""
    return any("->" in line and f" {os.getpid()} " in line for line in Path("/proc/locks").read_text().splitlines())


@pytest.mark.parametrize(
    ("kind", "more"), [("counter", {}), ("histogram", {}), ("gauge", {}), ("gauge", {"mode": "livesum"})]
)
def test_a_registration_that_waited_for_the_lock_uses_the_newest_declaration(
    stats: Any, python: Any, kind: str, more: dict[str, Any]
) -> None:
    """Also if another thread has read the declaration of another metric since then."""
    peer = python.start(PEER.replace("Kind.COUNTER", f"Kind.{kind.upper()}"))
    peer.hear()
    stats.declare("c", "m", kind=kind, labelnames=("a",), **more)
    stats.declare("c", "other", kind="counter", labelnames=("a",))
    count = {"counter": stats.incr, "histogram": stats.timing, "gauge": stats.gauge}[kind]
    count("c", "m", 1, labels={"a": "1"})
    stats.incr("c", "other", labels={"a": "1"})
    peer.tell()
    peer.hear()
    waiting = threading.Thread(target=count, args=("c", "m", 1), kwargs={"labels": {"a": "2"}})
    waiting.start()
    wait_until(waits_for_a_lock)
    peer.tell()
    peer.hear()
    stats.incr("c", "other", labels={"a": "2"})
    peer.tell()
    waiting.join()
    assert [name.labels for name in stats.read().names if name.metric == "m"] == []
    peer.tell()
    peer.finish()


@pytest.mark.parametrize("mode", [mode.name.lower() for mode in Mode])
def test_further_label_sets_of_a_gauge_are_registered_without_the_slow_path(
    stats: Any, core: str, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Also in place of removed label sets, whose values are not added to; the twin always takes the slow path."""
    stats.declare("c", "m", kind="gauge", labelnames=("a",), mode=mode)
    found: list[str] = []
    slow = stats.shared._find_or_add

    def find_or_add(block: Any, series: Any, *arguments: Any) -> Any:
        found.append(dict(series.labels)["a"])
        return slow(block, series, *arguments)

    monkeypatch.setattr(stats.shared, "_find_or_add", find_or_add)
    for _ in range(2):
        stats.gauge("c", "m", 7, labels={"a": "first"})
        stats.gauge("c", "m", 2.5, labels={"a": "set"})
        stats.gauge("c", "m", labels={"a": "moved"}).incr(3)
        stats.gauge("c", "m", labels={"a": "moved"}).decr()
        values = {name.labels[0][1]: value for name, value in series_of(stats, "m")}
        assert values == {"first": 7, "set": 2.5, "moved": 2}
        stats.remove("c", "m")
    if core == "C":
        assert found == ["first"]


def test_names_that_fill_pages_of_memory_are_registered_without_the_slow_path(
    stats: Any, python: Any, core: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also names registered by a peer, for which this process has no memory yet."""
    found: list[str] = []
    slow = stats.shared._find_or_add

    def find_or_add(block: Any, series: Any, *arguments: Any) -> Any:
        found.append(series.metric)
        return slow(block, series, *arguments)

    stats.incr("c", "first")
    monkeypatch.setattr(stats.shared, "_find_or_add", find_or_add)
    for number in range(200):
        stats.incr("c", f"long name number {number}")
    python.run(
        """
        from shmstats import stats
        for number in range(200):
            stats.incr("c", f"name of a peer {number}")
            stats.timing("c", f"time of a peer {number % 5}", 1)
        """
    )
    for number in range(200):
        stats.incr("c", f"name of a peer {number}")
    for number in range(5):
        stats.timing("c", f"time of a peer {number}", 1)
    assert stats.get("c", "name of a peer 199") == 2
    assert {name.metric: value for name, value in series_of(stats, "time of a peer 4")} != {}
    if core == "C":
        assert not found


def series_of(stats: Any, metric: str) -> list[tuple[Any, Any]]:
    """Return the series of a metric, with their values."""
    read = stats.read()
    return [each for each in zip(read.names, read.values, strict=True) if each[0].metric == metric]


def test_a_histogram_is_not_bound_to_a_damaged_record_with_too_few_cells(stats: Any) -> None:
    width = 6
    stats.declare("c", "m", kind="histogram", labelnames=("a",), buckets=tuple(range(100)))
    stats.timing("c", "m", 90, labels={"a": "1"})
    block = stats.shared.attach()
    record = block.names.find(b"c\0m\0a\x001")
    place = block.layout.names + record.number * NAME.size + NAME.offset("width")
    sound = bytes(block._buf[place : place + 4])
    block._buf[place : place + 4] = width.to_bytes(4, "little")
    block.names.raise_revision()
    block.cells.raise_generation()
    start = block.layout.cells + block.worker.row * block.layout.row_bytes + 8 * (record.cell + width)
    before = bytes(block._buf[start : start + 800])
    for _ in range(3):
        stats.timing("c", "m", 90, labels={"a": "1"})
    assert bytes(block._buf[start : start + 800]) == before
    block._buf[place : place + 4] = sound
