"""The live page in a real browser: its numbers, stuck workers, layout, keys and token."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers import Gunicorn, wait_until

from shmstats.reading.reader import read_only

if TYPE_CHECKING:  # at run time "conftest" may be that of another directory
    from conftest import Page

VIOLATIONS = "window.violations = []; addEventListener('securitypolicyviolation', e => violations.push(e.blockedURI))"


def live(server: Gunicorn, prefix: str = "") -> str:
    return f"http://127.0.0.1:{server.port}{prefix}/stats/live"


def test_totals_equal_stats_names_are_text_and_the_page_is_not_counted(
    page: Page, gunicorn: Callable[..., Gunicorn]
) -> None:
    server = gunicorn(workers=2)
    for number in range(7):
        assert server.get(f"/page/{number}")[0] == 200
    for _ in range(3):
        assert server.get("/fails")[0] == 500
    server.get("/nothing-here")
    before = wait_until(lambda: settled(server), "the counts of all requests")
    page.open(live(server))
    page.run(VIOLATIONS)
    wait_until(lambda: len(page.rows("metrics-table")) > 5, "metrics")
    metrics = {row[0]: row[1] for row in page.rows("metrics-table")}
    assert metrics["shop.shown"] == "7"
    hostile = next(name for name in metrics if "onerror" in name)
    assert hostile == 'shop.<img src=x onerror="document.title=1">{a="<script>document.title=2</script>"}'
    assert metrics[hostile] == "3"
    routes = {row[0]: row[6] for row in page.rows("routes")}
    assert (routes["GET /page/<int:number>"], routes["GET /fails"]) == ("7", "3")
    time.sleep(3)  # of polls
    assert page.run("return document.title") == "shmstats"
    assert page.run("return document.querySelectorAll('main img, main script').length") == 0
    assert page.run("return violations") == []
    assert [each for each in page.browser.errors() if "history" not in each] == []
    assert counted(server) == before


def counted(server: Gunicorn) -> dict[Any, Any]:
    """All metrics of requests, read from the block: a request to /stats would be counted itself."""
    with read_only(server.data) as reader:
        read = reader.read()
        named = zip(read.names, read.values, strict=True)
        return {name: value for name, value in named if "requests" in name.metric + name.category}


def settled(server: Gunicorn) -> dict[Any, Any] | None:
    """The same once each answered request is counted: a worker counts after the answer, in its last hook."""
    now = counted(server)

    def total(metric: str) -> int:
        return sum(value for name, value in now.items() if name.metric == metric)

    over = total("http_requests") == total("gunicorn_requests") and not total("http_requests_in_progress")
    return now if over else None


@pytest.mark.thorough
def test_a_worker_in_a_loop_of_c_and_a_stopped_one_are_shown_with_request_and_age(
    page: Page, gunicorn: Callable[..., Gunicorn], ask: Callable[[Gunicorn, str], Any]
) -> None:
    server = gunicorn()
    page.open(live(server))
    ask(server, "/regex?secret=1")
    ask(server, "/wait")
    waiting = wait_until(lambda: serving(page, "GET /wait"), "the request that waits", 90)
    os.kill(int(waiting[0]), signal.SIGSTOP)
    since = time.monotonic()
    stopped = wait_until(lambda: (row := serving(page, "GET /wait")) and row[1] == "stopped" and row, "stopped")
    stuck = wait_until(lambda: (row := serving(page, "GET /regex")) and re.search(r"\d", row[3]) and row, "regex")
    assert time.monotonic() - since < 3.5  # seconds; one poll takes two
    assert stopped[3].endswith("s")
    assert stuck[1] == "busy"
    assert "secret" not in page.text("main")
    os.kill(int(waiting[0]), signal.SIGCONT)


def serving(page: Page, request: str) -> list[str] | None:
    return next((row for row in page.rows("workers") if row[2] == request), None)


@pytest.mark.thorough
def test_the_numbers_equal_those_of_stats_under_the_load_of_wrk(page: Page, gunicorn: Callable[..., Gunicorn]) -> None:
    wrk = shutil.which("wrk") or pytest.skip("wrk is not installed (Debian: apt install wrk)")
    server = gunicorn()
    page.open(live(server))
    command = [wrk, "-t1", "-c3", "-d8s", f"http://127.0.0.1:{server.port}/page/1"]
    assert "requests in" in subprocess.run(command, capture_output=True, text=True, timeout=90).stdout
    total = server.document()["simple"]["shop"]["shown"]
    assert total > 50
    shown = f"{total:,}"
    wait_until(lambda: {row[0]: row[1] for row in page.rows("metrics-table")}.get("shop.shown") == shown, shown)
    routes = {row[0]: row for row in page.rows("routes")}
    assert routes["GET /page/<int:number>"][6] == shown
    assert float(page.text("#figures dd").split()[0].replace(",", "")) > 0


@pytest.mark.thorough
def test_keys_search_ranges_and_pause_are_kept_in_the_address(page: Page, gunicorn: Callable[..., Gunicorn]) -> None:
    server = gunicorn(workers=2)
    server.get("/page/1")
    page.open(live(server))
    for key in ("2", "p", "/"):
        page.browser.press(key)
    assert page.run("return document.activeElement.id") == "search"
    page.browser.press("shop.")
    wait_until(lambda: [row[0] for row in page.rows("metrics-table")] == ["shop.shown"], "the search")
    address = page.run("return location.href")
    assert {"range=3600", "paused=1", "q=shop."} == set(address.partition("#")[2].split("&"))
    page.browser.open("about:blank")
    page.browser.open(address)
    page.wait_for_state("paused")
    wait_until(lambda: [row[0] for row in page.rows("metrics-table")] == ["shop.shown"], "the same again")
    assert page.run("return document.querySelector('[aria-pressed=true]').dataset.range") == "3600"


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_one_column_and_axe_finds_nothing_serious(
    page: Page, gunicorn: Callable[..., Gunicorn], axe: str, scheme: str
) -> None:
    server = gunicorn(workers=2)
    for path in ("/page/1", "/fails", "/nothing-here"):
        server.get(path)
    for width in (360, 1280):
        page.browser.emulate(width, scheme=scheme)
        page.open(live(server))
        wait_until(lambda: page.rows("workers") and page.run("return !!document.querySelector('canvas')"), "all of it")
        assert page.run("return document.documentElement.scrollWidth") <= width
        page.run(axe)
        found = page.run("return axe.run()")
        serious = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
        assert [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in serious] == []


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of axe-core, downloaded with npm."""
    directory = tmp_path_factory.mktemp("axe")
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    packed = subprocess.run(["npm", "pack", "axe-core@4"], cwd=directory, capture_output=True, text=True, timeout=120)
    if packed.returncode:
        pytest.skip(f"axe-core is not available: {packed.stderr[-200:]}")
    with tarfile.open(directory / packed.stdout.strip().splitlines()[-1]) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


@pytest.mark.thorough
def test_the_page_loads_its_files_below_a_prefix_and_behind_nginx(
    page: Page, gunicorn: Callable[..., Gunicorn], nginx: Callable[[int], int]
) -> None:
    server = gunicorn(prefix="/ops", config=f"api: {{token: {TOKEN}}}\n", workers=2)
    server.get("/page/1")
    page.open(live(server, "/ops"))
    assert "GET /page/<int:number>" in [row[0] for row in page.rows("routes")]
    port = nginx(server.port)
    page.browser.open(f"http://127.0.0.1:{port}/inner/shop/ops/stats/live")
    page.wait_for_state("live")
    assert "GET /page/<int:number>" in [row[0] for row in page.rows("routes")]


TOKEN = "correct-horse"

NGINX = """
daemon off; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {directory}/1; proxy_temp_path {directory}/2; fastcgi_temp_path {directory}/3;
  uwsgi_temp_path {directory}/4; scgi_temp_path {directory}/5;
  server {{
    listen 127.0.0.1:{port};
    location /inner/shop/ {{ proxy_pass http://127.0.0.1:{upstream}/; }}
  }}
}}
"""


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Callable[[int], int]]:
    """Start nginx before a port, and return its own."""
    import socket

    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed (Debian: apt install nginx-light)")
    started: list[subprocess.Popen[bytes]] = []

    def nginx(upstream: int) -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        (tmp_path / "nginx").mkdir()
        config = tmp_path / "nginx" / "nginx.conf"
        config.write_text(NGINX.format(directory=tmp_path / "nginx", port=port, upstream=upstream))
        started.append(subprocess.Popen([program, "-c", str(config), "-p", str(tmp_path / "nginx")]))

        def answers() -> bool:
            with socket.socket() as connection:
                return connection.connect_ex(("127.0.0.1", port)) == 0

        wait_until(answers, "nginx")
        return port

    yield nginx
    for process in started:
        process.terminate()
        process.wait(30)


@pytest.mark.thorough
def test_the_token_is_requested_once_and_kept_in_memory_only(
    page: Page, gunicorn: Callable[..., Gunicorn], ask: Callable[[Gunicorn, str], Any]
) -> None:
    server = gunicorn(config=f"api: {{token: {TOKEN}, protect: all}}\n", workers=3)
    ask(server, "/wait")
    page.browser.open(live(server))
    form = wait_until(lambda: page.run("return !document.getElementById('token-form').hidden"), "the form")
    assert form
    wait_until(lambda: "The figures are protected" in page.text("#token-label"), "what is protected")
    give_token(page, "wrong")
    wait_until(lambda: "token is wrong" in page.text("#token-note"), "the error for a wrong token")
    give_token(page, TOKEN)
    page.wait_for_state("live")
    wait_until(lambda: serving(page, "GET /wait"), "the content of the page")
    assert page.run("return document.getElementById('token-form').hidden")
    kept = page.run("return JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
    assert TOKEN not in kept
    page.run("location.reload()")
    wait_until(lambda: page.run("return !document.getElementById('token-form').hidden"), "the form again")


def give_token(page: Page, token: str) -> None:
    page.run("document.getElementById('token').value = arguments[0]", token)
    page.run("document.getElementById('token-form').requestSubmit()")


@pytest.mark.thorough
def test_the_page_shows_that_the_server_is_gone_and_that_it_is_back(
    page: Page, gunicorn: Callable[..., Gunicorn]
) -> None:
    server = gunicorn(workers=2)
    server.get("/page/1")
    page.open(live(server))
    server.stop()
    page.wait_for_state("lost")
    assert page.text("#status").startswith("disconnected since ")
    server.start()
    page.wait_for_state("live")
    wait_until(lambda: "the application was started at" in page.text("#events"), "the mark of the start", 90)


@pytest.mark.thorough
def test_ten_thousand_series_make_no_task_longer_than_50_ms(page: Page, gunicorn: Callable[..., Gunicorn]) -> None:
    many = SITE_OF_MANY
    server = gunicorn(site=many, workers=1, config="")
    assert server.get("/fill")[1] == "filled"
    page.open(live(server))
    page.run(
        "window.long = []; new PerformanceObserver(list => long.push(...list.getEntries().map(e => e.duration)))"
        ".observe({type: 'longtask'})"
    )
    wait_until(lambda: "10,0" in page.text("#found"), "the number of series")
    page.browser.press("/")
    page.browser.press('user="77')
    wait_until(lambda: "of 10,0" in page.text("#found"), "the search")
    time.sleep(6)  # of polls
    asked = "performance.getEntriesByType('resource').filter(e => e.name.includes('live/data'))"
    sizes = page.run(f"return {asked}.map(e => e.transferSize)")
    assert max(sizes) <= 30_000
    # On a busy machine the browser is preempted: long tasks are then not caused by the page.
    assert sorted(page.run("return long"))[:-1] == [] or os.getloadavg()[0] > os.cpu_count()  # type: ignore[operator]


SITE_OF_MANY = """
from flask import Flask
import shmstats
from shmstats import stats
from shmstats.web import blueprint
shmstats.init({"path": {"data": "data"}, "stats": {"max_workers": 4, "max_series_per_metric": 20000}})
app = Flask(__name__)
app.register_blueprint(blueprint)

@app.get("/fill")
def fill():
    counter = stats.counter("shop", "visits", labelnames=("user",))
    for number in range(10_000):
        counter.labels(str(number)).incr(number)
    return "filled"
"""
