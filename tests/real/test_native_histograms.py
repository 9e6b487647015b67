"""A real Prometheus takes exponential histograms as native ones, and its quantiles are those of what was observed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from prometheus import Prometheus
from servers import SITE, Gunicorn, wait_until

SITE = (
    SITE
    + """
import random

@app.get("/observe/<int:seed>")
def observe(seed):
    chance = random.Random(seed)
    for _ in range(2000):
        stats.timing("db", "query", chance.lognormvariate(3, 1.5))
    return ""
"""
)

SEEDS = range(6)


@pytest.mark.thorough
def test_quantiles_of_a_real_prometheus_are_within_the_error(tmp_path: Path) -> None:
    options = ("--enable-feature=native-histograms",)
    with Gunicorn(tmp_path, "--workers", "2", site=SITE) as server:
        for seed in SEEDS:
            server.get(f"/observe/{seed}", {})
        with Prometheus(tmp_path, {"shop": server.port}, options=options) as prometheus:
            count = "histogram_count(query_seconds)"
            wait_until(lambda: prometheus.query(count) == {"shop": 2000 * len(SEEDS)}, "a scrape of everything")
            values = sorted(random_values())
            for share in (0.1, 0.5, 0.9, 0.99):
                found = prometheus.query(f"histogram_quantile({share}, query_seconds)")["shop"]
                assert found == pytest.approx(values[int(share * len(values))] / 1000, rel=0.05), share
            total = prometheus.query("histogram_sum(query_seconds)")["shop"]
            assert total == pytest.approx(sum(values) / 1000)
            assert prometheus.samples("query_seconds_bucket") == []  # no classic buckets beside the native ones
            assert prometheus.complaints() == []


def random_values() -> list[float]:
    """What all requests observe."""
    return [chance.lognormvariate(3, 1.5) for chance in map(random.Random, SEEDS) for _ in range(2000)]
