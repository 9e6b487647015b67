"""``/debug`` reports every worker of the block, also a worker that cannot answer."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from helpers import BOUND, Child, PythonRunner, process_state, segment_file, wait_until

from shmstats.attachment import asking

WORKER = """
import json, sys, threading
import shmstats

shmstats.init(json.loads(sys.argv[1]))
shmstats.stats.incr("work", "done", 3)

def in_the_worker():
    sys.stdin.readline()

thread = threading.Thread(target=in_the_worker)
thread.start()
print("working", flush=True)
thread.join()
shmstats.close()
"""

ENDPOINTS = ("/debug/goroutines", "/debug/threads", "/debug/pool/bytes")


@pytest.fixture
def work(tmp_path: Path, data: Path) -> Iterator[Callable[..., Child]]:
    """Start another process that counts into the block until it reads a line."""
    runner = PythonRunner(tmp_path, Path(asking.__file__).parents[2])

    def work(**stats: Any) -> Child:
        settings = {"capacity": 256, "max_workers": 2, **stats}
        worker = runner.start(WORKER, json.dumps({"path": {"data": str(data)}, "stats": settings}))
        assert worker.hear() == "working"
        return worker

    yield work
    runner.kill_all()


def finish(worker: Child) -> None:
    worker.tell()
    worker.finish()


def answer(client: FlaskClient, path: str) -> Any:
    response = client.get(path)
    assert response.status_code == 200, response.text
    assert response.content_type == "application/json"
    return response.json


def figures_of(client: FlaskClient, pid: int) -> dict[str, Any]:
    (figures,) = [each for each in answer(client, "/debug/pool/bytes")["workers"] if each["pid"] == pid]
    return dict(figures)


@pytest.mark.parametrize("path", ["/debug/goroutines", "/debug/threads"])
def test_the_stacks_of_the_answering_process_are_shown(serve: Callable[..., FlaskClient], path: str) -> None:
    told = answer(serve(), path)
    assert all(set(entry) == {"goroutine", "count", "pids"} for entry in told)
    assert {pid for entry in told for pid in entry["pids"]} == {os.getpid()}
    threads = sum(entry["count"] for entry in told if entry["goroutine"].startswith("thread\n"))
    assert threads == len(sys._current_frames())


def test_the_stacks_of_the_other_workers_are_shown(
    serve: Callable[..., FlaskClient], work: Callable[..., Child]
) -> None:
    workers = [work(), work()]
    client = serve()
    told = answer(client, "/debug/goroutines")
    waiting = [entry for entry in told if entry["goroutine"].endswith("in in_the_worker")]
    assert all(entry["goroutine"].startswith("thread\n  File ") for entry in waiting)
    # The code of each is in a separate file, so the stacks differ.
    found = sorted((entry["pids"], entry["count"]) for entry in waiting)
    assert found == sorted(([worker.pid], 1) for worker in workers)
    assert [entry["count"] for entry in told] == sorted((entry["count"] for entry in told), reverse=True)
    for worker in workers:
        finish(worker)


def test_a_stopped_worker_is_listed_with_its_memory(
    serve: Callable[..., FlaskClient], work: Callable[..., Child]
) -> None:
    stopped, running = work(), work()
    client = serve()
    stopped.signal(signal.SIGSTOP)
    wait_until(lambda: process_state(stopped.pid) == "T")
    told = answer(client, "/debug/goroutines")
    assert [entry for entry in told if stopped.pid in entry["pids"]] == [
        {
            "goroutine": "no answer: the worker is stopped, by a signal or a debugger",
            "count": 1,
            "pids": [stopped.pid],
        }
    ]
    assert any(entry["goroutine"].endswith("in in_the_worker") and entry["pids"] == [running.pid] for entry in told)
    figures = figures_of(client, stopped.pid)
    assert not figures["answered"]
    assert figures["allocator"] is figures["gc"] is None
    assert 0 < figures["uss"] <= figures["rss"]
    stopped.signal(signal.SIGCONT)
    for worker in (stopped, running):
        finish(worker)


def test_a_worker_that_ends_while_it_is_asked_is_not_listed(
    serve: Callable[..., FlaskClient], work: Callable[..., Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = work()
    client = serve()
    ask_all = asking.ask_all

    def ask_late(paths: dict[int, str], question: str) -> dict[int, Any]:
        worker.kill()
        return ask_all(paths, question, 0.1)

    monkeypatch.setattr(asking, "ask_all", ask_late)
    told = answer(client, "/debug/goroutines")
    assert {pid for entry in told for pid in entry["pids"]} == {os.getpid()}


def test_the_use_of_the_block_is_shown(
    serve: Callable[..., FlaskClient], work: Callable[..., Child], data: Path
) -> None:
    worker = work()
    block = answer(serve(), "/debug/pool/bytes")["block"]
    assert {"cells", "names", "heap"} <= set(block)
    for part in block.values():
        assert 0 < part["used"] <= part["capacity"]
        assert 0 < part["bytes"] <= segment_file(data).stat().st_size
    assert block["cells"]["capacity"] == 256
    assert block["rows"]["used"] == 2
    finish(worker)


def test_the_memory_of_every_worker_is_shown(serve: Callable[..., FlaskClient], work: Callable[..., Child]) -> None:
    worker = work()
    client = serve()
    for pid in (worker.pid, os.getpid()):
        figures = figures_of(client, pid)
        assert figures["answered"]
        assert 0 < figures["uss"] <= figures["rss"]
        assert figures["allocator"]["python_blocks"] > 0
        assert set(figures["allocator"]) == {
            "python_blocks",
            "heap_bytes",
            "heap_used_bytes",
            "heap_free_bytes",
        }
        assert figures["gc"]["enabled"]
        assert len(figures["gc"]["collections"]) == 3
        assert figures["buffered_operations"] == 0
    finish(worker)


def test_the_operations_that_a_worker_holds_are_shown(
    serve: Callable[..., FlaskClient], work: Callable[..., Child]
) -> None:
    worker = work(no_buffer=False, flush_interval_ms=1000 * int(BOUND), buffer_size=1000)
    assert figures_of(serve(), worker.pid)["buffered_operations"] == 1
    finish(worker)


@pytest.mark.parametrize("path", ENDPOINTS)
def test_the_debug_endpoints_are_protected(serve: Callable[..., FlaskClient], path: str) -> None:
    client = serve(api={"token": "the-token-of-the-tests"})
    assert client.get(path).status_code == 401
    assert client.get(path, headers={"Authorization": "Bearer the-token-of-the-tests"}).status_code == 200
    assert serve().get(path, environ_base={"REMOTE_ADDR": "192.0.2.1"}).status_code == 403


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_refused_block_is_an_error(serve: Callable[..., FlaskClient], data: Path, path: str) -> None:
    import shmstats

    client = serve()
    shmstats.close()
    file = segment_file(data)
    file.write_bytes(b"not a block" * 1000)
    file.chmod(0o644)
    try:
        response = client.get(path)
    finally:
        file.unlink()
    assert response.status_code == 503
    assert "statistics are not available" in response.json["error"]
