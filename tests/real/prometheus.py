"""A real Prometheus for tests: its own directory, a port that the kernel chose, its HTTP API."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from servers import BOUND, wait_until

#: The Accept header of a Prometheus without OpenMetrics.
TEXT_ONLY = "text/plain;version=0.0.4;q=1,*/*;q=0.1"

_CONFIGURATION = """
global: {{scrape_interval: {interval}, scrape_timeout: {interval}}}
scrape_configs:
{jobs}
"""

_JOB = """
  - job_name: {name}
    metrics_path: /stats/prometheus
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def program(name: str) -> str:
    """Path of a program of Debian's package ``prometheus``; skips the test if it is not installed."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed, and CI must test with it")
        pytest.skip(f"{name} is not installed (Debian: prometheus)")
    return found


class Prometheus:
    """A Prometheus that scrapes servers of this machine.

    Args:
        directory: for its data and its log.
        jobs: for each job's name the port that it scrapes.
        interval: between two scrapes.
        config: a whole configuration, instead of one of the jobs.
        options: further ones of the command.
        command: the program; None for the one that is installed.
    """

    def __init__(
        self,
        directory: Path,
        jobs: dict[str, int],
        interval: str = "500ms",
        config: str | None = None,
        options: tuple[str, ...] = (),
        command: str | None = None,
    ) -> None:
        self._program = command or program("prometheus")
        self.log = directory / "prometheus.log"
        self._data = directory / "prometheus"
        self._config = directory / "prometheus.yml"
        listed = "".join(_JOB.format(name=name, port=port) for name, port in jobs.items())
        self._config.write_text(_CONFIGURATION.format(interval=interval, jobs=listed) if config is None else config)
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._address = ""

    def __enter__(self) -> Prometheus:
        command = [
            self._program, f"--config.file={self._config}", f"--storage.tsdb.path={self._data}",
            "--web.listen-address=127.0.0.1:0", "--log.level=debug", *self._options,
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        port = wait_until(self._port, "Prometheus' port")
        self._address = f"http://127.0.0.1:{port}"
        wait_until(self._ready, "Prometheus")
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(BOUND)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(BOUND)

    @property
    def address(self) -> str:
        """The URL of its API, without a slash at the end."""
        return self._address

    def _port(self) -> int:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        for connection in psutil.Process(self._process.pid).net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                return int(connection.laddr.port)
        return 0

    def _ready(self) -> bool:
        try:
            self._get("/-/ready")
        except urllib.error.HTTPError:
            return False
        return True

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(self._address + path, timeout=BOUND) as response:
            text: str = response.read().decode()
            return text

    def query(self, expression: str) -> dict[str, float]:
        """The results of an instant query, by job."""
        return {sample["metric"].get("job", ""): float(sample["value"][1]) for sample in self.samples(expression)}

    def samples(self, expression: str) -> list[dict[str, Any]]:
        """The result of a query, in the form of the API."""
        answer = json.loads(self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}"))
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def exemplars(self, expression: str, since: float) -> dict[str, dict[str, str]]:
        """The labels of the last exemplar of each metric."""
        asked = urllib.parse.urlencode({"query": expression, "start": since, "end": since + 3600})
        answer = json.loads(self._get(f"/api/v1/query_exemplars?{asked}"))
        return {each["seriesLabels"]["__name__"]: each["exemplars"][-1]["labels"] for each in answer["data"]}

    def types(self) -> dict[str, str]:
        """The type of every metric family by the last scrapes."""
        answer = json.loads(self._get("/api/v1/metadata"))
        return {family: entries[0]["type"] for family, entries in answer["data"].items()}

    def targets(self) -> dict[str, str]:
        """The error of each job's last scrape; empty if there was none."""
        answer = json.loads(self._get("/api/v1/targets"))
        return {each["labels"]["job"]: each["lastError"] for each in answer["data"]["activeTargets"]}

    def failure(self, moment: float) -> str:
        """The log's line on a failed scrape, nearest to a moment in seconds since 1970."""
        lines = [line for line in self.log.read_text().splitlines() if "Scrape failed" in line]
        return min(lines, key=lambda line: abs(_moment(line) - moment), default="its log says nothing")

    def own(self) -> dict[str, float]:
        """Prometheus' metrics about itself."""
        lines = [line.rpartition(" ") for line in self._get("/metrics").splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    def complaints(self) -> list[str]:
        """The lines of its log in which it refused a sample or a scrape."""
        words = ("level=error", "Error on ingesting", "Append failed", "out of order", "out-of-order")
        return [line for line in self.log.read_text().splitlines() if any(word in line for word in words)]


def _moment(line: str) -> float:
    """When a line was logged, in seconds since 1970."""
    stamp = line.partition("ts=")[2].partition(" ")[0]
    return datetime.fromisoformat(stamp).timestamp()


class TextOnlyProxy:
    """A proxy that passes requests on with an Accept header without OpenMetrics.

    Attributes:
        accepted: the Accept headers of the clients.
    """

    def __init__(self, port: int) -> None:
        self.accepted: set[str] = set()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                proxy.accepted.add(self.headers["Accept"])
                request = urllib.request.Request(f"http://127.0.0.1:{port}{self.path}", headers={"Accept": TEXT_ONLY})
                try:
                    with urllib.request.urlopen(request, timeout=BOUND) as response:
                        status, kind, body = response.status, response.headers["Content-Type"], response.read()
                except OSError:
                    status, kind, body = 502, "text/plain", b""
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                with suppress(BrokenPipeError, ConnectionResetError):  # the client has disconnected
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def port(self) -> int:
        """The address where it listens."""
        return int(self._server.server_address[1])

    def __enter__(self) -> TextOnlyProxy:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(BOUND)
