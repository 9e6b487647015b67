"""Real Prometheuses, of today's Debian and of the next one, take native histograms, exemplars and created times."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from debian import newer
from prometheus import Prometheus
from servers import SITE, Gunicorn, wait_until

SITE = (
    SITE
    + """
import random

stats.declare("db", "fine", kind="histogram", buckets="exponential", error=0.01, range=(0.01, 1e5))
stats.declare("job", "phase", kind="state", states=("idle", "running"))
stats.info("app", "release", {"version": "1.4"})

@app.get("/observe/<int:seed>")
def observe(seed):
    chance = random.Random(seed)
    for _ in range(2000):
        value = chance.lognormvariate(3, 1.5)
        stats.timing("db", "query", value)
        stats.timing("db", "fine", value)
    stats.timing("db", "query", 1.5, exemplar={"trace_id": f"q{seed}"})
    stats.incr("db", "rows.read", 5, exemplar={"trace_id": f"r{seed}"})
    stats.state("job", "phase", "running")
    return ""
"""
)

SEEDS = range(6)
FEATURES = ("native-histograms", "exemplar-storage")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("package", "further"), [("installed", ()), ("newer", ("created-timestamp-zero-ingestion",))], ids=["2.42", "3.5"]
)
def test_quantiles_of_a_real_prometheus_are_within_the_error(
    tmp_path: Path, package: str, further: tuple[str, ...]
) -> None:
    command = None
    if package == "newer":
        (tmp_path / "apt").mkdir()
        command = newer("prometheus", tmp_path / "apt")
        assert command is not None, "NOT TESTED: Prometheus of Debian's sid is not available here"
    options = (f"--enable-feature={','.join((*FEATURES, *further))}",)
    with Gunicorn(tmp_path, "--workers", "2", site=SITE) as server:
        for seed in SEEDS:
            server.get(f"/observe/{seed}", {})
        began = time.time()
        with Prometheus(tmp_path, {"shop": server.port}, options=options, command=command) as prometheus:
            count = "histogram_count(query_seconds)"
            wait_until(lambda: prometheus.query(count) == {"shop": 2001 * len(SEEDS)}, "a scrape of everything")
            values = sorted(random_values())
            for metric, error in (("query_seconds", 0.05), ("fine_seconds", 0.01)):
                for share in (0.1, 0.5, 0.9, 0.99):
                    found = prometheus.query(f"histogram_quantile({share}, {metric})")["shop"]
                    assert found == pytest.approx(values[int(share * len(values))] / 1000, rel=error), (metric, share)
                assert prometheus.samples(f"{metric}_bucket") == []  # no classic buckets beside the native ones
            total = prometheus.query("histogram_sum(fine_seconds)")["shop"]
            assert total == pytest.approx(sum(values) / 1000)
            assert prometheus.query("rows_read_total") == {"shop": 5 * len(SEEDS)}
            assert [each["metric"]["version"] for each in prometheus.samples("release_info")] == ["1.4"]
            assert prometheus.query('phase{phase="running"}') == {"shop": 1}
            exemplars = prometheus.exemplars('{__name__=~"query_seconds|rows_read_total"}', began - 60)
            assert exemplars["query_seconds"]["trace_id"].startswith("q")
            assert exemplars["rows_read_total"] == {"trace_id": f"r{SEEDS[-1]}"}
            if (
                further
            ):  # the first sample is a 0 at the creation time of the series, so increase() includes the first count
                increase = "increase(rows_read_total[5m])"
                assert wait_until(lambda: prometheus.query(increase), "two samples")["shop"] >= 5 * len(SEEDS)
            assert prometheus.complaints() == []


def random_values() -> list[float]:
    """The observed values of all requests, without those that have exemplars."""
    return [chance.lognormvariate(3, 1.5) for chance in map(random.Random, SEEDS) for _ in range(2000)]
