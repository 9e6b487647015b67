"""Real servers for tests: started, watched and ended by pid, on loopback, on a port that the kernel chose."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from gunicorn.config import KNOWN_SETTINGS

BOUND = 30.0  # seconds; the bound of every wait

#: Keeps gunicorn from making a control socket beside the data; old versions make none.
WITHOUT_SOCKET = ["--no-control-socket"] if any("--no-control-socket" in (s.cli or ()) for s in KNOWN_SETTINGS) else []

#: Worker classes of gunicorn, and the options for four workers of each.
KINDS = {
    "sync": ("--worker-class", "sync", "--workers", "4"),
    "gthread": ("--worker-class", "gthread", "--workers", "4", "--threads", "3"),
}

SITE = """
import os
from flask import Flask
from shmstats import stats
from shmstats.web import blueprint

app = Flask(__name__)
app.register_blueprint(blueprint)


@app.get("/hit")
def hit():
    stats.incr("requests", "total")
    return str(os.getpid())
"""


def wait_until(condition: Callable[[], Any], what: str, bound: float = BOUND) -> Any:
    """Wait for a condition to become true and return its value; fail after the bound."""
    end = time.monotonic() + bound
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"waited {bound} s without success for: {what}"
        time.sleep(0.02)


class Gunicorn:
    """gunicorn with a site whose handler counts, in a separate directory."""

    def __init__(self, directory: Path, *options: str, site: str = SITE, config: str = "") -> None:
        self.directory = directory
        (directory / "site_under_test.py").write_text(site)
        (directory / "shmstats.yml").write_text(config or "path: {data: data}\n")
        self.log = directory / "gunicorn.log"
        self.pidfile = directory / "gunicorn.pid"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def port(self) -> int:
        """The address where it listens, once it has started."""
        return self._port

    @property
    def master(self) -> int:
        """The pid of the master that was started."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Gunicorn:
        """Start the server and wait until it answers."""
        self.log.write_bytes(b"")
        command = [
            str(Path(sys.executable).with_name("gunicorn")), "--bind", f"127.0.0.1:{self._port}", *WITHOUT_SOCKET,
            "--pid", str(self.pidfile), "--graceful-timeout", "20", *self._options, "site_under_test:app",
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.directory, stdout=log, stderr=log, start_new_session=True
            )
        listening = re.compile(r"Listening at: http://127\.0\.0\.1:(\d+)")
        self._port = int(wait_until(lambda: listening.search(self.log.read_text()), "a listening port", 3 * BOUND)[1])
        wait_until(self._answers, "an answer", 3 * BOUND)  # on a busy machine an import alone can take long
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            return self.get("/nothing-here")[0] == 404
        except OSError:
            return False

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        """Status and body of one request, on a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=BOUND)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def document(self) -> dict[str, Any]:
        """The document of /stats."""
        status, body = self.get("/stats")
        assert status == 200, body
        loaded: dict[str, Any] = json.loads(body)
        return loaded

    def total(self) -> int:
        """The value of requests.total in /stats."""
        value: int = self.document()["simple"].get("requests", {}).get("total", 0)
        return value

    def signal(self, number: int) -> None:
        os.kill(self.master, number)

    def workers(self) -> set[int]:
        """The pids of the master's children."""
        return children(self.master)

    def kill_group(self) -> None:
        """Kill -9 of every process at once."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(BOUND)
        wait_until(lambda: not group_lives(self.master), "the end of the group")

    def stop(self) -> None:
        """Stop in an orderly way, and wait for it."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(BOUND)
            wait_until(lambda: not group_lives(self.master), "the end of the group")

    def __enter__(self) -> Gunicorn:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        try:
            self.stop()
        finally:
            if group_lives(self.master):
                os.killpg(self.master, signal.SIGKILL)


def children(pid: int) -> set[int]:
    """The pids of a process's children, zombies left out."""
    found = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError):  # the thread has ended
            found |= {int(child) for child in task.read_text().split()}
    return {child for child in found if _state(child) not in ("Z", "")}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def group_lives(group: int) -> bool:
    """Whether the group has a process that is not a zombie."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False


class Answering(Protocol):
    """A server that can be asked."""

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of one request."""


class Load:
    """Sends requests from several threads until it is stopped, and records the answers."""

    def __init__(self, server: Answering, path: str = "/hit", threads: int = 4) -> None:
        self.answered: Counter[str] = Counter()  # by body
        self.failed = 0
        self._server, self._path = server, path
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                status, body = self._server.get(self._path)
            except OSError:
                status, body = 0, ""
            except http.client.HTTPException:
                status, body = 0, ""
            with self._lock:
                if status == 200:
                    self.answered[body] += 1
                else:
                    self.failed += 1

    @property
    def total(self) -> int:
        """How many requests were answered."""
        with self._lock:
            return sum(self.answered.values())

    def more(self, number: int) -> None:
        """Wait until that many more were answered."""
        goal = self.total + number
        wait_until(lambda: self.total >= goal, f"{number} more answers", 60)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more requests, and wait for the outstanding answers."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(BOUND)
