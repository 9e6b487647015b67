"""A block that is filled in this process, and its page: the first, after a change of names, compressed, of many rows.

Times are processor time, which excludes other programs.
"""

from __future__ import annotations

import gzip
import random
import time
from collections.abc import Callable
from typing import Any

from shmstats import stats
from shmstats.attachment.health import health
from shmstats.block.keys import encode_key
from shmstats.debug.processes import system_figures
from shmstats.export import render
from shmstats.series import Kind

from . import serving
from .ours import configure

#: Draws the durations of routes.
_CHANCE = random.Random(7)


def fill_plain(series: int) -> None:
    """Count series without labels."""
    for category, metric in serving.names(series):
        stats.incr(category, metric, 1)


def fill_labelled(series: int) -> None:
    """Count series with three labels, a thousand for each metric."""
    for number, (metric, labels) in enumerate(serving.label_sets(series)):
        stats.incr("http", metric, number, labels=labels)


def fill_histograms(series: int) -> None:
    """Observe durations in histograms, one for each route."""
    for number in range(series):
        histogram: Any = stats.histogram("http", "metric_duration", labels={"route": f"/{number}"})
        for duration in serving.route_durations(number):
            histogram.observe(duration)


def fill_routes(series: int) -> int:
    """Count series like those of an application with many routes: a tenth durations, the others counters."""
    for number in range(series // 10):
        _answer(number, "200")
        _answer(number, "500")
    for number in range(series - 3 * (series // 10)):
        stats.incr(f"shop{number % 10}", f"metric{number}", number)
    return len(stats.read().names)


def _answer(route: int, status: str) -> None:
    labels = {"method": "GET", "route": f"/items/{route}/<int:item>"}
    stats.incr("http", "http_requests", 1 + route % 7, labels={**labels, "status": status})
    for _ in range(10):
        stats.timing("http", "http_request_duration", _CHANCE.lognormvariate(2, 1), labels=labels)


class Poll:
    """The polls of the live page, answered by the application without a server."""

    def __init__(self) -> None:
        self._application: Any = None

    def make(self, routes: int) -> tuple[float, int]:
        """Answer a poll after this many routes have answered a request; return ns, and the bytes of the answer."""
        if self._application is None:
            from shmstats.web import create_app

            self._application = create_app()
        for number in range(routes):
            _answer(number, "200")
        environ = serving.environ("/stats/live/data", {"Accept-Encoding": "gzip"})
        statuses: list[str] = []
        start = time.process_time_ns()
        body = b"".join(self._application(environ, lambda status, headers, error=None: statuses.append(status)))
        taken = time.process_time_ns() - start
        assert statuses == ["200 OK"], statuses
        return taken, len(body)


def fill_rows(series: int, rows: int) -> int:
    """Count series in many rows, like this many workers; return the sum."""
    shared = stats.shared
    assert shared is not None
    block = shared.attach()
    for category, metric in serving.names(series):
        record = block.find_or_add(encode_key(category, metric), Kind.COUNTER)
        for row in range(1, rows):
            assert block.stripes.reserve_cells(row, record.cell, record.width)
            block.cells.add(row, record.cell, 1, block.cells.generation)
    return sum(value for value in stats.read().values if isinstance(value, int))


def scrape(again: bool = True) -> tuple[float, int]:
    """Read and render; return ns, and the number of samples. With ``again`` a value is changed before."""
    if again:
        stats.incr("bench", "changed")
    start = time.process_time_ns()
    page = render(stats.read())
    return time.process_time_ns() - start, page.count(b"\n")


def expose() -> tuple[float, float]:
    """Make a page as an endpoint does, after a change; return ns of wall time and of processor time."""
    shared = stats.shared
    assert shared is not None
    stats.incr("bench", "changed")
    start, used = time.perf_counter_ns(), time.process_time_ns()
    render(shared.exposable())
    return time.perf_counter_ns() - start, time.process_time_ns() - used


def scrape_after(change: str) -> float:
    """Remove one series, or decrement a counter for the first time, and scrape; returns ns of the scrape."""
    stats.incr("bench", change)
    scrape(False)
    if change == "removed":
        stats.remove("bench", change)
    else:
        stats.decr("bench", change)
    taken = scrape(False)[0]
    stats.remove("bench", change)
    scrape(False)
    return taken


def compress() -> tuple[float, int, int]:
    """Compress the page as an endpoint does; return ns, and the bytes before and after."""
    page = render(stats.read())
    start = time.process_time_ns()
    packed = gzip.compress(page, compresslevel=1, mtime=0)
    return time.process_time_ns() - start, len(page), len(packed)


def figures(workers: int) -> tuple[float, int]:
    """Make the figures of system and health for a page, with this many workers; return ns, and the live workers."""
    population = serving.Population(lambda some: stats.incr("bench", "worker"))
    population.add(workers, 0, 1)
    shared = stats.shared
    assert shared is not None
    block = shared.attach()
    reader = block.reader

    def make() -> float:
        start = time.process_time_ns()
        health(reader, block.name, reader.read())
        system_figures([worker.pid for worker in reader.lately_live()], reader.uptime)
        return time.process_time_ns() - start

    make()
    try:
        return min(make() for _ in range(20)), len(reader.lately_live())
    finally:
        population.finish()


def prepare() -> tuple[dict[str, str], dict[str, Callable[..., Any]]]:
    """Make the operations."""
    operations: dict[str, Callable[..., Any]] = {
        "configure": configure,
        "plain": fill_plain,
        "labelled": fill_labelled,
        "expose": expose,
        "histograms": fill_histograms,
        "routes": fill_routes,
        "rows": fill_rows,
        "poll": Poll().make,
        "scrape": scrape,
        "scrape_after": scrape_after,
        "compress": compress,
        "figures": figures,
    }
    return serving.versions_of("numpy", "flask"), operations


if __name__ == "__main__":
    serving.serve(prepare)
