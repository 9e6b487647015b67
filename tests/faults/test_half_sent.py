"""``shmstats serve`` and ``scripts/serve`` answer within a second beside clients with incomplete requests."""

from __future__ import annotations

import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import urlopen

import pytest
from helpers import BOUND, wait_until

ROOT = Path(__file__).parents[2]

#: The bound of an answer in seconds, without the delays of a busy machine.
WITHIN = 1.0


@pytest.fixture(params=["shmstats serve", "scripts/serve"])
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """The port of a server with two workers."""
    (tmp_path / "data").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    serve = "from shmstats.cli import main; main()"
    command = {
        "shmstats serve": ["-c", serve, "serve", "--bind", f"127.0.0.1:{number}"],
        "scripts/serve": [str(ROOT / "scripts" / "example_server.py"), "--port", str(number)],
    }[request.param]
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(
        [sys.executable, *command, "--data", str(tmp_path / "data"), "--workers", "2"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        wait_until(lambda: len(re.findall(rb"Booting worker", (tmp_path / "log").read_bytes())) == 2)
        urlopen(f"http://127.0.0.1:{number}/stats", timeout=BOUND).close()
        yield number
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(BOUND) == 0
        log.close()


def answers_in_time(port: int) -> None:
    """Send repeated requests: the fastest answer of `/stats`, which may wait for a save, and half of the others count.

    An answer may be slow because another process has the processor.
    """
    assert min(seconds(port, "/stats", 200) for _ in range(3)) < WITHIN
    took = sorted(seconds(port, "/stats/none", 404) for _ in range(8))
    assert took[4] < WITHIN, took


def seconds(port: int, path: str, status: int) -> float:
    """Return how long an answer takes."""
    begun = time.monotonic()
    connection = HTTPConnection("127.0.0.1", port, timeout=BOUND)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
    finally:
        connection.close()
    return time.monotonic() - begun


def connections(stack: ExitStack, port: int, number: int, sent: bytes) -> list[socket.socket]:
    opened = []
    for _ in range(number):
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), BOUND))
        connection.sendall(sent)
        opened.append(connection)
    return opened


def all_the_time(stack: ExitStack, act: Callable[[], None]) -> None:
    """Repeat a function in a thread until the stack is left."""
    done = threading.Event()

    def run() -> None:
        while not done.is_set():
            act()

    thread = threading.Thread(target=run)
    thread.start()
    stack.callback(thread.join)
    stack.callback(done.set)


def test_two_hundred_incomplete_requests_do_not_block_other_clients(port: int) -> None:
    with ExitStack() as stack:
        connections(stack, port, 100, b"GET /stats HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        connections(stack, port, 100, b"")
        answers_in_time(port)


def test_slow_endless_and_large_requests_do_not_block_other_clients(port: int) -> None:
    request = b"POST /stats HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    large = b"GET /stats HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Large: " + b"x" * 1_000_000 + b"\r\n\r\n"
    with ExitStack() as stack:
        slow = connections(stack, port, 100, b"GET /")
        endless = connections(stack, port, 10, request)

        def trickle() -> None:
            for connection in slow:
                with_errors(connection, b"x")
            time.sleep(0.5)

        def pour() -> None:
            for connection in endless:
                with_errors(connection, b"5\r\nhello\r\n")
            time.sleep(0.01)

        def send_large() -> None:
            with socket.create_connection(("127.0.0.1", port), BOUND) as connection:
                with_errors(connection, large)
            time.sleep(0.02)

        for act in (trickle, pour, send_large):
            all_the_time(stack, act)
        answers_in_time(port)


@pytest.mark.thorough
def test_a_client_that_does_not_finish_its_request_is_disconnected(port: int) -> None:
    with ExitStack() as stack:
        waiting = connections(stack, port, 20, b"GET /stats HTTP/1.1\r\n")
        with selectors.DefaultSelector() as selector:
            for connection in waiting:
                selector.register(connection, selectors.EVENT_READ)
            gone: set[int] = set()
            deadline = time.monotonic() + BOUND
            while len(gone) < len(waiting) and time.monotonic() < deadline:
                for key, _ in selector.select(1):
                    gone.add(key.fd)
                    selector.unregister(key.fileobj)
            assert len(gone) == len(waiting)


def with_errors(connection: socket.socket, content: bytes) -> None:
    """Send to a server that may have disconnected."""
    try:
        connection.sendall(content)
    except OSError:
        return
