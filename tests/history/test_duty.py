"""The history as real processes write it: the saver, and the process that takes over when it is killed."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import Child, PythonRunner, wait_until

from shmstats.history.past import Query, read_past
from shmstats.history.ring import ring_file
from shmstats.reading.reader import read_only

COUNTING = """
import sys, threading
import shmstats
from shmstats import stats

config = {"path": {"data": sys.argv[1]}, "stats": {"capacity": 1024, "max_workers": 4, "snapshot_interval_ms": 100}}
config["history"] = {"enabled": sys.argv[2] == "on"}
shmstats.init(config)
stats.incr("shop", "orders")
print("counts", flush=True)
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), over.set()), daemon=True).start()
while not over.wait(0.01):
    stats.incr("shop", "orders")
stats.close()
"""


def rates(data: Path) -> list[float]:
    """The recorded rate of orders for each second."""
    try:
        found = read_past(data, Query.made(-120, None, 1, ["shop.orders"]))
    except FileNotFoundError:
        return []
    return [rate for rate in found.series.get("shop.orders", {}).get("rate", ()) if not math.isnan(rate)]


@pytest.fixture
def counting(python: PythonRunner, data: Path) -> Iterator[list[Child]]:
    """Processes that count some orders a second."""
    children: list[Child] = []
    yield children
    for child in children:
        if not child.ended:
            child.tell()
            child.finish(quiet=False)


def start(python: PythonRunner, data: Path, children: list[Child], history: str = "on") -> Child:
    child = python.start(COUNTING, data, history)
    children.append(child)
    assert child.hear() == "counts"
    return child


@pytest.mark.parametrize("core", ["C"], indirect=True)
def test_the_saver_writes_the_history(python: PythonRunner, data: Path, counting: list[Child]) -> None:
    child = start(python, data, counting)
    wait_until(lambda: len(rates(data)) >= 2)
    assert all(rate > 0 for rate in rates(data))
    child.tell()
    child.finish(quiet=False)
    known = len(rates(data))
    start(python, data, counting)  # after a restart of the application the history is still there
    wait_until(lambda: len(rates(data)) > known)
    events = read_past(data, Query.made(-120, None)).events
    assert [event.kind for event in events if "start" in event.kind] == ["start", "restart"]


@pytest.mark.thorough
@pytest.mark.parametrize("core", ["C"], indirect=True)
def test_another_process_continues_the_history_when_the_saver_is_killed(
    python: PythonRunner, data: Path, counting: list[Child]
) -> None:
    for _ in range(3):
        start(python, data, counting)
    for _ in range(2):
        wait_until(lambda: len(rates(data)) >= 2)
        known = len(rates(data))
        with read_only(data) as reader:
            saver = reader.header.number("saver_pid")
        os.kill(saver, signal.SIGKILL)
        wait_until(lambda known=known: len(rates(data)) > known + 2)
        kinds = [event.kind for event in read_past(data, Query.made(-120, None)).events]
        assert kinds[-1] == "kill"


@pytest.mark.parametrize("core", ["C"], indirect=True)
def test_no_history_is_written_if_it_is_switched_off(python: PythonRunner, data: Path, counting: list[Child]) -> None:
    start(python, data, counting, "off")
    wait_until(lambda: (data / "stats" / "simple.json").exists())
    assert not ring_file(data).exists()
