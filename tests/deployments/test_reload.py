"""A release with other definitions is reloaded into a real gunicorn while an old worker serves a slow request."""

from __future__ import annotations

import re
import signal
import threading
from pathlib import Path

import pytest
from servers import Gunicorn, wait_until

pytestmark = pytest.mark.far_from_core

SITE = """
import os, pathlib, time
from flask import Flask
from prometheus_client import Counter, Enum, Gauge, Histogram, generate_latest
from shmstats import stats
from shmstats.integrations import prometheus_client as shared_metrics
from shmstats.web import blueprint

shared_metrics.install()
app = Flask(__name__)
app.register_blueprint(blueprint)
exec(pathlib.Path("metrics.txt").read_text())


@app.get("/metrics")
def metrics():
    return generate_latest().decode()


@app.get("/work")
def work():
    use()
    return str(os.getpid())


@app.get("/slow")
def slow():
    use()
    pathlib.Path("slow").touch()
    end = time.monotonic() + 25
    while not pathlib.Path("go").exists() and time.monotonic() < end:
        time.sleep(0.02)
    use()
    return generate_latest().decode()
"""

OLD = """
queue, state = Counter("queue", "Old.", ["a"]), Enum("state", "S.", states=["starting", "running"])
stats.declare("c", "m", kind="counter")
def use():
    queue.labels("x").inc()
    state.state("running")
    stats.incr("c", "m")
"""

NEW = """
queue = Histogram("queue", "New.", ["a", "b"], buckets=(1, 2))
state = Enum("state", "S.", states=["paused", "starting", "running"])
stats.declare("c", "m", kind="gauge", mode="livesum")
def use():
    queue.labels("x", "y").observe(1.5)
    state.state("paused")
    stats.gauge("c", "m", 5)
"""


HOOKS = ("--config", "python:shmstats.integrations.gunicorn")
THREADS = ("--worker-class", "gthread", "--threads", "2")


@pytest.mark.parametrize("options", [HOOKS, pytest.param(THREADS, marks=pytest.mark.thorough)])
def test_a_reload_with_other_definitions_fails_no_boot_request_or_page(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "metrics.txt").write_text(OLD)
    with Gunicorn(tmp_path, "--workers", "2", *options, site=SITE) as server:
        assert server.get("/work")[0] == 200
        answered: list[tuple[int, str]] = []
        slow = threading.Thread(target=lambda: answered.append(server.get("/slow")))
        slow.start()
        wait_until((tmp_path / "slow").exists, "the slow request")
        before = server.workers()
        (tmp_path / "metrics.txt").write_text(NEW)
        server.signal(signal.SIGHUP)
        wait_until(lambda: len(server.workers() - before) == 2, "the new workers")
        wait_until(lambda: server.get("/work")[1] not in map(str, before), "an answer of a new worker")
        pages = [server.get("/metrics")[1] for _ in range(4)]
        (tmp_path / "go").touch()
        slow.join(30)
        assert [status for status, _ in answered] == [200]
        for page in [*pages, answered[0][1]]:
            assert re.findall("# TYPE queue (.*)", page) == ["histogram"], page
            assert 'queue_bucket{a="x",b="y",le="2.0"}' in page
            assert "queue_total" not in page
        for page in pages:
            assert re.findall("# TYPE state (.*)", page) == ["gauge"]
            assert 'state{state="paused"} 1.0' in page
        assert server.document()["simple"]["c"] == {"m": 5}
        log = server.log.read_text()
        assert "Traceback" not in log, log
        assert (
            log.count("metric 'm' of category 'c' is declared as gauge, mode livesum now; before it was counter") == 1
        )
        wait_until(lambda: not server.workers() & before, "the end of the old workers")
        assert server.get("/work")[0] == 200
