"""Reading counts by labels; and peers for middlewares: a WSGI server and an ASGI server in a few lines."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from shmstats.reading.reader import read_only
from shmstats.series import Distribution, Snapshot, Value


class Counts:
    """The values of one moment."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._values = {
            (name.category, name.metric, name.labels): value
            for name, value in zip(snapshot.names, snapshot.values, strict=True)
        }

    def of(self, metric: str, category: str = "http", **labels: str) -> int:
        """Sum of the counters or gauges of a metric that have these labels; of histograms, their observations."""
        return sum(_number(value) for _, value in self._found(category, metric, labels))

    def sum(self, metric: str, category: str = "http", **labels: str) -> float:
        """Sum of the observations of a metric's histograms that have these labels."""
        found = [value for _, value in self._found(category, metric, labels)]
        return sum(value.sum for value in found if isinstance(value, Distribution))

    def values_of(self, label: str, metric: str = "http_requests", category: str = "http") -> set[str]:
        """The values of a label of a metric's series that are not 0."""
        return {labels[label] for labels, value in self._found(category, metric, {}) if _number(value)}

    @property
    def outcomes(self) -> tuple[int, int, int]:
        """Total, success and failed of the category ``requests``."""
        total, success, failed = (self.of(metric, "requests") for metric in ("total", "success", "failed"))
        return total, success, failed

    def _found(self, category: str, metric: str, labels: Mapping[str, str]) -> Iterable[tuple[dict[str, str], Value]]:
        for (its_category, its_metric, its_labels), value in self._values.items():
            if (its_category, its_metric) == (category, metric) and labels.items() <= dict(its_labels).items():
                yield dict(its_labels), value


def _number(value: Value) -> int:
    return value.count if isinstance(value, Distribution) else int(value)


def counts_in(data: Path) -> Counts:
    """The counts in the live block of a data directory."""
    with read_only(data) as reader:
        return Counts(reader.read())


class Answer:
    """The status, headers and chunks that a WSGI server got; it may stop after some chunks, and always closes."""

    def __init__(
        self, app: Any, path: str = "/", method: str = "GET", chunks: int | None = None, **environ: Any
    ) -> None:
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.written: list[bytes] = []
        self.chunks: list[bytes] = []
        self.environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "SCRIPT_NAME": "", "SERVER_NAME": "localhost",
                        "SERVER_PORT": "80", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(),
                        **environ}  # fmt: skip
        self.response = app(self.environ, self._start)
        try:
            for chunk in self.response if chunks != 0 else ():
                self.chunks.append(chunk)
                if len(self.chunks) == chunks:
                    break
        finally:
            if hasattr(self.response, "close"):
                self.response.close()

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        self.status, self.headers = status, headers
        return self.written.append

    @property
    def body(self) -> bytes:
        return b"".join(self.written + self.chunks)


class AsgiCall:
    """One call of an ASGI application: its scope, and the messages in both directions.

    Attributes:
        sent: the messages that the application sent.
        scope: as the application left it.
        error: the exception of the application.
    """

    def __init__(
        self,
        app: Any,
        path: str = "/",
        method: str = "GET",
        *,
        told: Iterable[dict[str, Any]] = ({"type": "http.request", "body": b"", "more_body": False},),
        send: Callable[[dict[str, Any]], Awaitable[None]] | None = None,
        **scope: Any,
    ) -> None:
        self.sent: list[dict[str, Any]] = []
        self.error: BaseException | None = None
        self.scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
                      "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
                      "headers": [], "server": ("localhost", 80), "client": ("127.0.0.1", 4711), **scope}  # fmt: skip
        self._told = list(told)
        self._send = send
        try:
            asyncio.run(app(self.scope, self._receive, self._take))
        except Exception as error:
            self.error = error

    @property
    def status(self) -> int | None:
        started = [message["status"] for message in self.sent if message["type"] == "http.response.start"]
        return started[-1] if started else None

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent if "body" in message)

    async def _receive(self) -> dict[str, Any]:
        return self._told.pop(0) if self._told else {"type": "http.disconnect"}

    async def _take(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        if self._send is not None:
            await self._send(message)
