"""A real Prometheus scrapes a gunicorn with 4 workers: it refuses no sample, and its sums are exact."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus import TEXT_ONLY, Prometheus, TextOnlyProxy
from servers import SITE, Gunicorn, Load, wait_until

#: The counter exists, at 0, before the first request; the answers to scrapes are counted by their format.
SITE = (
    SITE
    + """
stats.incr("requests", "total", 0)
stats.declare("site", "size", kind="histogram", unit="bytes", buckets=(10, 100), labelnames=("kind",))
size = stats.histogram("site", "size", labels={"kind": 'quo"ted \\\\ \\n line'})


@app.get("/many")
def many():
    stats.incr("requests", "total")
    stats.incr("site", "pages", labels={"path": "/many", "method": "GET"})
    stats.decr("site", "left")
    stats.gauge("site", "temperature", -0.5)
    stats.timing("site", "render", 3)
    stats.timestamp("site", "last")
    size.observe(50)
    return str(os.getpid())


@app.after_request
def count_formats(response):
    if response.content_type.startswith(("application/openmetrics", "text/plain")):
        stats.incr("answered", response.content_type.partition(";")[0])
    return response
"""
)

FOUR = ("--worker-class", "gthread", "--workers", "4", "--threads", "2")
HOOKS = ("--config", "python:shmstats.integrations.gunicorn")

COUNTER = 'requests_total{category="requests"}'
SPAN = "[10m]"
JOBS = ("openmetrics", "text")


def has_scraped(prometheus: Prometheus, total: int) -> bool:
    """Whether the last scrape of each job showed this total."""
    return prometheus.query(COUNTER) == dict.fromkeys(JOBS, total)


@pytest.mark.thorough
def test_sums_of_prometheus_are_exact_over_reloads_kills_and_a_restart(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, *HOOKS, *FOUR, site=SITE) as server, TextOnlyProxy(server.port) as proxy:
        jobs = {"openmetrics": server.port, "text": proxy.port}
        with Prometheus(tmp_path, jobs) as prometheus:
            wait_until(lambda: has_scraped(prometheus, 0), "the first scrapes")
            sent = failed = 0
            with Load(server, "/many") as load:
                load.more(300)
                before = server.workers()
                server.signal(signal.SIGHUP)
                wait_until(lambda: not server.workers() & before, "the old workers' end")
                load.more(100)
                for _ in range(3):
                    os.kill(min(server.workers()), signal.SIGKILL)
                    load.more(100)
            sent, failed = load.total, load.failed
            wait_until(lambda: workers_are_shown(prometheus), "4 live workers, and the ends of 7")
            wait_until(lambda: len(server.workers()) == 4, "4 workers")
            counted = server.total()
            assert sent <= counted <= sent + failed
            wait_until(lambda: has_scraped(prometheus, counted), "a scrape of everything before the restart")

            server.stop()
            wait_until(lambda: set(prometheus.query("up").values()) == {0}, "failed scrapes")
            server.start()
            with Load(server, "/many") as load:
                load.more(300)
            sent, failed = sent + load.total, failed + load.failed
            assert server.total() == counted + load.total
            counted = server.total()
            wait_until(lambda: has_scraped(prometheus, counted), "a scrape of everything")

            assert sent <= counted <= sent + failed
            assert_sums_are_exact(prometheus, counted)
            for sample in ('pages_total{method="GET",path="/many"}', "size_bytes_count", "render_seconds_count"):
                values = prometheus.query(f"sum by (job) ({sample})")
                assert values.keys() == set(JOBS)
                assert sent <= min(values.values()) == max(values.values()) <= sent + failed
            assert_nothing_is_refused(prometheus, lambda: lines(server))
            types = prometheus.types()
            formats = server.document()["simple"]["answered"]
    assert not any("openmetrics" not in accepted for accepted in proxy.accepted), (
        "Prometheus no longer requests OpenMetrics"
    )
    assert formats["application/openmetrics-text"] >= 3
    assert formats["text/plain"] >= 3
    assert types["size_bytes"] == types["render_seconds"] == "histogram"
    assert types["left"] == types["temperature"] == "gauge"


def assert_sums_are_exact(prometheus: Prometheus, number: int) -> None:
    """Check that the counter rose from 0 to this number and never fell."""
    assert prometheus.query(f"resets({COUNTER}{SPAN})") == dict.fromkeys(JOBS, 0)
    difference = f"max_over_time({COUNTER}{SPAN}) - min_over_time({COUNTER}{SPAN})"
    assert prometheus.query(f"sum by (job) ({difference})") == dict.fromkeys(JOBS, number)
    # increase() extrapolates by up to half of the mean interval at each end.
    seen = prometheus.query(f"count_over_time({COUNTER}{SPAN})")
    increased = prometheus.query(f"sum by (job) (increase({COUNTER}{SPAN}))")
    for job in JOBS:
        assert number <= increased[job] <= number * (1 + 1 / (seen[job] - 1)) * (1 + 1e-9), (increased, seen)


def workers_are_shown(prometheus: Prometheus) -> bool:
    """Whether each job has the metrics of the hooks: 4 workers, each with its memory, and 7 that ended."""
    expected = {"sum": 4, "memory": 4, "exit": 4, "signal": 3}
    queries = {
        "sum": "sum by (job) (gunicorn_workers)",
        "memory": "count by (job) (gunicorn_worker_memory_bytes)",
        "exit": 'sum by (job) (gunicorn_worker_exits_total{reason="exit"})',
        "signal": 'sum by (job) (gunicorn_worker_exits_total{reason="signal"})',
    }
    return all(prometheus.query(queries[each]) == dict.fromkeys(JOBS, expected[each]) for each in expected)


def lines(server: Gunicorn) -> dict[str, int]:
    """The number of samples of each job."""
    accepted = {"openmetrics": "application/openmetrics-text; version=1.0.0", "text": TEXT_ONLY}
    bodies = {job: server.get("/stats/prometheus", {"Accept": accepted[job]})[1] for job in JOBS}
    assert bodies["openmetrics"].endswith("# EOF\n")
    assert "# EOF" not in bodies["text"]
    return {job: sum(not line.startswith("#") for line in body.splitlines()) for job, body in bodies.items()}


def assert_nothing_is_refused(prometheus: Prometheus, shown: Callable[[], dict[str, int]]) -> None:
    # A scrape may wait for its save for longer than Prometheus waits here, and a page has a line more for each new
    # worker: so the checks may have to be repeated. A page that is refused never passes them.
    wait_until(lambda: prometheus.targets() == dict.fromkeys(JOBS, ""), "scrapes without an error")
    samples = "scrape_samples_scraped", "scrape_samples_post_metric_relabeling"
    wait_until(lambda: [prometheus.query(each) for each in samples] == [shown()] * 2, "a scrape of the current page")
    wait_until(lambda: prometheus.query("up") == dict.fromkeys(JOBS, 1.0), "successful scrapes")
    own = prometheus.own()
    refusals = {
        name: value
        for name, value in own.items()
        if name.startswith(("prometheus_target_scrapes_", "prometheus_target_scrape_pool"))
        and any(word in name for word in ("sample_", "exemplar_", "exceeded"))
    }
    assert len(refusals) >= 5, sorted(own)
    assert set(refusals.values()) == {0.0}, refusals
    assert prometheus.complaints() == []
