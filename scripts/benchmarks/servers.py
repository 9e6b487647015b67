"""gunicorn with a site, and wrk against it. Everything is on loopback, on a port that the kernel chose."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .subjects import NotAvailableError, find_program, package_path

#: The bound of every wait in seconds.
_BOUND = 60.0

_SCALES = {"us": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9}


class Server:
    """gunicorn with an application of ``benchmarks.sites``.

    Args:
        application: its name there.
        directory: for the server's files, empty.
        workers: processes.
        environment: additions to the environment of this process.

    Raises:
        NotAvailableError: it does not start.
    """

    def __init__(self, application: str, directory: str, workers: int, **environment: str) -> None:
        self._log = Path(directory, "gunicorn.log")
        config = Path(__file__).with_name("gunicorn_config.py")
        command = [
            sys.executable, "-P", "-m", "gunicorn", "--bind", "127.0.0.1:0", "--workers", str(workers),
            "--config", str(config), f"benchmarks.sites:{application}()",
        ]  # fmt: skip
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": package_path(), "SHMSTATS_PURE": ""} | environment,
                start_new_session=True,
            )
        try:
            self.port = int(self._wait(self._listening)[1])
            self._wait(lambda: len(self.workers()) >= workers)
            self._wait(lambda: self.get("/hello")[0] == 200)
        except BaseException:
            self.close()
            raise

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of the answer to a request on a separate connection; 0 without an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_BOUND)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def cpu_ns(self) -> int:
        """Return the CPU time of the workers in ns."""
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in self.workers())

    def workers(self) -> list[int]:
        """Return the pids of the workers."""
        found = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return [int(pid) for pid in found.split()]

    def close(self) -> None:
        """Stop it, and wait for its end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_BOUND)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _listening(self) -> re.Match[str] | None:
        return re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", self._log.read_text())

    def _wait(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + _BOUND
        while not (value := condition()):
            if self._process.poll() is not None or time.monotonic() > end:
                raise NotAvailableError(f"gunicorn does not serve: {self._log.read_text()[-2000:]}")
            time.sleep(0.02)
        return value


class Load(NamedTuple):
    """The result of wrk.

    Attributes:
        requests: that were answered.
        rate: requests a second.
        p50: median of the latency, in ns.
        p99: its 99th percentile, in ns.
        failed: answers that were not 2xx or 3xx, and errors of sockets.
    """

    requests: int
    rate: float
    p50: float
    p99: float
    failed: int


class Wrk:
    """One run of wrk in the background.

    Args:
        url: to ask for.
        seconds: how long.
        connections: at a time.
    """

    def __init__(self, url: str, seconds: float, connections: int) -> None:
        command = [find_program("wrk"), "--latency", "-t1", f"-c{connections}", f"-d{seconds:g}s", url]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def result(self) -> Load:
        """Wait for the end and return the result.

        Raises:
            NotAvailableError: it failed.
        """
        said, _ = self._process.communicate()
        if self._process.returncode:
            raise NotAvailableError(f"wrk failed: {said}")
        return parse(said)


def parse(said: str) -> Load:
    """Parse the output of wrk."""
    requests = _number(r"(\d+) requests in", said)
    failed = _number(r"Non-2xx or 3xx responses: (\d+)", said)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    failed += sum(map(int, errors.groups())) if errors else 0
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    return Load(requests, float(rate[1]) if rate else 0.0, _percentile("50", said), _percentile("99", said), failed)


def _number(pattern: str, said: str) -> int:
    found = re.search(pattern, said)
    return int(found[1]) if found else 0


def _percentile(which: str, said: str) -> float:
    found = re.search(rf"^\s+{which}%\s+([\d.]+)(us|ms|s|m)$", said, re.MULTILINE)
    return float(found[1]) * _SCALES[found[2]] if found else float("nan")
