"""gunicorn's hooks: their counts under each worker class, and the block of the master."""

from __future__ import annotations

import http.client
import os
import pwd
import re
import signal
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from documents import examples
from gunicorn.config import KNOWN_SETTINGS
from helpers import segment_file
from prometheus import program
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from servers import BOUND, Gunicorn, Load, children, wait_until

from shmstats.export import FORMATS, View
from shmstats.history.past import Query, read_past
from shmstats.integrations import _gunicorn_metrics as load_of
from shmstats.integrations import gunicorn as hooks
from shmstats.reading.reader import read_only
from shmstats.series import Distribution, series_text

HOOKS = ("--config", "python:shmstats.integrations.gunicorn")

WSGI_SITE = """
import os, time
from shmstats import stats

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/hit":
        stats.incr("requests", "total")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(os.getpid()).encode()]
    if path == "/created":
        start_response("201 Created", [])
        return [b"x"]
    if path == "/stream":
        start_response("200 OK", [])
        return stream()
    if path == "/fail":
        raise RuntimeError("the application fails")
    if path == "/fail-late":
        start_response("200 OK", [("Content-Length", "10")])
        return fail_late()
    if path == "/hang":
        time.sleep(600)
    if path == "/exit":
        os._exit(5)
    start_response("404 Not Found", [])
    return [b"nothing here"]

def stream():
    yield b"begun"
    while not os.path.exists("gate"):
        time.sleep(0.01)
    yield b"ended"

def fail_late():
    yield b"five5"
    raise RuntimeError("the application fails late")
"""

ASGI_SITE = """
import asyncio, os, time
from shmstats import stats

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    async def start(status, *headers):
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    async def body(chunk, more=False):
        await send({"type": "http.response.body", "body": chunk, "more_body": more})
    path = scope["path"]
    if path == "/hit":
        stats.incr("requests", "total")
        await start(200)
        await body(str(os.getpid()).encode())
    elif path == "/created":
        await start(201)
        await body(b"x")
    elif path == "/stream":
        await start(200)
        await body(b"begun", True)
        while not os.path.exists("gate"):
            await asyncio.sleep(0.01)
        await body(b"ended")
    elif path == "/fail":
        raise RuntimeError("the application fails")
    elif path == "/fail-late":
        await start(200, (b"content-length", b"10"))
        await body(b"five5", True)
        raise RuntimeError("the application fails late")
    elif path == "/hang":
        time.sleep(600)
    elif path == "/exit":
        os._exit(5)
    else:
        await start(404)
        await body(b"nothing here")
"""

#: Each worker class: its options, its site, and what must be installed for it.
CLASSES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "sync": (("--worker-class", "sync"), WSGI_SITE, ""),
    "gthread": (("--worker-class", "gthread", "--threads", "3"), WSGI_SITE, ""),
    "gevent": (("--worker-class", "gevent"), WSGI_SITE, "gevent"),
    "asgi": (("--worker-class", "asgi"), ASGI_SITE, ""),
    "uvicorn-worker": (("--worker-class", "uvicorn_worker.UvicornWorker"), ASGI_SITE, "uvicorn_worker"),
    "uvicorn": (("--worker-class", "uvicorn.workers.UvicornWorker"), ASGI_SITE, "uvicorn"),
}

EVERYDAY = [
    pytest.param(kind, marks=() if kind in {"sync", "uvicorn-worker"} else pytest.mark.thorough) for kind in CLASSES
]


@contextmanager
def serving(directory: Path, kind: str, *options: str, config: str = "", counts: bool = True) -> Iterator[Gunicorn]:
    """A running gunicorn with the hooks and workers of a class.

    Waits until its workers count: a gevent worker that is told to end while it boots never ends.
    """
    more, site, package = CLASSES[kind]
    require(package)
    hooks_or_not = () if "--config" in options else HOOKS
    with Gunicorn(directory, *hooks_or_not, *more, *options, site=site, config=config) as server:
        number = int(options[options.index("--workers") + 1]) if "--workers" in options else 2
        if counts:
            wait_until(lambda: len(server.workers()) == sum(states(server).values()) == number, "all workers")
        yield server


def require(package: str) -> None:
    if package and find_spec(package) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{package} is not installed, and CI must test with it")
        pytest.skip(f"{package} is not installed")


def figures(server: Gunicorn) -> dict[str, Any]:
    """Every value of the live block: ``{"gunicorn_requests{method="GET",status="200"}": 3}``."""
    with read_only(server.data) as reader:
        read = reader.read()
    return {series_text(name): value for name, value in zip(read.names, read.values, strict=True)}


def requests(server: Gunicorn) -> dict[str, int]:
    """The requests that were counted, by method and status: ``{"GET 200": 3}``."""
    pattern = re.compile(r'gunicorn_requests\{method="(.*)",status="(.*)"\}')
    found = ((pattern.fullmatch(name), value) for name, value in figures(server).items())
    return {f"{match[1]} {match[2]}": value for match, value in found if match and value}


def ended(server: Gunicorn) -> dict[str, int]:
    """The workers that ended, by reason."""
    pattern = re.compile(r'gunicorn_worker_exits\{reason="(.*)"\}')
    found = ((pattern.fullmatch(name), value) for name, value in figures(server).items())
    return {match[1]: value for match, value in found if match}


def states(server: Gunicorn) -> dict[str, int]:
    """The workers, by state."""
    pattern = re.compile(r'gunicorn_workers\{state="(.*)"\}')
    found = ((pattern.fullmatch(name), value) for name, value in figures(server).items())
    return {match[1]: value for match, value in found if match and value}


def live(server: Gunicorn) -> list[int]:
    """The pids of the attached processes."""
    with read_only(server.data) as reader:
        return sorted(worker.pid for worker in reader.workers.live())


def ask(server: Gunicorn, method: str, path: str) -> int:
    """The status of one request; 0 if there was no whole answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=BOUND)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        response.read()
        return response.status
    except (http.client.HTTPException, OSError):
        return 0
    finally:
        connection.close()


def total(server: Gunicorn) -> int:
    value: int = figures(server).get("total", 0)
    return value


# Measurements under each worker class ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EVERYDAY)
def test_requests_and_workers_are_measured_under_every_class(tmp_path: Path, kind: str) -> None:
    with serving(tmp_path, kind, "--workers", "2") as server:
        assert_requests_are_counted(server)
        assert_states_are_shown(server, at_once=1 if kind == "sync" else 2)
        assert_workers_are_described(server)
        assert_accepted(server)
        killed = min(server.workers())
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(server.workers() - {killed}) == 2, "another worker")
        wait_until(lambda: states(server) == {"idle": 2}, "two idle workers")
        assert f'gunicorn_worker_memory{{pid="{killed}"}}' not in figures(server)


def assert_requests_are_counted(server: Gunicorn) -> None:
    """Every request is counted once by method and status."""
    asked = wait_until(lambda: requests(server).get("GET 404"), "the request that waited for the server")
    with Load(server) as load:
        load.more(150)
    assert load.failed == 0
    assert ask(server, "POST", "/created") == 201
    assert ask(server, "HEAD", "/created") == 201
    understood = ask(server, "BREW", "/created") == 201  # one of the servers refuses unknown methods
    assert ask(server, "GET", "/fail") == 500
    assert ask(server, "GET", "/fail-late") == 0
    expected = {"GET 200": load.total + 1, "GET 404": asked, "POST 201": 1, "HEAD 201": 1, "GET 500": 1}
    # A request is counted after its end, which the client may see a little earlier.
    wait_until(lambda: states(server) == {"idle": 2}, "the end of all requests")
    assert requests(server) == expected | ({"OTHER 201": 1} if understood else {})
    values = figures(server)
    assert values['gunicorn_request_duration{method="GET"}'].count == load.total + asked + 2
    assert values["gunicorn_requests_in_progress"] == 0
    assert total(server) == load.total


def assert_states_are_shown(server: Gunicorn, at_once: int) -> None:
    """A worker is busy during a request."""
    readers = [threading.Thread(target=ask, args=(server, "GET", "/stream")) for _ in range(at_once)]
    for reader in readers:
        reader.start()
    wait_until(lambda: figures(server)["gunicorn_requests_in_progress"] == at_once, "requests in progress")
    busy = states(server)["busy"]
    assert 1 <= busy <= at_once
    assert states(server).get("idle", 0) == 2 - busy
    (server.directory / "gate").touch()
    for reader in readers:
        reader.join(BOUND)
    wait_until(lambda: states(server) == {"idle": 2}, "two idle workers again")
    assert figures(server)["gunicorn_requests_in_progress"] == 0


def assert_workers_are_described(server: Gunicorn) -> None:
    """Each worker has booted and shows its memory; the master is not a worker."""
    values = figures(server)
    assert values["gunicorn_worker_boot"].count == 2
    for pid in server.workers():
        resident = values[f'gunicorn_worker_memory{{pid="{pid}"}}']
        assert 0.5 < resident / (os.sysconf("SC_PAGESIZE") * int(statm(pid)[1])) < 2
    assert f'gunicorn_worker_memory{{pid="{server.master}"}}' not in values


def statm(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/statm").read_text().split()


def assert_accepted(server: Gunicorn) -> None:
    """Check that promtool and the strict parser accept the metrics of the hooks."""
    with read_only(server.data) as reader:
        read = reader.read()
    text = FORMATS["prometheus"].render(read, View())
    check = [program("promtool"), "check", "metrics"]
    done = subprocess.run(check, input=text, capture_output=True, text=isinstance(text, str), timeout=BOUND)
    assert (done.returncode, done.stdout, done.stderr) == (0, *(("", "") if isinstance(text, str) else (b"", b"")))
    openmetrics = FORMATS["openmetrics"].render(read, View())
    if isinstance(openmetrics, bytes):
        openmetrics = openmetrics.decode()
    types = {family.name: family.type for family in text_string_to_metric_families(openmetrics)}
    assert {name: kind for name, kind in types.items() if name.startswith("gunicorn_")} == {
        "gunicorn_requests": "counter",
        "gunicorn_request_duration_seconds": "histogram",
        "gunicorn_requests_in_progress": "gauge",
        "gunicorn_workers": "gauge",
        "gunicorn_capacity": "gauge",
        "gunicorn_busy_seconds": "histogram",
        "gunicorn_backlog": "gauge",
        "gunicorn_worker_memory_bytes": "gauge",
        "gunicorn_worker_boot_seconds": "histogram",
        "gunicorn_worker_exits": "counter",
        "gunicorn_reloads": "counter",
        "gunicorn_start_timestamp_seconds": "gauge",
    }


def test_the_capacity_is_that_of_the_threads_of_all_workers(tmp_path: Path) -> None:
    with serving(tmp_path, "gthread", "--workers", "2") as server:
        assert figures(server)["gunicorn_capacity"] == 6


@pytest.mark.thorough
def test_connections_that_wait_for_busy_workers_are_the_backlog(tmp_path: Path) -> None:
    with serving(tmp_path, "sync", "--workers", "2") as server:
        readers = [threading.Thread(target=ask, args=(server, "GET", "/stream")) for _ in range(2)]
        for reader in readers:
            reader.start()
        wait_until(lambda: states(server) == {"busy": 2}, "two busy workers")
        waiting = [socket.create_connection(("127.0.0.1", server.port), BOUND) for _ in range(3)]
        wait_until(lambda: figures(server)["gunicorn_backlog"] == 3, "the backlog")
        (tmp_path / "gate").touch()
        for reader in readers:
            reader.join(BOUND)
        for connection in waiting:
            connection.close()
        wait_until(lambda: figures(server)["gunicorn_backlog"] == 0, "no backlog")
        wait_until(lambda: figures(server)["gunicorn_busy"].sum > 100, "the time that the workers were busy")


def test_the_backlog_is_measured_until_the_master_stops_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_of, "_MEASURE_SECONDS", 0.01)
    told: list[object] = []
    monkeypatch.setattr(load_of.failures, "tell", lambda *what: told.append(what))
    with socket.create_server(("127.0.0.1", 0)) as sock:
        shown: list[int] = []
        meter = load_of.BacklogMeter([SimpleNamespace(sock=sock)], shown.append)
        meter.start()
        wait_until(lambda: len(shown) > 2, "a measurement")
    wait_until(lambda: not meter._thread.lives, "the end of the thread")
    meter.stop()
    assert told == []


@pytest.mark.parametrize("kind", ["sync", "gthread"])
def test_disconnected_clients_and_requests_refused_by_gunicorn_are_counted(tmp_path: Path, kind: str) -> None:
    with serving(tmp_path, kind, "--workers", "2") as server:
        for request in (b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n", b"no request at all\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", server.port), BOUND) as connection:
                connection.sendall(request)
                connection.recv(1)
                # Close with unread data, so that the connection is reset and the sender gets an error.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        (tmp_path / "gate").touch()
        wait_until(lambda: states(server) == {"idle": 2}, "the end of the request")
        counted = requests(server)
        counted.pop("GET 404")
        assert counted == {"GET 499": 1}


@pytest.mark.parametrize("kind", ["uvicorn-worker", pytest.param("gevent", marks=pytest.mark.thorough)])
def test_held_operations_are_flushed_when_a_worker_ends(tmp_path: Path, kind: str) -> None:
    config = "path: {data: data}\nstats: {no_buffer: false, flush_interval_ms: 3600000, buffer_size: 100000}\n"
    with serving(tmp_path, kind, "--workers", "2", config=config) as server:
        with Load(server) as load:
            load.more(100)
        before = server.workers()
        server.signal(signal.SIGHUP)
        wait_until(lambda: not server.workers() & before, "the old workers' end")
        wait_until(lambda: states(server) == {"idle": 2}, "two idle workers")
        wait_until(lambda: load.total == total(server) == requests(server)["GET 200"], "the count")


OWN_WORKER = """
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from gunicorn.workers.base import Worker

class Plain(Worker):
    def run(self):
        listener = self.sockets[0]
        server = WSGIServer(listener.getsockname(), WSGIRequestHandler, bind_and_activate=False)
        server.socket.close()
        server.socket, server.timeout, server.server_name, server.server_port = listener.sock, 0.2, "", 0
        server.setup_environ()
        server.set_app(self.wsgi)
        while self.alive:
            self.notify()
            server.handle_request()
"""


def test_a_custom_worker_class_is_logged_as_not_measured_with_advice(tmp_path: Path) -> None:
    (tmp_path / "own_worker.py").write_text(OWN_WORKER)
    options = (*HOOKS, "--worker-class", "own_worker.Plain", "--workers", "2", "--pythonpath", str(tmp_path))
    with Gunicorn(tmp_path, *options, site=WSGI_SITE) as server:
        assert ask(server, "GET", "/hit") == 200
        wait_until(lambda: states(server) == {"unknown": 2}, "two workers")
        assert requests(server) == {}
        said = (
            "requests to workers of the class own_worker.Plain are not measured: put a middleware of"
            " shmstats.integrations around the application"
        )
        wait_until(lambda: figures(server)["gunicorn_worker_boot"].count == 2, "both to have booted")
        assert server.log.read_text().count(said) == 2  # once by each worker


# Reasons of ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", pytest.param("uvicorn-worker", marks=pytest.mark.thorough)])
def test_workers_that_end_are_counted_by_reason(tmp_path: Path, kind: str) -> None:
    with serving(tmp_path, kind, "--workers", "2", "--timeout", "4") as server:
        assert ended(server) == {"exit": 0, "signal": 0, "timeout": 0}
        os.kill(min(server.workers()), signal.SIGKILL)
        wait_until(lambda: ended(server)["signal"] == 1, "the end of a killed worker")
        wait_until(lambda: len(server.workers()) == 2, "another worker")
        assert ask(server, "GET", "/exit") == 0  # this request has no answer, as with a killed worker
        wait_until(lambda: ended(server)["signal"] == 2, "the end of a worker without an exit")
        wait_until(lambda: states(server) == {"idle": 2}, "two idle workers")
        os.kill(min(server.workers()), signal.SIGTERM)
        wait_until(lambda: ended(server)["exit"] == 1, "a normal exit")
        wait_until(lambda: states(server) == {"idle": 2}, "two idle workers")
        hung = threading.Thread(target=ask, args=(server, "GET", "/hang"))
        hung.start()
        wait_until(lambda: ended(server)["timeout"] == 1, "the end of a worker that was too slow")
        hung.join(BOUND)
        assert ended(server) == {"exit": 1, "signal": 2, "timeout": 1}
        wait_until(lambda: states(server) == {"idle": 2}, "two idle workers")


@pytest.mark.thorough
def test_recycled_and_reloaded_workers_count_as_normal_exits(tmp_path: Path) -> None:
    with serving(tmp_path, "gthread", "--workers", "2", "--max-requests", "50") as server:
        with Load(server) as load:
            load.more(400)
        before = server.workers()
        server.signal(signal.SIGHUP)
        wait_until(lambda: not server.workers() & before, "the old workers' end")
        wait_until(lambda: len(server.workers()) == 2, "two workers")
        wait_until(lambda: sum(ended(server).values()) >= len(load.answered), "the ends that are counted")
        assert ended(server)["signal"] == ended(server)["timeout"] == 0
        wait_until(lambda: total(server) == load.total == requests(server)["GET 200"], "the count")
        boots = figures(server)["gunicorn_worker_boot"]
        wait_until(lambda: figures(server)["gunicorn_worker_boot"].count == ended(server)["exit"] + 2, "boots")
        assert isinstance(boots, Distribution)


# The master ------------------------------------------------------------------------------------------------------

VOLATILE = "path: {data: data}\nstats: {persist: false}\n"


def test_the_master_keeps_counts_over_a_reload_that_leaves_no_worker(tmp_path: Path) -> None:
    """The new workers take their time to load, so all old ones have left before."""
    with serving(tmp_path, "sync", "--workers", "2", config=VOLATILE) as server:
        for _ in range(20):
            assert ask(server, "GET", "/hit") == 200
        site = tmp_path / "site_under_test.py"
        site.write_text(f"import os, time\nwhile not os.path.exists('loaded'):\n    time.sleep(0.01)\n{WSGI_SITE}")
        before = server.workers()
        server.signal(signal.SIGHUP)
        wait_until(lambda: not server.workers() & before, "the old workers' end")
        assert live(server) == [server.master]
        assert total(server) == 20
        (tmp_path / "loaded").touch()
        assert ask(server, "GET", "/hit") == 200
        assert total(server) == 21
        wait_until(lambda: requests(server)["GET 200"] == 21, "the count, which is made when the answer has been sent")
    assert not segment_file(server.data).exists()
    assert not (server.data / "stats").exists()


def test_a_reload_is_an_event_of_the_history(tmp_path: Path) -> None:
    with serving(tmp_path, "sync", "--workers", "1") as server:

        def events() -> list[str]:
            try:
                return [event.kind for event in read_past(server.data, Query.made(-900, None, None, [])).events]
            except FileNotFoundError:
                return []

        wait_until(lambda: "start" in events(), "the first row of the history")
        server.signal(signal.SIGHUP)
        wait_until(lambda: "reload" in events(), "the reload in the history")
        assert events().count("reload") == 1


def test_the_master_keeps_counts_when_all_workers_are_killed(tmp_path: Path) -> None:
    with serving(tmp_path, "gthread", "--workers", "3", config=VOLATILE) as server:
        with Load(server) as load:
            load.more(100)
        wait_until(lambda: states(server) == {"idle": 3}, "the end of all requests")
        before = server.workers()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(server.workers() - before) == 3, "other workers")
        wait_until(lambda: sum(ended(server).values()) == 3, "the count")
        assert ended(server)["signal"] == 3
        wait_until(lambda: total(server) == requests(server)["GET 200"] == load.total, "the count")
        assert ask(server, "GET", "/hit") == 200
        assert total(server) == load.total + 1


@pytest.mark.thorough
def test_two_masters_share_the_block_in_an_upgrade(tmp_path: Path) -> None:
    with serving(tmp_path, "sync", "--workers", "2", config=VOLATILE) as server, Load(server) as load:
        load.more(50)
        server.signal(signal.SIGUSR2)
        successor_file = Path(f"{server.pidfile}.2")
        wait_until(successor_file.exists, "the second master")
        successor = int(successor_file.read_text())
        try:
            wait_until(lambda: len(children(successor)) == 2, "the second master's workers")
            # One more child is the second master, which has its own slot and none that it inherited.
            everyone = {server.master, successor} | server.workers() | children(successor)
            wait_until(lambda: live(server) == sorted(everyone), "all masters and workers")
            load.more(50)
            server.signal(signal.SIGTERM)
            wait_until(lambda: not Path(f"/proc/{server.master}/cwd").exists(), "the first master's end")
            load.more(50)
            load.stop()
            assert live(server) == sorted({successor} | children(successor))
            assert load.total <= total(server) <= load.total + load.failed
            wait_until(lambda: load.total <= requests(server)["GET 200"] <= load.total + load.failed, "the count")
            assert ended(server) == {"exit": 2, "signal": 0, "timeout": 0}
        finally:
            os.kill(successor, signal.SIGTERM)
            wait_until(lambda: not Path(f"/proc/{successor}").exists(), "the second master's end")


def test_children_of_the_master_drop_the_inherited_block(tmp_path: Path) -> None:
    with serving(tmp_path, "sync", "--workers", "1") as server:
        for number, count in ((signal.SIGTTIN, 2), (signal.SIGTTIN, 3), (signal.SIGTTOU, 2)):
            server.signal(number)
            wait_until(lambda count=count: len(server.workers()) == count, "another number of workers")
            wait_until(lambda count=count: states(server) == {"idle": count}, "idle workers")
            assert live(server) == sorted({server.master} | server.workers())
        with read_only(server.data) as reader:
            rows = [worker.row for worker in reader.workers.live()]
        assert len(set(rows)) == len(rows) == 3
        for pid in server.workers():
            mapped = Path(f"/proc/{pid}/maps").read_text().count("/dev/shm/shmstats_")
            assert mapped == Path(f"/proc/{server.master}/maps").read_text().count("/dev/shm/shmstats_")


def test_a_master_without_a_block_continues_and_logs_the_reason_once(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    block = segment_file(tmp_path / "data")
    block.write_bytes(bytes(4096))
    block.chmod(0o644)
    try:
        with serving(tmp_path, "gthread", "--workers", "2", counts=False) as server:
            with Load(server) as load:
                load.more(50)
            os.kill(min(server.workers()), signal.SIGKILL)
            wait_until(lambda: len(server.workers()) == 2, "another worker")
            with Load(server) as load:
                load.more(50)
            assert load.failed == 0
            server.signal(signal.SIGHUP)
            wait_until(lambda: server.log.read_text().count("Booting worker") >= 5, "other workers")
            assert ask(server, "GET", "/hit") == 200
            logged = server.log.read_text()
    finally:
        block.unlink()
        Path(f"{block}.lock").unlink(missing_ok=True)
    assert logged.count("when_ready failed") <= 1
    assert "Unhandled exception" not in logged


@pytest.mark.parametrize("config", ["stats: {enabled: false}\n", "stats: {capacity: none at all}\n"])
def test_hooks_do_nothing_if_statistics_are_disabled(tmp_path: Path, config: str) -> None:
    with serving(tmp_path, "sync", "--workers", "2", config=config, counts=False) as server:
        os.kill(min(server.workers()), signal.SIGKILL)
        wait_until(lambda: len(server.workers()) == 2, "another worker")
        assert ask(server, "GET", "/hit") == 200
    assert not (tmp_path / "data").exists()
    assert "Traceback" not in server.log.read_text()


#: Imports everything at once: the user of its workers may not be able to read the directory of this Python.
SITE_OF_ANOTHER_USER = """
import os, psutil
import shmstats.integrations._requests
from shmstats import stats

def app(environ, start_response):
    stats.incr("requests", "total")
    start_response("404 Not Found", [])
    return [f"{os.geteuid()} {stats.get('requests', 'total')} {os.getpid()}".encode()]
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have its workers run as another user")
def test_a_master_of_another_user_leaves_the_block_to_its_workers() -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o777)
        options = (*HOOKS, "--workers", "2", "--preload", "--user", str(nobody))
        with Gunicorn(directory, *options, site=SITE_OF_ANOTHER_USER) as server:
            assert "does not count exits of workers" in server.log.read_text()
            users_and_totals = [server.get("/")[1].split() for _ in range(5)]
            assert [user for user, *_ in users_and_totals] == [str(nobody)] * 5
            totals = [int(total) for _, total, _ in users_and_totals]
            assert totals == list(range(totals[0], totals[0] + 5))
            block = segment_file(server.data)
            assert (server.data.stat().st_uid, block.stat().st_uid) == (nobody, nobody)
            before = server.workers()
            os.kill(min(before), signal.SIGKILL)
            wait_until(lambda: int(server.get("/")[1].split()[2]) not in before, "an answer of another worker")
        assert not block.exists()
        assert "Traceback" not in server.log.read_text()


# As a configuration module ---------------------------------------------------------------------------------------


def test_the_module_defines_no_settings_of_gunicorn_except_its_hooks() -> None:
    settings = {setting.name for setting in KNOWN_SETTINGS}
    assert settings & set(vars(hooks)) == set(hooks.__all__)


def test_the_hooks_can_be_called_from_a_custom_configuration_file(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(examples("shmstats/docs/gunicorn.md")[0])
    with serving(tmp_path, "sync", "--config", "gunicorn.conf.py") as server:
        assert ask(server, "GET", "/hit") == 200
        wait_until(lambda: requests(server).get("GET 200") == 1, "the count")
        assert figures(server)["gunicorn_worker_boot"].count == 2
