"""Under real gunicorn any worker's debug endpoints report all workers, also stopped and busy ones."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import SHARED_MEMORY, process_state, segment_of
from servers import BOUND, SITE, Gunicorn, wait_until

#: Every worker has three threads that wait forever, and five tasks in a loop.
OCCUPIED_SITE = (
    SITE
    + """

import asyncio, signal, threading, time


def waiting_room():
    threading.Event().wait()


async def task():
    await asyncio.sleep(3600)


async def tasks():
    await asyncio.gather(*[task() for _ in range(5)])


for _ in range(3):
    threading.Thread(target=waiting_room, daemon=True).start()
threading.Thread(target=lambda: asyncio.run(tasks()), daemon=True).start()
stats.incr("boots", "worker")


@app.get("/nap")
def nap():
    with open("napping", "w") as file:
        file.write(str(os.getpid()))
    os.rename("napping", "napper")
    time.sleep(3600)
"""
)

OPTIONS = ("--worker-class", "sync", "--workers", "4", "--timeout", "300")

STOPPED = "no answer: the worker is stopped, by a signal or a debugger"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Gunicorn]:
    with Gunicorn(tmp_path, *OPTIONS, site=OCCUPIED_SITE) as running:
        wait_until(lambda: live_workers(running) == running.workers() and len(running.workers()) == 4, "4 workers")
        yield running
    assert sockets_and_block(running.data) == []


def answer(server: Gunicorn, path: str) -> Any:
    status, body = server.get(path)
    assert status == 200, body
    return json.loads(body)


def live_workers(server: Gunicorn) -> set[int]:
    """The pids of the processes that count into the block."""
    return {worker["pid"] for worker in answer(server, "/debug/pool/bytes")["workers"]}


def sockets_and_block(data: Path) -> list[str]:
    return [name for name in os.listdir(SHARED_MEMORY) if name.startswith(segment_of(data))]


def entries(told: list[dict[str, Any]], part: str) -> list[tuple[int, list[int]]]:
    """Count and pids of the entries whose stack has a text in it."""
    return [(entry["count"], entry["pids"]) for entry in told if part in entry["goroutine"]]


def counts_are_right(told: list[dict[str, Any]], answering: set[int]) -> bool:
    """Return whether the three threads and five tasks of each worker are shown, and all have started."""
    pids = sorted(answering)
    return entries(told, "in waiting_room") == [(3 * len(pids), pids)] and entries(told, "asyncio task\n") == [
        (5 * len(pids), pids),
        (len(pids), pids),
    ]


@pytest.fixture
def napper(server: Gunicorn) -> Iterator[int]:
    """The pid of a worker that is inside a long sleep, in a request."""

    def nap() -> None:
        try:
            server.get("/nap")
        except OSError:
            return  # the worker is ended during its sleep

    request = threading.Thread(target=nap)
    request.start()
    noted = server.directory / "napper"
    wait_until(noted.exists, "a worker inside a long sleep")
    pid = int(noted.read_text())
    wait_until(lambda: "in nap" in server.get("/debug/goroutines")[1], "its sleep in the stacks")
    yield pid
    os.kill(pid, signal.SIGQUIT)
    wait_until(lambda: not psutil.pid_exists(pid), "the end of the sleep")
    request.join(BOUND)


@pytest.fixture
def stop(server: Gunicorn) -> Iterator[Callable[[int], None]]:
    """Stop a process with SIGSTOP, until the end of the test."""
    stopped = []

    def stop(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        stopped.append(pid)
        wait_until(lambda: process_state(pid) == "T", "a stopped process")

    yield stop
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)


def test_stacks_with_a_stopped_and_a_sleeping_worker_are_answered_in_time(
    server: Gunicorn, napper: int, stop: Callable[[int], None]
) -> None:
    workers = server.workers()
    stopped = min(workers - {napper})
    answering = workers - {stopped}
    wait_until(lambda: counts_are_right(answer(server, "/debug/goroutines"), workers), "the right counts")
    stop(stopped)
    start = time.monotonic()
    told = answer(server, "/debug/goroutines")
    assert time.monotonic() - start < 1.5
    assert counts_are_right(told, answering)
    assert entries(told, "in nap") == [(1, [napper])]
    assert [entry for entry in told if stopped in entry["pids"]] == [
        {"goroutine": STOPPED, "count": 1, "pids": [stopped]}
    ]
    threads = [entry["count"] for entry in told if entry["goroutine"].startswith("thread\n")]
    assert sum(threads) == len(answering) * (1 + 3 + 1 + 1), "main, waiting, asyncio's and the agent's threads"
    assert [entry["count"] for entry in told] == sorted((entry["count"] for entry in told), reverse=True)


def test_a_killed_worker_is_not_shown_and_leaves_no_socket(server: Gunicorn) -> None:
    killed = min(server.workers())
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: killed not in server.workers() and len(server.workers()) == 4, "a new worker")
    wait_until(lambda: live_workers(server) == server.workers(), "its place in the block")
    wait_until(lambda: counts_are_right(answer(server, "/debug/goroutines"), server.workers()), "the right counts")
    assert len([name for name in sockets_and_block(server.data) if name.endswith(".sock")]) == 4


def test_a_process_beside_the_site_shows_its_workers(server: Gunicorn, tmp_path: Path) -> None:
    place = tmp_path / "beside"
    place.mkdir()
    config = f"path: {{data: {server.data}}}\n"
    with Gunicorn(place, "--workers", "1", config=config) as beside:
        wait_until(
            lambda: entries(answer(beside, "/debug/goroutines"), "in waiting_room") == [(12, sorted(server.workers()))],
            "the stacks of the site",
        )
        assert live_workers(beside) == server.workers() | beside.workers()


def test_the_master_of_a_preloaded_site_answers_too(tmp_path: Path) -> None:
    site = SITE + '\nstats.incr("boots", "preload")\n'
    with Gunicorn(tmp_path, "--workers", "2", "--preload", site=site) as server:

        def all_are_there() -> bool:
            server.get("/hit")
            told = answer(server, "/debug/pool/bytes")["workers"]
            everybody = server.workers() | {server.master}
            return {worker["pid"] for worker in told if worker["answered"]} == everybody

        wait_until(all_are_there, "the master and its workers")
    assert sockets_and_block(server.data) == []
