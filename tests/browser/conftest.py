"""A real browser, Debian's chromium, and a site under gunicorn with the live page."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[1] / "real"), str(Path(__file__).parents[2] / "scripts")]

from servers import Gunicorn, wait_until  # noqa: E402
from webdriver import Browser, browser  # noqa: E402

import shmstats  # noqa: E402

SITE = """
import os, re, time
from flask import Flask
import shmstats  # noqa: E402
from shmstats import stats
from shmstats.integrations.flask import ShmStats

shmstats.init("shmstats.yml")
app = Flask(__name__)
ShmStats(app, url_prefix=os.environ.get("OPS_PREFIX"))

@app.get("/page/<int:number>")
def page(number):
    stats.incr("shop", "shown")
    return str(number)

@app.get("/fails")
def fails():
    stats.incr("shop", '<img src=x onerror="document.title=1">', labels={"a": "<script>document.title=2</script>"})
    return "no", 500

@app.get("/regex")
def regex():
    return str(re.match(r"(a+)+$", "a" * 40 + "b"))

@app.get("/wait")
def wait():
    time.sleep(300)
    return "waited"
"""


class Page:
    """The live page in a separate browser."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.run = browser.run

    def open(self, address: str, state: str = "live") -> Page:
        """Go to an address, and wait until the page is in a state."""
        self.browser.open(address)
        return self.wait_for_state(state)

    def wait_for_state(self, state: str) -> Page:
        """Wait until the page shows that it is in a state."""
        wait_until(lambda: self.run("return document.getElementById('status')?.dataset.state") == state, state, 90)
        return self

    def text(self, selector: str) -> str:
        """The text of an element."""
        found: str = self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
        return found

    def rows(self, table: str) -> list[list[str]]:
        """The cells of a table's rows."""
        rows = "document.querySelectorAll(`#${arguments[0]} tbody tr`)"
        found: list[list[str]] = self.run(f"return [...{rows}].map(r => [...r.cells].map(c => c.innerText))", table)
        return found


@pytest.fixture
def page() -> Iterator[Page]:
    """A browser without an open page."""
    try:
        with browser() as opened:
            yield Page(opened)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def gunicorn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Gunicorn]]:
    """Start gunicorn with 4 workers and the site, with lines of configuration."""
    monkeypatch.setenv("PYTHONPATH", str(Path(shmstats.__file__).parents[1]), prepend=os.pathsep)
    started: list[Gunicorn] = []

    def gunicorn(config: str = "", prefix: str = "", site: str = SITE, workers: int = 4) -> Gunicorn:
        monkeypatch.setenv("OPS_PREFIX", prefix)
        directory = tmp_path / f"site{len(started)}"
        directory.mkdir()
        options = ("--workers", str(workers), "-c", "python:shmstats.integrations.gunicorn", "--timeout", "600")
        settings = f"path: {{data: data}}\nstats: {{capacity: 65536, max_workers: 16}}\n{config}"
        server = Gunicorn(directory, *options, site=site, config=settings)
        started.append(server)
        return server.start()

    yield gunicorn
    for server in started:
        with suppress(OSError):
            for worker in server.workers():
                os.kill(worker, signal.SIGCONT)
        with suppress(OSError):
            server.kill_group()
        _unlink_block(server.data)


def _unlink_block(data: Path) -> None:
    """Remove the block of a server that was killed."""
    from shmstats.attachment.peers import remove_stale
    from shmstats.block import Block

    with suppress(OSError, shmstats.BlockError):
        block = Block.attach(data, 65536, 16)
        remove_stale(block.name, ())
        block.leave()


@pytest.fixture
def ask() -> Callable[[Gunicorn, str], threading.Thread]:
    """Ask a server for a path, and do not wait for the answer."""

    def ask(server: Gunicorn, path: str) -> threading.Thread:
        def get() -> None:
            with suppress(OSError):
                server.get(path)

        thread = threading.Thread(target=get, daemon=True)
        thread.start()
        return thread

    return ask
