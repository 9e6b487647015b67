"""Many clients at once on every endpoint, some of them slow or sending garbage; and a StatsD server that does not read.

The answers stay right, every counted request is counted once, and the memory of the server does not grow: its
figures are in the report of the test (``pytest -rP``).
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from servers import Gunicorn

WORKERS = ("--worker-class", "gthread", "--workers", "2", "--threads", "8")

#: Paths, and a text that the answer must contain.
ENDPOINTS = {
    "/stats": b'"simple"',
    "/stats?format=prometheus": b"# TYPE requests_total counter",
    "/stats/prometheus": b"# TYPE requests_total counter",
    "/debug/goroutines": b'"goroutine"',
    "/debug/threads": b'"goroutine"',
    "/debug/pool/bytes": b'"workers"',
    "/_local/files/_list": b'"disk"',
    "/_local/files/stats/_list": b'"disk"',
    "/hit": b"",
}


@pytest.fixture
def stuck_statsd() -> Iterator[int]:
    """The port of a server that accepts connections and never reads."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


class Crowd:
    """Clients of a server, for some seconds.

    Attributes:
        answered: requests with a right answer, by path.
        wrong: the wrong answers.
    """

    def __init__(self, port: int, seed: int) -> None:
        self._port, self._chance = port, random.Random(seed)
        self.answered: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def come(self, clients: int, slow: int, rude: int, seconds: float) -> None:
        """Connect this many clients of each kind at the same time."""
        self._end = time.monotonic() + seconds
        kinds = [self._polite] * clients + [self._slow] * slow + [self._rude] * rude
        await asyncio.gather(*(kind() for kind in kinds))

    async def _polite(self) -> None:
        while time.monotonic() < self._end:
            path = self._chance.choice(list(ENDPOINTS))
            self.sent[path] += 1
            answer = await self._exchange(self._request(path))
            if answer.startswith(b"HTTP/1.1 200 ") and ENDPOINTS[path] in answer and self._is_whole(answer):
                self.answered[path] += 1
            else:
                self.wrong.append(f"{path}: {answer[:200]!r}")

    async def _slow(self) -> None:
        """Send a request byte by byte, without its end."""
        while time.monotonic() < self._end:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            for byte in self._request("/hit?slow")[:-4]:
                if time.monotonic() > self._end:
                    break
                writer.write(bytes([byte]))
                await asyncio.sleep(0.05)
            writer.close()

    async def _rude(self) -> None:
        """Send bytes that are not a request, or a request that is too large."""
        while time.monotonic() < self._end:
            way = self._chance.randrange(4)
            if way == 0:
                content = self._chance.randbytes(3000)
            elif way == 1:
                content = b"GET /stats HTTP/1.1\r\nHost: x\r\nX-Large: " + b"x" * 1_000_000 + b"\r\n\r\n"
            elif way == 2:
                content = b"GET /" + b"%2e%2e/" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
            else:
                content = b"DELETE /_local/files/%00..%2f HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
            answer = await self._exchange(content)
            if answer and not answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")):
                self.wrong.append(f"to garbage of kind {way}: {answer[:200]!r}")

    def _request(self, path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nConnection: close\r\n\r\n".encode()

    async def _exchange(self, content: bytes) -> bytes:
        """Send bytes and return the answer; empty if the server disconnects."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(content)
            answer = await asyncio.wait_for(reader.read(), 60)
            writer.close()
        except ConnectionError:
            return b""
        return answer

    @staticmethod
    def _is_whole(answer: bytes) -> bool:
        head, _, body = answer.partition(b"\r\n\r\n")
        if b"application/json" in head:
            json.loads(body)
        return True


def memory(server: Gunicorn) -> int:
    """The private memory of the workers in bytes."""
    return sum(psutil.Process(pid).memory_full_info().uss for pid in server.workers())


def crowd(tmp_path: Path, statsd: int, clients: int, seconds: float) -> None:
    config = f"path: {{data: data}}\nstatsd: {{enabled: true, host: 127.0.0.1, port: {statsd}, protocol: tcp}}\n"
    with Gunicorn(tmp_path, *WORKERS, config=config) as server:
        server.get("/hit")
        (tmp_path / "data" / "stats").mkdir(parents=True, exist_ok=True)
        people = Crowd(server._port, clients)
        people.answered["/hit"] = people.sent["/hit"] = 1
        figures = []
        for part in range(3):
            asyncio.run(people.come(clients, 4, 4, seconds / 3))
            figures.append(memory(server))
            print(f"after {sum(people.sent.values())} requests: {figures[part] / 1e6:.1f} MB in all workers")
        assert people.wrong == []
        assert set(people.answered) == set(ENDPOINTS)
        assert server.total() == people.answered["/hit"] == people.sent["/hit"]
        assert figures[2] - figures[1] < 8e6, figures


@pytest.mark.thorough
def test_many_clients_get_right_answers_and_the_memory_does_not_grow(tmp_path: Path, stuck_statsd: int) -> None:
    crowd(tmp_path, stuck_statsd, clients=30, seconds=3)


@pytest.mark.storm
def test_200_clients_for_a_minute_get_right_answers_and_the_memory_does_not_grow(
    tmp_path: Path, stuck_statsd: int
) -> None:
    crowd(tmp_path, stuck_statsd, clients=200, seconds=60)
