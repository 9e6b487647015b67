"""Under real gunicorn, recycled workers leave only their counts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from helpers import segment_file
from servers import Gunicorn, Load, wait_until

from shmstats.reading.reader import read_only

SITE = """
import os
import prometheus_client as pc
from flask import Flask, request
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from shmstats import stats
from shmstats.integrations import prometheus_client as shared_metrics
from shmstats.web import blueprint

shared_metrics.install()
stats.declare("pool", "alive", kind="gauge", mode="liveall", labelnames=("host",))
stats.declare("pool", "seen", kind="gauge", mode="all")
STARTED = pc.Gauge("started", "Set by each worker.", ["host"], multiprocess_mode="liveall")
HITS = pc.Counter("hits", "Requests.", ["method"])
TOOK = pc.Histogram("took", "Made up.", ["method"])

app = Flask(__name__)
app.register_blueprint(blueprint)
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/metrics": pc.make_wsgi_app()})


@app.get("/hit")
def hit():
    stats.incr("requests", "total", labels={"method": request.method})
    HITS.labels(request.method).inc()
    TOOK.labels(request.method).observe(0.5)
    return str(os.getpid())
"""

CONFIG = """
def post_fork(server, worker):
    from site_under_test import STARTED, stats

    stats.gauge("pool", "alive", 1, labels={"host": "a"})
    stats.gauge("pool", "seen", worker.age)
    STARTED.labels("a").set(worker.age)
"""

WORKERS = 4
OPTIONS = ("--config", "gunicorn.conf.py", "--preload", "--workers", str(WORKERS), "--max-requests", "1")


def page(server: Gunicorn, path: str, each: str) -> str:
    """A page with the live gauge of every worker. Its request ends a worker, so the replacement is awaited first."""

    def whole() -> str:
        wait_until(lambda: gauges(server) == WORKERS, "a gauge of each worker")
        status, body = server.get(path)
        assert status == 200
        return body if len(re.findall(rf"^{each}\{{", body, re.MULTILINE)) == WORKERS else ""

    return str(wait_until(whole, f"{path} with the gauges of all workers"))


def gauges(server: Gunicorn) -> int:
    """The number of workers that have set their last gauge."""
    with read_only(server.data) as reader:
        return sum(name.metric == "started" for name in reader.read().names)


def sizes(server: Gunicorn) -> dict[str, Any]:
    """The number of lines of the pages, and the used part of the block."""
    pages = {path: page(server, path, each).count("\n")
             for path, each in (("/stats/prometheus", "alive"), ("/metrics", "started"))}  # fmt: skip
    with read_only(server.data) as reader:
        usage = reader.usage()
    used = {part: usage[part] for part in ("names", "cells", "heap")}
    return pages | used | {"blocks": segment_file(server.data).stat().st_blocks}


@pytest.mark.storm
def test_a_thousand_recycled_workers_do_not_enlarge_pages_or_block(tmp_path: Path) -> None:
    """Every worker has its gauges and answers one request; the master has the block's fifth row.

    A quick test of the same is tests/test_handles.py::test_recycled_workers_do_not_enlarge_block_or_exposition.
    """
    (tmp_path / "gunicorn.conf.py").write_text(CONFIG)
    config = f"path: {{data: data}}\nstats: {{max_workers: {WORKERS + 1}, capacity: 4096}}\n"
    with Gunicorn(tmp_path, *OPTIONS, site=SITE, config=config) as server:
        with Load(server, threads=2) as load:
            load.more(12)
        before = sizes(server)
        with Load(server, threads=2) as more:
            for _ in range(10):
                more.more(100)
        assert sizes(server) == before
        assert (load.failed, more.failed) == (0, 0)
        assert len(more.answered) == more.total, "a worker answered twice"
        total = load.total + more.total
        assert f'requests_total{{category="requests",method="GET"}} {total}\n' in server.get("/stats/prometheus")[1]
        assert f'\nhits_total{{method="GET"}} {total}.0\n' in server.get("/metrics")[1]
