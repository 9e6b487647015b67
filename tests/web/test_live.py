"""``/stats/live``, ``/stats/history`` and ``/debug/requests``: answers, protection, and that they are not counted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from time import time

import pytest
from flask import Flask
from flask.testing import FlaskClient

import shmstats
from shmstats import stats
from shmstats.dashboard.totals import Dashboard
from shmstats.history.recorder import HistoryRecorder
from shmstats.integrations.flask import ShmStats
from shmstats.series import Distribution, Snapshot
from shmstats.web import blueprint, create_app

TOKEN = "correct-horse"
HOSTILE = '<img src=x onerror="alert(1)">'


def test_the_page_and_all_its_files_are_served(serve: Callable[..., FlaskClient]) -> None:
    client = serve()
    page = client.get("/stats/live")
    assert page.content_type == "text/html; charset=utf-8"
    files = re.findall(r'(?:src|href)="(live/[^"]+)"', page.text)
    assert len(files) == 6
    for file in files:
        answer = client.get(f"/stats/{file}")
        assert answer.status_code == 200
        again = client.get(f"/stats/{file}", headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")
    assert client.get("/stats/live/uPlot.LICENSE").status_code == 404


def test_the_page_has_no_inline_code_and_a_policy_against_it(serve: Callable[..., FlaskClient]) -> None:
    page = serve().get("/stats/live")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=|https?://", page.text)


def test_script_and_style_are_at_most_60_kb_compressed() -> None:
    import gzip

    static = Path(shmstats.__file__).parent / "web" / "live" / "static"
    content = b"".join(file.read_bytes() for file in static.iterdir() if file.suffix in (".js", ".css"))
    assert len(gzip.compress(content)) <= 60_000


@pytest.mark.parametrize("path", ["/stats/live", "/stats/live/script.js"])
def test_static_files_are_public_and_data_is_protected(serve: Callable[..., FlaskClient], path: str) -> None:
    client = serve(api={"token": TOKEN, "protect": "all"})
    assert client.get(path).status_code == 200
    for protected in ("/stats/live/data", "/stats/history", "/debug/requests"):
        assert client.get(protected).status_code == 401
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert client.get("/stats/live/data", headers=headers).status_code == 200


def test_the_root_redirects_to_the_page(serve: Callable[..., FlaskClient]) -> None:
    answer = serve().get("/")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/stats/live")


def test_totals_equal_the_statistics(serve: Callable[..., FlaskClient]) -> None:
    client = serve()
    stats.incr("user_actions", "login", 3)
    stats.gauge("pool", "open", 1.5)
    stats.timing("db", HOSTILE, 12.0)
    data = client.get("/stats/live/data").get_json()
    rows = {(category, series): (kind, value) for category, series, kind, _, value in data["metrics"]["rows"]}
    assert rows["user_actions", "login"] == ("counter", 3)
    assert rows["pool", "open"] == ("gauge", 1.5)
    assert rows["db", HOSTILE] == ("histogram", [1, 12.0])
    assert data["metrics"]["rows"][0][0] == "db"  # an application's own come first
    assert data["requests"] is None
    (worker,) = data["workers"]
    assert (worker["state"], worker["serving"]) == ("idle", 0)


def test_a_search_ignores_case_and_shows_the_number_of_matches(serve: Callable[..., FlaskClient]) -> None:
    client = serve({"capacity": 4096, "max_series_per_metric": 2000})
    for number in range(150):
        stats.incr("Shop", "orders", labels={"customer": str(number)})
    found = client.get("/stats/live/data?q=shop.ORDERS").get_json()["metrics"]
    assert (found["found"], len(found["rows"])) == (150, 100)
    assert client.get('/stats/live/data?q=customer="149"').get_json()["metrics"]["found"] == 1
    assert client.get("/stats/live/data?q=" + "x" * 201).status_code == 400


def test_an_unchanged_answer_is_not_sent_again(serve: Callable[..., FlaskClient]) -> None:
    client = serve()
    statuses = set()
    for _ in range(10):
        first = client.get("/stats/live/data")
        again = client.get("/stats/live/data", headers={"If-None-Match": first.headers["ETag"]})
        statuses.add(again.status_code)
        if again.status_code == 304:
            assert again.data == b""
    assert 304 in statuses  # the processor time of this process may change in between
    stats.incr("a", "b")
    assert client.get("/stats/live/data", headers={"If-None-Match": first.headers["ETag"]}).status_code == 200


@pytest.fixture
def site(data: Path) -> Iterator[FlaskClient]:
    """A site that records its requests, with the endpoints below a prefix."""
    shmstats.init({"path": {"data": str(data)}, "stats": {"capacity": 4096, "max_workers": 2}})
    app = Flask("site")
    ShmStats(app, url_prefix="/ops")

    @app.get("/pages/<name>")
    def page(name: str) -> str:
        return name

    @app.get("/serving")
    def serving() -> str:
        return json.dumps(app.test_client().get("/ops/debug/requests").get_json()["requests"])

    yield app.test_client()
    shmstats.close()


def test_routes_and_responses_are_the_counts_of_the_integration(site: FlaskClient) -> None:
    for path in ("/pages/a", "/pages/b", "/nowhere"):
        assert site.get(path).data
    data = site.get("/ops/stats/live/data").get_json()
    assert data["requests"]["responses"] == {"2xx": 2, "4xx": 1}
    assert sum(map(int, data["requests"]["time"]["buckets"].split())) == 3
    routes = {(route["method"], route["route"]): route["count"] for route in data["routes"]}
    assert routes == {("GET", "/pages/<name>"): 2, ("GET", "<unmatched>"): 1}
    assert data["bounds"][data["requests"]["time"]["bounds"]][0] == 1000 * 2.0**-14


def test_totals_of_a_block_and_of_an_equal_snapshot_are_the_same(site: FlaskClient) -> None:
    for path in ("/pages/a", "/pages/b", "/nowhere"):
        assert site.get(path).data
    stats.counter(
        "requests", "http_requests", labels={"method": "GET", "route": "/pages/<name>", "status": "503"}
    ).incr()
    reader = stats.shared.attach().reader
    read = reader.read()
    plain = Snapshot([*read.names], [*read.values])
    ours, others = ({**Dashboard().document(reader, each, served=()), "started": 0} for each in (read, plain))
    assert ours == others
    (route,) = (route for route in ours["routes"] if route["route"] == "/pages/<name>")
    assert (route["count"], route["errors"]) == (3, 1)
    named = zip(read.names, read.values, strict=True)
    (value,) = (
        value
        for name, value in named
        if name.metric == "http_request_duration" and dict(name.labels)["route"] == route["route"]
    )
    assert isinstance(value, Distribution)
    time = route["time"]
    assert (time["sum"], time["min"], time["max"]) == (round(value.sum, 3), value.min, value.max)
    shown = [0] * time["first"] + list(map(int, time["buckets"].split()))
    assert tuple(shown + [0] * (len(value.buckets) - len(shown))) == value.buckets


def test_a_request_is_shown_while_a_worker_serves_it(site: FlaskClient) -> None:
    (request,) = json.loads(site.get("/serving?secret=1").text)
    assert request["request"] == "GET /serving"
    assert 0 <= request["seconds"] < 60
    assert site.get("/ops/debug/requests").get_json() == {"requests": [], "further": {}}
    assert site.get("/ops/debug/requests?older_than=x").status_code == 400


@pytest.mark.slow
def test_requests_of_the_live_page_are_not_counted(site: FlaskClient) -> None:
    assert site.get("/pages/a").data

    def counted() -> object:
        read = stats.shared.attach().reader.read()
        named = zip(read.names, read.values, strict=True)
        return [(name, value) for name, value in named if name.category in ("http", "requests")]

    before = counted()
    for _ in range(50):
        for path in ("live", "live/script.js", "live/data", "history"):
            assert site.get(f"/ops/stats/{path}").data
        assert site.get("/ops/debug/requests").data
    assert counted() == before


def test_history_is_answered_as_json_and_as_csv(serve: Callable[..., FlaskClient], data: Path) -> None:
    client = serve()
    stats.incr("user_actions", "login")
    block = stats.shared.attach()
    recorder = HistoryRecorder(data)
    now = int(time())
    for second in range(4):
        stats.incr("user_actions", "login", 10)
        recorder.record(block.reader, block.reader.read(), (now - 3 + second) * 10**9)
    recorder.close()
    document = client.get("/stats/history?since=-10&step=1&series=user_actions.*").get_json()
    assert list(document["series"]) == ["user_actions.login"]
    assert [rate for rate in document["series"]["user_actions.login"]["rate"] if rate is not None] == [10, 10, 10]
    table = client.get("/stats/history?since=-10&step=1&series=user_actions.*&format=csv")
    assert table.text.splitlines()[0] == "time,user_actions.login"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("since=x", "since must be a number, not 'x'"),
        ("step=0", "step must be an integer from 1 to 86400"),
        ("step=nan", "step must be a number, not 'nan'"),
        ("step=1e999", "step must be a number"),
        ("since=-5&until=-10", "must be before until"),
        ("format=xml", "format must be json or csv"),
    ],
)
def test_a_wrong_query_is_refused_with_what_is_allowed(
    serve: Callable[..., FlaskClient], query: str, message: str
) -> None:
    answer = serve().get(f"/stats/history?{query}")
    assert answer.status_code == 400
    assert message in answer.get_json()["error"]


def test_a_missing_history_is_an_error_with_the_reason(serve: Callable[..., FlaskClient]) -> None:
    answer = serve({"persist": False}).get("/stats/history")
    assert answer.status_code == 404
    assert "stats.persist" in answer.get_json()["error"]


def test_disabled_statistics_have_no_live_page(data: Path) -> None:
    app = create_app({"path": {"data": str(data)}, "stats": {"enabled": False}})
    client = app.test_client()
    assert blueprint.name in app.blueprints
    for path in ("live", "live/data"):
        assert client.get(f"/stats/{path}").status_code == 404
