"""A small Flask application in three variants: bare, with our extension, with prometheus_flask_exporter."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask

from .peers.serving import names


def bare() -> Flask:
    """Make it without statistics."""
    site = Flask("bench")

    @site.get("/hello")
    def hello() -> str:
        return "hello\n"

    return site


def counted() -> Flask:
    """Make it with our extension and the endpoints that it mounts; the data directory is in ``$BENCH_DATA``."""
    import shmstats
    from shmstats.integrations.flask import ShmStats

    shmstats.init({"path": {"data": os.environ["BENCH_DATA"]}})
    site = bare()
    ShmStats(site)

    @site.get("/fill/<int:number>")
    def fill(number: int) -> str:
        for category, metric in names(number):
            shmstats.stats.incr(category, metric)
        return f"{number}\n"

    return site


def plain(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Run an application without Flask that sets its route."""
    environ["shmstats.route"] = "/hello"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello\n"]


def exported() -> Flask:
    """Make it with prometheus_flask_exporter in multiprocess mode."""
    from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics

    site = bare()
    metrics: Any = GunicornInternalPrometheusMetrics
    metrics(site)
    return site
