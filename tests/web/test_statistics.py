"""``/stats`` and ``/stats/prometheus``: formats, negotiation, and what happens without a block."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner
from flask import Flask
from flask.testing import FlaskClient
from helpers import BOUND
from real.servers import wait_until

import shmstats
from shmstats import BlockError, stats
from shmstats.export import FORMATS
from shmstats.export.documents import SCHEMA_FILE, structured_json
from shmstats.export.view import PLAIN
from shmstats.terminal.dump import dump
from shmstats.web import blueprint, create_app


@pytest.fixture
def client(serve: Callable[..., FlaskClient]) -> FlaskClient:
    client = serve()
    stats.incr("user_actions", "login", 3)
    stats.gauge("pool", "open", 1.5)
    return client


def test_statistics_are_json_by_category_and_metric(client: FlaskClient) -> None:
    answer = client.get("/stats")
    assert answer.content_type == "application/json"
    simple = answer.get_json()["simple"]
    assert simple["user_actions"] == {"login": 3}
    assert simple["pool"] == {"open": 1.5}


def test_figures_of_the_system_the_block_and_the_disk_are_shown(client: FlaskClient) -> None:
    document = client.get("/stats?format=json").get_json()
    figures = {
        "uptime",
        "memory_usage",
        "cpu",
        "user_in_ms",
        "sys_in_ms",
        "threads",
        "workers",
        "gc",
        "store",
    }
    assert figures <= set(document["simple"]["system"])
    assert document["simple"]["system"]["workers"] == 1
    assert {"all", "used", "free", "available"} <= set(document["disk"])
    assert document["pool"]["cells"]["used"] > 0


@pytest.mark.parametrize("path", ["/stats/prometheus", "/stats?format=prometheus"])
def test_prometheus_text_is_the_default_exposition(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert 'login_total{category="user_actions"} 3\n' in answer.get_data(as_text=True)
    assert answer.headers["Vary"] == "Accept-Encoding, Accept"


@pytest.mark.parametrize("path", ["/stats/prometheus", "/stats?format=prometheus"])
def test_openmetrics_is_sent_to_a_client_that_prefers_it(client: FlaskClient, path: str) -> None:
    answer = client.get(path, headers={"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"})
    assert answer.content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert answer.get_data(as_text=True).endswith("# EOF\n")


def test_an_unknown_format_is_refused_by_name(client: FlaskClient) -> None:
    answer = client.get("/stats?format=xml")
    assert answer.status_code == 400
    assert "'xml'" in answer.get_json()["error"]


def test_a_head_request_has_no_body(client: FlaskClient) -> None:
    for path in ("/stats", "/stats/prometheus"):
        answer = client.head(path)
        assert (answer.status_code, answer.get_data()) == (200, b"")


def test_the_health_of_the_statistics_is_shown_in_json_and_as_series(serve: Callable[..., FlaskClient]) -> None:
    client = serve(stats={"durable_exposition": True})
    health = client.get("/stats").get_json()["health"]
    assert health["save_error"] is None
    assert 0 <= health["saved_seconds_ago"] < BOUND
    page = client.get("/metrics").text
    series = dict(re.findall(r'^(\w+)\{category="shmstats"\} (\S+)$', page, re.MULTILINE))
    assert series["save_error"] == series["push_error"] == series["operations_dropped_total"] == "0"
    assert series["saver"] in ("0", "1")  # no process may save yet
    assert 0 <= float(series["saved_seconds_ago"]) < BOUND
    assert 0 < float(series["pool_used_ratio"]) < 1
    assert {"agents", "agents_missing"} <= set(series)
    assert "pushed_seconds_ago" not in series
    assert f'build_info{{category="shmstats",core="{health["core"]}",version="{health["version"]}"}} 1' in page


def test_an_answer_is_compressed_if_the_client_accepts_it(client: FlaskClient) -> None:
    for i in range(100):
        stats.incr("many", f"metric_{i}")
    for path in ("/stats", "/stats/prometheus", "/metrics", "/stats?format=csv"):
        plain, packed = client.get(path), client.get(path, headers={"Accept-Encoding": "br, gzip;q=0.5"})
        assert packed.headers["Content-Encoding"] == "gzip"
        assert "Accept-Encoding" in packed.headers["Vary"]
        assert int(packed.headers["Content-Length"]) == len(packed.data) < len(plain.data) / 3
        assert gzip.decompress(packed.data).count(b"metric_") == plain.data.count(b"metric_") >= 100
        refused = client.get(path, headers={"Accept-Encoding": "gzip;q=0, identity"})
        assert "Content-Encoding" not in refused.headers
        head = client.head(path, headers={"Accept-Encoding": "gzip"})
        assert (head.headers["Content-Encoding"], head.data) == ("gzip", b"")


def test_every_format_of_the_table_is_answered(client: FlaskClient) -> None:
    for name, form in FORMATS.items():
        answer = client.get(f"/stats?format={name}")
        assert (answer.status_code, answer.content_type) == (200, form.content_type)
        assert b"login" in answer.data
        assert client.get("/metrics", headers={"Accept": form.content_type}).status_code == 200


def test_a_scraper_may_request_some_families(client: FlaskClient) -> None:
    query = "name[]=login_total&name[]=open"
    for path in ("/stats/prometheus", "/metrics", "/stats"):
        answer = client.get(f"{path}?{query}&format=prometheus")
        samples = [line for line in answer.text.splitlines() if not line.startswith("#")]
        assert samples == ['login_total{category="user_actions"} 3', 'open{category="pool"} 1.5']


@pytest.mark.parametrize(
    ("escaping", "sample"),
    [
        ("underscores", 'user_login_total{category="app",metric="user.login"} 1'),
        ("allow-utf-8", '{"user.login_total",category="app"} 1'),
        ("dots", 'user_dot_login__total{category="app"} 1'),
        ("values", 'U__user_2e_login__total{category="app"} 1'),
    ],
)
def test_names_are_escaped_as_the_header_or_query_of_the_request_says(
    client: FlaskClient, escaping: str, sample: str
) -> None:
    stats.incr("app", "user.login")
    accept = f"text/plain;version=1.0.0;escaping={escaping}"
    for answer in (
        client.get("/metrics", headers={"Accept": accept}),
        client.get(f"/metrics?escaping={escaping}"),
    ):
        assert sample in answer.text.splitlines()
        assert answer.content_type.endswith(f"; escaping={escaping}")
    assert client.get("/metrics?escaping=morse").status_code == 400


def test_namespace_and_labels_of_the_configuration_are_on_the_page(serve: Callable[..., FlaskClient]) -> None:
    client = serve(prometheus={"namespace": "shop", "labels": {"region": "eu"}})
    stats.incr("web", "hits")
    samples = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    assert 'shop_hits_total{region="eu",category="web"} 1' in samples
    assert all(line.startswith("shop_") and '{region="eu"' in line for line in samples)


def test_structured_json_of_every_kind_follows_its_schema(client: FlaskClient) -> None:
    stats.declare("db", "query", kind="histogram", help="Of the database.")
    stats.timing("db", "query", 5)
    for value in (0, 1, 1e9):
        stats.timing("db", "rows", value)
    stats.declare("db", "size", kind="histogram", unit="bytes", buckets=(10, 100))
    stats.histogram("db", "size").observe(20)
    stats.histogram("db", "never")
    stats.incr("http", "hits", labels={"method": "GET"})
    stats.absolute("pool", "size", 2)
    stats.decr("pool", "waiting")
    stats.timestamp("jobs", "last")
    stats.info("app", "release", {"version": "1"})
    stats.declare("jobs", "phase", kind="state", states=("idle", "running"))
    stats.state("jobs", "phase", "idle")
    for mode in ("all", "sum", "livemax", "mostrecent"):
        stats.declare("modes", mode, kind="gauge", mode=mode)
        stats.gauge("modes", mode, 0.5)
    document = client.get("/stats?format=v2").get_json()
    jsonschema.validate(document, json.loads(SCHEMA_FILE.read_text()))
    assert document["schema"] == 2
    series = {(each["category"], each["metric"]): each for each in document["series"]}
    kinds = {each["kind"] for each in document["series"]}
    assert kinds == {"counter", "gauge", "histogram", "timestamp", "info", "state"}
    by_worker = structured_json(stats.shared.attach().reader.read(by_worker=True), PLAIN)
    jsonschema.validate(json.loads(by_worker), json.loads(SCHEMA_FILE.read_text()))
    assert any(each.get("workers") for each in json.loads(by_worker)["series"])
    assert series["http", "hits"]["labels"] == {"method": "GET"}
    assert series["db", "query"]["help"] == "Of the database."
    assert series["db", "query"]["unit"] == "ms"
    assert series["db", "query"]["value"]["count"] == 1
    assert sum(bucket["count"] for bucket in series["db", "query"]["value"]["buckets"]) == 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "schema": 3}, json.loads(SCHEMA_FILE.read_text()))


@pytest.mark.slow
def test_a_histogram_has_figures_of_a_window_and_since_the_start(client: FlaskClient, data: Path) -> None:
    stats.timing("db", "query", 5000)

    def shown() -> bool:
        stats.timing("db", "query", 5)
        return "window" in client.get("/stats").get_json()["simple"]["db"]["query"]

    wait_until(shown, "a history")
    result = CliRunner().invoke(dump, ["--data", str(data)])
    documents = client.get("/stats?format=v2").get_json(), json.loads(result.output)
    jsonschema.validate(documents[0], json.loads(SCHEMA_FILE.read_text()))
    [structured] = [each["value"] for each in documents[0]["series"] if each["metric"] == "query"]
    for figures in (structured, documents[1]["db"]["query"]):
        assert figures["max"] == 5000
        assert figures["window"]["p50"] == pytest.approx(5, rel=figures["window"]["error"])
        assert figures["window"]["seconds"] < 60


def test_a_refused_block_is_answered_with_503(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def attach(self: object) -> None:
        raise BlockError("block x belongs to user 7; it must belong to user 8")

    monkeypatch.setattr("shmstats.attachment.slow_path.SharedProvider.attach", attach)
    answer = client.get("/stats")
    monkeypatch.undo()
    assert answer.status_code == 503
    assert "belongs to user 7" in answer.get_json()["error"]


def test_a_real_block_that_others_may_read_is_refused(client: FlaskClient, data: Path) -> None:
    from shmstats.block import identify

    shmstats.close()
    segment = Path(identify(data).segment)
    segment.write_bytes(b"x" * 4096)
    segment.chmod(0o666)
    try:
        for path in ("/stats", "/stats/prometheus"):
            answer = client.get(path)
            assert (answer.status_code, list(answer.get_json())) == (503, ["error"])
    finally:
        segment.unlink()
        Path(f"{segment}.lock").unlink(missing_ok=True)


def test_an_application_uses_an_existing_configuration(client: FlaskClient) -> None:
    other = create_app().test_client()
    assert other.get("/stats").get_json()["simple"]["user_actions"] == {"login": 3}


def test_the_blueprint_can_have_a_prefix(client: FlaskClient) -> None:
    app = Flask(__name__)
    app.register_blueprint(blueprint, url_prefix="/monitoring")
    mounted = app.test_client()
    assert mounted.get("/monitoring/stats").get_json()["simple"]["user_actions"] == {"login": 3}
    assert mounted.get("/monitoring/stats/none").get_json() == {"error": "there is nothing at '/monitoring/stats/none'"}
    assert mounted.get("/stats").status_code == 404
