"""Twenty workers of uWSGI that are replaced all the time under load, with a metric that is attached before the fork."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
from real.hosts import AT_IMPORT, WSGI, Running, remove_block, uwsgi
from real.servers import Load, children, wait_until

SECONDS = 60

SITE = (
    WSGI.replace("{prelude}", AT_IMPORT)
    + """
import prometheus_client
from shmstats.integrations import prometheus_client as shared_metrics
shared_metrics.install()
HITS = prometheus_client.Counter("hits", "Requests.")


@app.after_request
def count(response):
    HITS.inc()
    return response


@app.get("/counted")
def counted():
    return str(int(HITS._value.get()))
"""
)


@pytest.mark.thorough
def test_each_request_is_counted_and_the_master_stays_idle(tmp_path: Path) -> None:
    host = uwsgi(
        "--enable-threads --processes 20 --max-requests 60 --min-worker-lifetime 1",
        site=SITE,
        at_import=True,
        keeps_block=True,
    )
    if not host.is_there:
        pytest.skip(f"{host.needs} is missing")
    with Running(host, tmp_path, max_workers=64) as server:
        _, before = server.get("/counted")
        master = psutil.Process(server.pid)
        began, used = time.monotonic(), sum(master.cpu_times()[:2])
        with Load(server, threads=4) as load:
            time.sleep(SECONDS)
        share = (sum(master.cpu_times()[:2]) - used) / (time.monotonic() - began)
        _, after = server.get("/counted")
        assert load.failed == 0
        assert len(load.answered) > 60, "too few workers were replaced"
        wait_until(lambda: len(children(server.pid)) == 20, "twenty workers")
        server.settle()
        assert server.total() == load.total
        assert int(after) - int(before) == load.total + 1
        assert share < 0.05
    remove_block(host, tmp_path)
