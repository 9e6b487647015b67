"""A block that many workers count into, and a process that reads, renders, measures and saves it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import shmstats
from shmstats import stats
from shmstats.block import identify
from shmstats.export import render
from shmstats.snapshot import store

from . import serving
from .ours import configure


def count(some: list[tuple[str, str]]) -> None:
    """Count each of some names once."""
    for category, metric in some:
        stats.incr(category, metric, 1)


def register(number: int) -> float:
    """Count this many names once; return the ns of one."""
    some = serving.names(number)
    start = time.perf_counter_ns()
    count(some)
    return (time.perf_counter_ns() - start) / number


def scrape() -> tuple[float, int]:
    """Read and render the page; returns ns, and the number of samples of the names counted here."""
    start = time.perf_counter_ns()
    page = render(stats.read())
    taken = time.perf_counter_ns() - start
    return taken, sum(line.startswith(b"metric") for line in page.splitlines())


def total() -> int:
    """Return the sum of the names counted here."""
    found = stats.snapshot()
    return sum(
        value
        for category, metrics in found.items()
        if category.startswith("category")
        for value in metrics.values()
        if isinstance(value, int)
    )


class Document:
    """``/stats``, answered by the application without a server."""

    def __init__(self) -> None:
        self._application: Any = None

    def make(self) -> tuple[float, int]:
        """Answer a request; returns ns, and the number of metrics of the names counted here."""
        if self._application is None:
            from shmstats.web import create_app

            self._application = create_app()
        environ = serving.environ("/stats")
        statuses: list[str] = []
        start = time.perf_counter_ns()
        body = b"".join(self._application(environ, lambda status, headers, error=None: statuses.append(status)))
        taken = time.perf_counter_ns() - start
        assert statuses == ["200 OK"], statuses
        simple = json.loads(body)["simple"]
        return taken, sum(len(metrics) for name, metrics in simple.items() if name.startswith("category"))


def size() -> int:
    """Return the bytes of shared memory behind the block and the files beside it."""
    shared = stats.shared
    assert shared is not None
    return serving.files_size("/dev/shm", identify(shared.directory).name)


def length() -> int:
    """Return the length of the block, including parts without memory."""
    shared = stats.shared
    assert shared is not None
    return os.stat(f"/dev/shm/{identify(shared.directory).name}").st_size


_held: list[serving.Worker] = []


def worker_size(numbers: list[int]) -> int:
    """Return the bytes of a further worker that uses some of the names; it stays."""
    some = [serving.names(number + 1)[number] for number in numbers]
    before = size()

    def work(worker: serving.Worker) -> None:
        count(some)
        worker.say("done")
        for _ in worker.lines():
            pass

    worker = serving.Worker(work, shmstats.close)
    worker.hear()
    _held.append(worker)
    return size() - before


def save(directory: str) -> float:
    """Read all values and save them; returns ns."""
    start = time.perf_counter_ns()
    store.save(store.stats_directory(Path(directory)), stats.read())
    return time.perf_counter_ns() - start


def restore(directory: str, **section: Any) -> tuple[float, float, int]:
    """Attach a block that is made from a saved snapshot.

    Returns ns, ns of processor time, and the sum of the restored values.
    """
    start, used = time.perf_counter_ns(), time.process_time_ns()
    configure(directory, persist=True, **section)
    taken, used = time.perf_counter_ns() - start, time.process_time_ns() - used
    return taken, used, total()


def attach(number: int) -> tuple[float, float]:
    """Make this many forked workers count once at the same time.

    Returns the ns until the last one has, and the processor time of their first counts together, in ns.
    """
    stats.incr("bench", "attached")
    ready, counted = os.pipe()
    waiting, go_home = os.pipe()
    start = time.perf_counter_ns()
    children = []
    for _ in range(number):
        pid = os.fork()
        if pid == 0:
            os.close(go_home)
            used = time.process_time_ns()
            stats.incr("bench", "attached")
            os.write(counted, (time.process_time_ns() - used).to_bytes(8, "little"))
            os.read(waiting, 1)
            os._exit(0)
        children.append(pid)
    told = b""
    while len(told) < 8 * number:
        told += os.read(ready, 65536)
    taken = time.perf_counter_ns() - start
    used = sum(memoryview(told).cast("Q"))
    os.close(go_home)
    for pid in children:
        os.waitpid(pid, 0)
    for descriptor in (ready, counted, waiting):
        os.close(descriptor)
    return taken, used


def longest_increment(seconds: float) -> tuple[float, int]:
    """Count without a break; returns the ns of the longest call, and how often the snapshot was saved."""
    shared = stats.shared
    assert shared is not None
    counter = stats.counter("bench", "busy")
    counter.incr()
    header = shared.attach().header
    longest, before = 0, header.saved_count
    end = time.perf_counter_ns() + int(seconds * 1e9)
    now, clock = time.perf_counter_ns(), time.perf_counter_ns
    while now < end:
        for _ in range(20_000):
            start = clock()
            counter.incr()
            taken = clock() - start
            if taken > longest:
                longest = taken
        now = clock()
    return longest, header.saved_count - before


def prepare() -> tuple[dict[str, str], dict[str, Callable[..., Any]]]:
    """Make the operations."""
    population = serving.Population(count, shmstats.close)
    operations: dict[str, Callable[..., Any]] = {
        "configure": configure,
        "register": register,
        "populate": population.add,
        "count_again": population.count_again,
        "replace": population.replace,
        "finish": population.finish,
        "scrape": scrape,
        "total": total,
        "document": Document().make,
        "size": size,
        "length": length,
        "worker_size": worker_size,
        "save": save,
        "restore": restore,
        "attach": attach,
        "longest_increment": longest_increment,
        "close": shmstats.close,
    }
    return serving.versions_of("numpy", "flask"), operations


if __name__ == "__main__":
    serving.serve(prepare)
