"""Buffered mode under real gunicorn: every answered request is counted once, however its worker ends."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import KINDS, SITE, Gunicorn, Load, wait_until

NEVER = 3_600_000

SITE = (
    SITE
    + """

@app.get("/timed")
@stats.timer("requests", "took")
def timed():
    stats.incr("requests", "total")
    return str(os.getpid())
"""
)


def config(**stats: int) -> str:
    """Buffered mode; only the test, or the end of a worker, flushes."""
    settings = {"buffer_size": 1_000_000, "flush_interval_ms": NEVER, **stats}
    given = ", ".join(f"{key}: {value}" for key, value in settings.items())
    return f"path: {{data: data}}\nstats: {{no_buffer: false, {given}}}\n"


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Gunicorn]:
    """Make a server: ``serve("sync", "--max-requests", "25", buffer_size=2)``."""

    def serve(kind: str, *options: str, **stats: int) -> Gunicorn:
        return Gunicorn(tmp_path, *KINDS[kind], *options, site=SITE, config=config(**stats))

    return serve


def request(server: Gunicorn, number: int) -> Load:
    """Send at least that many requests, and return the number of answers."""
    with Load(server, "/timed", threads=8) as load:
        load.more(number)
    assert load.failed == 0
    return load


def took(server: Gunicorn) -> int:
    """The count of the histogram of requests."""
    count: int = server.document()["simple"]["requests"]["took"]["count"]
    return count


def saved(server: Gunicorn) -> dict[tuple[str, str], Any]:
    """The saved snapshot of a stopped server."""
    data = json.loads((server.data / "stats" / "simple.json").read_text())["data"]
    names = (tuple(name.split("\0")) for name in data["names"])
    return dict(zip(names, data["values"], strict=True))


def observations(saved: list[Any]) -> int:
    """The count of a saved histogram, whose buckets come last."""
    return sum(saved[-1])


def replaced(server: Gunicorn, before: set[int]) -> Callable[[], bool]:
    return lambda: len(server.workers()) == 4 and not server.workers() & before


def test_the_total_is_exact_after_one_interval(serve: Callable[..., Gunicorn]) -> None:
    with serve("sync", flush_interval_ms=200) as server:
        load = request(server, 300)
        wait_until(lambda: server.total() == load.total and took(server) == load.total, "the exact total")
        own = server.document()["simple"]["shmstats"]
        assert own["flushes"] == own["flush"]["count"] > 0
        assert own["operations_held"] == 0


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["sync", "gthread"])
def test_the_total_is_exact_after_a_reload_a_stop_and_a_start(serve: Callable[..., Gunicorn], kind: str) -> None:
    server = serve(kind)
    with server:
        load = request(server, 300)
        assert server.total() <= load.total
        workers = server.workers()
        server.signal(signal.SIGHUP)
        wait_until(replaced(server, workers), "other workers")
        assert (server.total(), took(server)) == (load.total, load.total)
        total = load.total + request(server, 300).total
    with server:
        assert (server.total(), took(server)) == (total, total)
        assert server.document()["simple"]["shmstats"].get("operations_held", 0) == 0


@pytest.mark.thorough
def test_the_total_is_exact_after_reloads_under_load(serve: Callable[..., Gunicorn]) -> None:
    server = serve("sync")
    with server, Load(server, "/timed") as load:
        for _ in range(2):
            load.more(150)
            workers = server.workers()
            server.signal(signal.SIGHUP)
            wait_until(lambda workers=workers: not server.workers() & workers, "the old workers' end")
        load.more(150)
    values = saved(server)
    assert load.total <= values["requests", "total"] <= load.total + load.failed
    assert observations(values["requests", "took"]) == values["requests", "total"]


@pytest.mark.thorough
def test_the_total_is_exact_after_workers_are_recycled(serve: Callable[..., Gunicorn]) -> None:
    server = serve("gthread", "--max-requests", "25")
    with server, Load(server, "/timed") as load:
        load.more(250)
    assert len(load.answered) > 8, "no worker was recycled"
    values = saved(server)
    assert load.total <= values["requests", "total"] <= load.total + load.failed
    assert observations(values["requests", "took"]) == values["requests", "total"]


def test_a_quick_stop_during_flushes_loses_no_answered_request(
    serve: Callable[..., Gunicorn],
) -> None:
    """Gunicorn's workers then end by an exception that a signal handler raises at any point."""
    server = serve("sync", buffer_size=2, flush_interval_ms=1)
    with server, Load(server, "/timed") as load:
        load.more(150)
        server.signal(signal.SIGINT)
        wait_until(lambda: not server.workers(), "the end of the workers")
        load.stop()
    assert load.total <= saved(server)["requests", "total"] <= load.total + load.failed


@pytest.mark.thorough
def test_operations_held_by_a_preloading_master_are_counted_once(tmp_path: Path) -> None:
    site = SITE + '\nfor _ in range(5): stats.incr("boots", "preload"); stats.timing("boots", "took", 1)\n'
    server = Gunicorn(tmp_path, *KINDS["sync"], "--preload", site=site, config=config())
    with server:
        load = request(server, 200)
    values = saved(server)
    assert values["requests", "total"] == load.total
    assert observations(values["requests", "took"]) == load.total
    assert (values["boots", "preload"], observations(values["boots", "took"])) == (5, 5)
