"""The live page is not counted: an hour of its requests under gunicorn changes no counter."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import Any

import pytest
from servers import BOUND, KINDS, Gunicorn, wait_until

from shmstats.reading.reader import read_only
from shmstats.series import Kind

SITE = """
from flask import Flask
from shmstats.integrations.flask import ShmStats

app = Flask(__name__)
ShmStats(app)


@app.get("/page")
def page():
    return "a page"
"""

#: The requests of the page when it is opened, at each poll, and at every tenth; see web/live/static/script.js.
FILES = ("", "/figures.js", "/charts.js", "/script.js", "/style.css", "/uPlot.js", "/uPlot.css")
POLL = ("/stats/live/data?q=", "/debug/requests")
PAST = "/stats/history?since=-900&step=2&series=shmstats.response*&series=system.*&series=gunicorn.gunicorn_backlog"

#: Polls in an hour, one every two seconds.
POLLS = 1800


def counted(server: Gunicorn) -> dict[Any, Any]:
    """Return all counters and histograms, read from the block: a request to /stats would be counted itself."""
    with read_only(server.data) as reader:
        read = reader.read()
        named = zip(read.names, read.values, strict=True)
        return {name: value for name, value in named if name.kind in (Kind.COUNTER, Kind.HISTOGRAM)}


def total(found: dict[Any, Any], metric: str) -> int:
    return sum(value for name, value in found.items() if name.metric == metric)


def settled(server: Gunicorn, pages: int) -> dict[Any, Any] | None:
    """The same once each request is counted: a worker counts after the answer, in its last hook."""
    now = counted(server)
    return now if total(now, "http_requests") == total(now, "gunicorn_requests") == pages + 1 else None


@pytest.mark.thorough
def test_an_hour_of_polls_changes_no_counter(tmp_path: Path) -> None:
    options = (*KINDS["gthread"], "-c", "python:shmstats.integrations.gunicorn")
    with Gunicorn(tmp_path, *options, site=SITE) as server:
        for _ in range(5):
            assert server.get("/page")[0] == 200
        before = wait_until(lambda: settled(server, 5), "the counts of all requests")
        wait_until(lambda: server.get(PAST)[0] == 200, "a history")
        page, tags = http.client.HTTPConnection("127.0.0.1", server.port, timeout=BOUND), {}

        def ask(path: str) -> None:
            page.request("GET", path, headers={"Accept-Encoding": "gzip", **tags.get(path, {})})
            answer = page.getresponse()
            answer.read()
            assert answer.status in (200, 304), path
            if tag := answer.headers["ETag"]:
                tags[path] = {"If-None-Match": tag}

        for file in FILES:
            ask(f"/stats/live{file}")
        for number in range(POLLS):
            for path in (*POLL, PAST) if number % 10 == 0 else POLL:
                ask(path)
        page.close()
        assert server.get("/page")[0] == 200
        after = wait_until(lambda: settled(server, 6), "the counts of the last request")
        pages = {name for name in after if before.get(name) != after[name]}
        assert {dict(name.labels).get("route", "/page") for name in pages} == {"/page"}
        assert total(after, "http_requests") == total(before, "http_requests") + 1
        assert total(after, "gunicorn_requests") == total(before, "gunicorn_requests") + 1
