"""Under real gunicorn and uvicorn with several workers: each request is recorded once, also if it is broken off."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from counted import Counts, counts_in
from servers import BOUND, Gunicorn, wait_until

from shmstats import Registry

pytestmark = pytest.mark.usefixtures("found_by_servers")

FLASK = """
import os, pathlib, time
from flask import Flask, request, send_file
from shmstats.integrations.flask import ShmStats

app = Flask(__name__)
app.logger.disabled = True
ShmStats(app, labelnames=["kind"], label_values=lambda request: [request.headers.get("X-Kind", "")])

@app.get("/items/<int:item>")
def item(item):
    return str(os.getpid())

@app.post("/upload")
def upload():
    return str(len(request.get_data()))

@app.get("/fail")
def fail():
    raise LookupError

@app.get("/stream")
def stream():
    return (b"12345" for _ in range(4))

@app.get("/cut")
def cut():
    def chunks():
        yield b"12345"
        raise ArithmeticError
    return chunks()

@app.get("/file")
def file():
    return send_file(os.path.abspath("file.bin"))

@app.get("/forever")
def forever():
    def chunks():
        while not os.path.exists("stop"):
            yield b"x" * 65536
            time.sleep(0.001)
    return chunks()

@app.get("/hang/<name>")
def hang(name):
    pathlib.Path(f"hanging-{name}").write_text(str(os.getpid()))
    while not os.path.exists("go"):
        time.sleep(0.01)
    return "gone"
"""

FASTAPI = """
import asyncio, os, pathlib
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, StreamingResponse
from shmstats.integrations.asgi import ShmStatsMiddleware

app, router = FastAPI(), APIRouter()
app.add_middleware(
    ShmStatsMiddleware,
    labelnames=["kind"],
    label_values=lambda scope: [dict(scope["headers"]).get(b"x-kind", b"").decode()],
)

@router.api_route("/{item}", methods=["GET", "HEAD", "OPTIONS"])
async def item(item: int):
    return os.getpid()

@app.post("/upload")
async def upload(request: Request):
    return len(await request.body())

@app.get("/fail")
async def fail():
    raise LookupError

async def five(number, fail=False):
    for _ in range(number):
        yield b"12345"
        await asyncio.sleep(0)
    if fail:
        raise ArithmeticError

@app.get("/stream")
async def stream():
    return StreamingResponse(five(4))

@app.get("/cut")
async def cut():
    return StreamingResponse(five(1, True))

@app.get("/file")
async def file():
    return FileResponse("file.bin")

@app.get("/forever")
async def forever():
    async def chunks():
        while not os.path.exists("stop"):
            yield b"x" * 65536
            await asyncio.sleep(0.001)
    return StreamingResponse(chunks())

@app.get("/hang/{name}")
async def hang(name):
    pathlib.Path(f"hanging-{name}").write_text(str(os.getpid()))
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    return "gone"

app.include_router(router, prefix="/items")
"""

DJANGO = """
import os
import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpResponse
from django.urls import include, path, re_path
from shmstats.integrations import asgi, wsgi

settings.configure(
    ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="only for tests", LOGGING_CONFIG=None,
    MIDDLEWARE=["shmstats.integrations.wsgi.django_route", "django.middleware.common.CommonMiddleware"],
)

def item(request, item):
    return HttpResponse(str(os.getpid()))

def fail(request):
    raise LookupError

api = [path("items/<int:item>", item)]
urlpatterns = [path("api/", include(api)), re_path("^old/(?P<item>[0-9]+)$", item), path("fail", fail)]
app = WRAPPED
"""


class Uvicorn(Gunicorn):
    """uvicorn, with the rest as for gunicorn."""

    def start(self) -> Uvicorn:
        self.log.write_bytes(b"")
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "--http",
            "h11",  # httptools, if it is installed, refuses unknown methods
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            *self._options,
            "site_under_test:app",
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.directory, stdout=log, stderr=log, start_new_session=True
            )
        listening = re.compile(r"running on http://127\.0\.0\.1:(\d+)")
        self._port = int(wait_until(lambda: listening.search(self.log.read_text()), "a listening port")[1])
        wait_until(self._answers, "an answer")
        return self


#: A worker may still have a request whose client has disconnected.
SOON = ("--graceful-timeout", "2")

SERVERS: dict[str, Callable[[Path], Gunicorn]] = {
    "sync": lambda path: Gunicorn(path, *SOON, "--workers", "4", site=FLASK),
    "gthread": lambda path: Gunicorn(path, *SOON, "-k", "gthread", "--workers", "2", "--threads", "4", site=FLASK),
    "gevent": lambda path: Gunicorn(path, *SOON, "-k", "gevent", "--workers", "2", site=FLASK),
    "uvicorn": lambda path: Uvicorn(path, "--workers", "2", "--timeout-graceful-shutdown", "2", site=FASTAPI),
}


@pytest.fixture(params=["sync", "gevent", "uvicorn", pytest.param("gthread", marks=pytest.mark.thorough)])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gunicorn]:
    (tmp_path / "file.bin").write_bytes(b"f" * 3000)
    with SERVERS[request.param](tmp_path) as running:
        yield running


def ask(server: Gunicorn, path: str, method: str = "GET", body: bytes | None = None, kind: str = "test") -> bytes:
    """The body of the answer; empty if the server disconnected."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=BOUND)
    try:
        connection.request(method, path, body, {"X-Kind": kind})
        return connection.getresponse().read()
    except (http.client.HTTPException, OSError):
        return b""
    finally:
        connection.close()


def settled(server: Gunicorn, total: int, **labels: str) -> Counts:
    """The counts, once that many requests have ended: an answer may arrive before the end of its request."""

    def enough() -> Counts | None:
        now = counts_in(server.data)
        over = now.of("http_requests", **labels) >= total and now.of("http_requests_in_progress") == 0
        return now if over else None

    return wait_until(enough, f"{total} requests that are over")


@contextmanager
def read_saved(data: Path) -> Iterator[Counts]:
    """The counts that the next start finds."""
    registry = Registry()
    registry.init({"path": {"data": str(data)}})
    yield Counts(registry.read())
    registry.close()


@contextmanager
def leaving(data: Path) -> Iterator[None]:
    """Adopt the block at the end, as the next start would: uvicorn leaves none for an application without lifespan."""
    yield
    with read_saved(data):
        pass


#: Each request, its number in a round, and the recorded status.
TRAFFIC = [
    ("GET", "/items/{}", 8, "200"),
    ("HEAD", "/items/{}", 2, "200"),
    ("OPTIONS", "/items/{}", 2, "200"),
    ("BREW", "/items/{}", 2, "405"),
    ("POST", "/upload", 3, "200"),
    ("GET", "/none/{}", 3, "404"),
    ("GET", "/fail", 2, "500"),
    ("GET", "/stream", 3, "200"),
    ("GET", "/cut", 1, "200"),
    ("GET", "/file", 2, "200"),
]
ROUNDS = 5


def test_every_request_is_recorded_once_over_all_workers(server: Gunicorn) -> None:
    requests = [
        (path.format(number), method, b"b" * 700 if method == "POST" else None)
        for number in range(ROUNDS)
        for method, path, times, _ in TRAFFIC
        for _ in range(times)
    ]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda asked: ask(server, *asked), requests))
    now = settled(server, len(requests), kind="test")
    is_flask = not isinstance(server, Uvicorn)
    template = "/items/<int:item>" if is_flask else "/items/{item}"
    for method, path, times, status in TRAFFIC:
        route = {"/items/{}": template, "/none/{}": "<unmatched>"}.get(path, path)
        if method == "BREW":
            method, route = "OTHER", "<unmatched>" if is_flask else template
        found = now.of("http_requests", kind="test", method=method, route=route, status=status)
        assert found == times * ROUNDS, (method, path)
        assert now.of("http_request_duration", kind="test", method=method, route=route) == times * ROUNDS
    assert now.of("http_requests", kind="test") == len(requests)
    assert now.sum("http_request_size", kind="test") == 3 * ROUNDS * 700
    assert now.sum("http_response_size", kind="test", route="/stream") == 3 * ROUNDS * 20
    assert now.sum("http_response_size", kind="test", route="/file") == 2 * ROUNDS * 3000
    assert now.sum("http_response_size", kind="test", method="HEAD") == 0
    assert now.of("http_exceptions", route="/fail", type="LookupError") == 2 * ROUNDS
    assert now.of("http_exceptions", route="/cut", type="ArithmeticError") == ROUNDS
    assert now.of("http_exceptions") == 3 * ROUNDS
    total, success, failed = now.outcomes
    others = now.of("http_requests", kind="")  # the requests that waited for the server's start
    assert total == success + failed == len(requests) + others
    assert failed == ROUNDS * (2 + 3 + 2 + 1) + others
    assert answers.count(b"f" * 3000) == 2 * ROUNDS
    assert answers.count(b"12345" * 4) == 3 * ROUNDS
    assert answers.count(b"700") == 3 * ROUNDS


def test_a_client_that_disconnects_during_a_request_is_recorded_with_499(server: Gunicorn) -> None:
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.port), BOUND) as client:
            client.sendall(b"GET /forever HTTP/1.1\r\nHost: localhost\r\nX-Kind: left\r\n\r\n")
            got = b""
            while len(got) < 200_000:
                got += client.recv(65536)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    now = settled(server, 3, kind="left")
    assert now.of("http_requests", kind="left", route="/forever", status="499") == 3
    assert now.of("http_requests", kind="left") == 3
    assert now.sum("http_response_size", kind="left") >= 3 * 190_000
    assert now.of("http_exceptions") == 0
    assert now.of("http_requests_in_progress") == 0


def test_requests_in_progress_end_with_a_killed_worker(server: Gunicorn, tmp_path: Path) -> None:
    def hanging() -> dict[str, int]:
        files = tmp_path.glob("hanging-*")
        return {file.name: int(text) for file in files if (text := file.read_text())}

    threads = []
    for number in range(3):
        thread = threading.Thread(target=ask, args=(server, f"/hang/{number}"), kwargs={"kind": "hung"})
        thread.start()
        threads.append(thread)
        wait_until(lambda number=number: len(hanging()) > number, f"request {number} in its handler")
        if number == 0:
            os.kill(hanging()["hanging-0"], signal.SIGSTOP)  # so that another worker takes the next ones
    victim, left = hanging()["hanging-0"], 2
    assert list(hanging().values()).count(victim) == 1
    assert counts_in(server.data).of("http_requests_in_progress") == 1 + left
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: counts_in(server.data).of("http_requests_in_progress") == left, "the survivors' requests")
    assert counts_in(server.data).of("http_requests", kind="hung") == 0
    (tmp_path / "go").touch()
    for thread in threads:
        thread.join(BOUND)
    now = settled(server, left, kind="hung")
    assert now.of("http_requests", kind="hung", status="200") == now.of("http_requests", kind="hung") == left
    assert now.of("http_requests_in_progress") == 0


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_djangos_routes_are_recorded(tmp_path: Path, kind: str) -> None:
    site = DJANGO.replace("WRAPPED", f"{kind}.ShmStatsMiddleware(get_{kind}_application())")
    start = {
        "wsgi": lambda: Gunicorn(tmp_path, "-k", "gthread", "--workers", "2", "--threads", "2", site=site),
        "asgi": lambda: Uvicorn(tmp_path, "--workers", "2", "--lifespan", "off", site=site),
    }[kind]
    with leaving(tmp_path / "data"), start() as server:
        paths = [f"/{path}" for n in range(10) for path in (f"api/items/{n}", f"old/{n}", "fail", f"api/none/{n}")]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda path: ask(server, path), paths))
        now = settled(server, 10, route="/fail")
        wait_until(lambda: counts_in(server.data).of("http_requests", route="/api/items/<int:item>") == 10, "all")
        now = settled(server, 10, route="/^old/(?P<item>[0-9]+)$")
        assert now.of("http_requests", route="/fail", status="500") == 10
        assert now.of("http_requests", route="/api/items/<int:item>", status="200") == 10
        routes = {"/api/items/<int:item>", "/^old/(?P<item>[0-9]+)$", "/fail", "<unmatched>"}
        assert now.values_of("route") == routes


def test_an_application_is_recorded_with_the_pure_python_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMSTATS_PURE", "1")
    with Gunicorn(tmp_path, "-k", "gthread", "--workers", "2", "--threads", "4", site=FLASK) as server:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda number: ask(server, f"/items/{number}"), range(100)))
        now = settled(server, 100, kind="test")
        assert now.of("http_requests", kind="test", status="200", route="/items/<int:item>") == 100
        wait_until(lambda: counts_in(server.data).of("http_requests_in_progress") == 0, "no request in progress")


@pytest.mark.thorough
def test_operations_held_by_uvicorns_workers_are_saved_when_they_end(tmp_path: Path) -> None:
    config = "path: {data: data}\nstats: {no_buffer: false, buffer_size: 100000, flush_interval_ms: 3600000}\n"
    with Uvicorn(tmp_path, "--workers", "2", site=FASTAPI, config=config) as server:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: ask(server, f"/items/{number}"), range(60)))
        assert counts_in(server.data).of("http_requests", kind="test") < 60, "no operation was held"
    with read_saved(tmp_path / "data") as now:
        assert now.of("http_requests", kind="test", route="/items/{item}", status="200") == 60
