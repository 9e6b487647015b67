"""Repeated power losses under a real Prometheus: no scraped total goes back."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from prometheus import Prometheus
from servers import Gunicorn, Load, wait_until
from tortures.storm import remove_block

pytestmark = pytest.mark.thorough

THREADS = ("--worker-class", "gthread", "--workers", "2", "--threads", "2")
HOOKS = ("--config", "python:shmstats.integrations.gunicorn")
TOTAL = 'requests_total{job="site"}'


@pytest.mark.parametrize("options", [THREADS, (*HOOKS, "--workers", "2")], ids=["threads", "hooks"])
def test_three_power_losses_reset_no_total_and_lose_no_scraped_count(tmp_path: Path, options: tuple[str, ...]) -> None:
    server = Gunicorn(tmp_path, *options, config="path: {data: data}\nstats: {snapshot_interval_ms: 3600000}\n")
    server.start()
    try:
        with Prometheus(tmp_path, {"site": server.port}, "2s") as prometheus:
            scraped = 0.0
            for _ in range(3):
                with Load(server) as load:
                    load.more(100)
                    before = scraped
                    wait_until(lambda before=before: prometheus.query(TOTAL).get("site", 0) > before, "a scrape")
                    load.more(100)
                    server.kill_group()
                scraped = prometheus.query(TOTAL)["site"]
                remove_block(server.data)
                server.start()
                restored = server.total()
                assert restored >= scraped
            wait_until(lambda: prometheus.query(TOTAL) == {"site": restored}, "the last total")
            assert prometheus.query(f"sum(resets({TOTAL}[1h]))") == {"": 0}
            (series,) = prometheus.samples(f"{TOTAL}[1h]")
            values = [float(value) for _, value in series["values"]]
            # increase() is the sum of all counts that were not lost, from the first scrape to the last one.
            grown = sum(max(after - before, 0) for before, after in itertools.pairwise(values))
            assert grown == restored - values[0]
            assert prometheus.complaints() == []
    finally:
        server.kill_group()
        remove_block(server.data)
