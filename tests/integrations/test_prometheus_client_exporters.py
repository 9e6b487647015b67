"""Libraries that use prometheus_client run unchanged on the block, under real gunicorn with several workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from real.servers import Gunicorn, Load, wait_until

WORKERS = ("--workers", "3", "--threads", "2")

FLASK = """
import os
from flask import Flask, request
from prometheus_flask_exporter import PrometheusMetrics
from shmstats.integrations import prometheus_client as shared_metrics

shared_metrics.install()

app = Flask(__name__)
metrics = PrometheusMetrics(app, group_by="url_rule")
metrics.info("app_info", "The application.", version="1.0.3")


@app.get("/hit")
@metrics.counter("hits", "Hits.", labels={"path": lambda: request.path, "status": lambda r: r.status_code})
@metrics.gauge("in_progress", "Running.")
def hit():
    return str(os.getpid())
"""

#: The same for prometheus_client's multiprocess mode, with the block installed after the metrics are made.
FLASK_MULTIPROCESS = """
import os
from flask import Flask, request
from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics
from shmstats.integrations import prometheus_client as shared_metrics

app = Flask(__name__)
metrics = GunicornInternalPrometheusMetrics(app, group_by="url_rule")
metrics.info("app_info", "The application.", version="1.0.3")


@app.get("/hit")
@metrics.counter("hits", "Hits.", labels={"path": lambda: request.path, "status": lambda r: r.status_code})
def hit():
    return str(os.getpid())


shared_metrics.install()
"""

DJANGO = """
import os
from django.conf import settings
from django.http import HttpResponse
from django.urls import include, path
from shmstats.integrations import prometheus_client as shared_metrics

shared_metrics.install()

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of a test",
    PROMETHEUS_EXPORT_MIGRATIONS=False,
    INSTALLED_APPS=["django_prometheus"],
    CACHES={"default": {"BACKEND": "django_prometheus.cache.backends.locmem.LocMemCache"}},
    MIDDLEWARE=[
        "django_prometheus.middleware.PrometheusBeforeMiddleware",
        "django_prometheus.middleware.PrometheusAfterMiddleware",
    ],
)


def hit(request):
    from django.core.cache import cache
    cache.get("nothing")
    return HttpResponse(str(os.getpid()))


urlpatterns = [path("hit", hit, name="hit"), path("", include("django_prometheus.urls"))]

from django.core.wsgi import get_wsgi_application

app = get_wsgi_application()
"""

STARLETTE = """
import os
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette_exporter import PrometheusMiddleware, handle_metrics, handle_openmetrics
from shmstats.integrations import prometheus_client as shared_metrics

shared_metrics.install()


async def hit(request):
    return PlainTextResponse(str(os.getpid()))


app = Starlette(routes=[
    Route("/hit", hit), Route("/metrics", handle_metrics), Route("/openmetrics", handle_openmetrics)
])
app.add_middleware(
    PrometheusMiddleware, app_name="site", skip_paths=["/metrics", "/openmetrics"],
    exemplars=lambda: {"trace_id": f"of {os.getpid()}"},
)
"""


def shown(page: str) -> dict[str, float]:
    """The samples of a page in the text format, without duplicates."""
    samples: dict[str, float] = {}
    for family in parse(page):
        for sample in family.samples:
            key = sample.name + "".join(f",{name}={value}" for name, value in sorted(sample.labels.items()))
            assert key not in samples, key
            samples[key] = sample.value
    return samples


def get(server: Gunicorn, path: str = "/metrics", accept: str = "*/*") -> str:
    status, body = server.get(path, {"Accept": accept})
    assert status == 200, body
    return body


def assert_every_worker_shows(server: Gunicorn, expected: dict[str, float]) -> None:
    """Send enough requests that all workers have answered."""
    for _ in range(12):
        found = shown(get(server))
        assert {key: found.get(key) for key in expected} == expected


def load(server: Gunicorn) -> int:
    """Send requests until every worker has answered some; return the number of answers."""
    with Load(server) as load:
        load.more(200)
        wait_until(lambda: len(load.answered) == 3, "answers of all workers")
    assert load.failed == 0
    return load.total


def kill_a_worker(server: Gunicorn) -> None:
    before = server.workers()
    os.kill(min(before), signal.SIGKILL)
    wait_until(lambda: len(server.workers()) == 3 and server.workers() != before, "another worker")


Expected = Callable[[int], dict[str, float]]


def flask_figures(requests: int) -> dict[str, float]:
    return {
        "flask_http_request_total,method=GET,status=200": requests,
        "flask_http_request_duration_seconds_count,method=GET,status=200,url_rule=/hit": requests,
        "flask_http_request_duration_seconds_bucket,le=+Inf,method=GET,status=200,url_rule=/hit": requests,
        "hits_total,path=/hit,status=200": requests,
        "app_info,version=1.0.3": 1,
    }


@pytest.mark.thorough
def test_prometheus_flask_exporter_runs_on_the_block(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, *WORKERS, site=FLASK) as server:
        requests = load(server)
        assert_every_worker_shows(server, flask_figures(requests))
        kill_a_worker(server)
        assert_every_worker_shows(server, flask_figures(requests))
        requests += load(server)
        assert_every_worker_shows(server, flask_figures(requests))
        restricted = get(server, "/metrics?name[]=hits_total&name[]=app_info")
        assert shown(restricted) == {"hits_total,path=/hit,status=200": requests, "app_info,version=1.0.3": 1}
        page = get(server, accept="application/openmetrics-text; version=1.0.0")
        assert "flask_http_request" in {family.name for family in parse_openmetrics(page)}
        in_progress = [value for key, value in shown(get(server)).items() if key.startswith("in_progress")]
        assert in_progress
        assert not any(in_progress)


@pytest.mark.thorough
def test_prometheus_flask_exporter_runs_on_the_block_in_multiprocess_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(files))
    with Gunicorn(tmp_path, *WORKERS, site=FLASK_MULTIPROCESS) as server:
        requests = load(server)
        assert_every_worker_shows(server, flask_figures(requests))


@pytest.mark.thorough
def test_prometheus_flask_exporter_counts_on_over_reloads_with_preload(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, *WORKERS, "--preload", site=FLASK) as server:
        requests = load(server)
        assert_every_worker_shows(server, flask_figures(requests))
        before = server.workers()
        server.signal(signal.SIGHUP)
        wait_until(lambda: not server.workers() & before and len(server.workers()) == 3, "new workers")
        requests += load(server)
        assert_every_worker_shows(server, flask_figures(requests))


@pytest.mark.thorough
def test_django_prometheus_runs_on_the_block(tmp_path: Path) -> None:
    def figures(requests: int) -> dict[str, float]:
        return {
            "django_http_requests_total_by_view_transport_method_total,method=GET,transport=http,view=hit": requests,
            "django_http_responses_total_by_status_view_method_total,method=GET,status=200,view=hit": requests,
            "django_http_requests_latency_seconds_by_view_method_count,method=GET,view=hit": requests,
            "django_cache_get_total,backend=locmem": requests,
            "django_cache_get_misses_total,backend=locmem": requests,
        }

    with Gunicorn(tmp_path, *WORKERS, site=DJANGO) as server:
        requests = load(server)
        assert_every_worker_shows(server, figures(requests))
        kill_a_worker(server)
        assert_every_worker_shows(server, figures(requests))


@pytest.mark.thorough
def test_starlette_exporter_runs_on_the_block(tmp_path: Path) -> None:
    def figures(requests: int) -> dict[str, float]:
        labels = "app_name=site,method=GET,path=/hit,status_code=200"
        return {
            f"starlette_requests_total,{labels}": requests,
            f"starlette_request_duration_seconds_count,{labels}": requests,
            "starlette_requests_in_progress,app_name=site,method=GET": 0,
        }

    with Gunicorn(tmp_path, "--workers", "3", "--worker-class", "asgi", site=STARLETTE) as server:
        requests = load(server)
        assert_every_worker_shows(server, figures(requests))
        kill_a_worker(server)
        assert_every_worker_shows(server, figures(requests))
        page = get(server, "/openmetrics")
        exemplars = [sample.exemplar for family in parse_openmetrics(page) for sample in family.samples]
        pids = {each.labels["trace_id"].removeprefix("of ") for each in exemplars if each}
        assert pids
