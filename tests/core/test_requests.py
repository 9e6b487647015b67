"""The table of requests: the requests that a process serves, readable by any process."""

import os
import time
from collections.abc import Callable
from typing import Any

from helpers import PythonRunner


def test_a_request_is_shown_until_it_ends(attach: Callable[..., Any]) -> None:
    block = attach()
    before = time.time_ns()
    first = block.requests.begin("GET", "/a/é")
    second = block.requests.begin("POST", "/b")
    (served,) = block.reader.served(block.reader.workers.live())
    assert [request.text for request in served.requests] == ["GET /a/é", "POST /b"]
    assert all(request.pid == os.getpid() for request in served.requests)
    assert all(before - 10**8 <= request.began <= time.time_ns() for request in served.requests)
    block.requests.end(first)
    (served,) = block.reader.served(block.reader.workers.live())
    assert [request.text for request in served.requests] == ["POST /b"]
    block.requests.end(second)
    assert block.reader.served(block.reader.workers.live())[0].requests == []


def test_requests_beyond_16_are_only_counted(attach: Callable[..., Any]) -> None:
    block = attach()
    entries = [block.requests.begin("GET", f"/{number}") for number in range(20)]
    (served,) = block.reader.served(block.reader.workers.live())
    assert (len(served.requests), served.further) == (16, 4)
    for entry in entries:
        block.requests.end(entry)
    (served,) = block.reader.served(block.reader.workers.live())
    assert (served.requests, served.further) == ([], 0)
    assert block.requests.begin("GET", "/") in range(16)


def test_a_long_or_invalid_text_is_cut_or_escaped(attach: Callable[..., Any]) -> None:
    block = attach()
    for method, path in (("GET", "/" + "x" * 500), ("GET", "/\n\x1b[2J"), ("M" * 50, "/"), ("GET", "/\ud800")):
        block.requests.begin(method, path)
    (served,) = block.reader.served(block.reader.workers.live())
    texts = {request.text for request in served.requests}
    assert texts == {
        "GET /" + "x" * 105,
        "GET /\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[2J",
        "M" * 16 + " /",
        next(text for text in texts if text in ("GET ?", "GET /?")),
    }


def test_nothing_is_written_after_the_block_was_left(attach: Callable[..., Any]) -> None:
    block = attach()
    requests = block.requests
    entry = requests.begin("GET", "/")
    block.leave()
    requests.end(entry)
    assert requests.begin("GET", "/") == -1


def test_a_reused_slot_shows_no_requests_of_the_dead_worker(
    attach: Callable[..., Any], python: PythonRunner, data: Any
) -> None:
    keeper = attach()
    child = python.start(
        """
        import sys
        from pathlib import Path
        from shmstats.block import Block
        block = Block.attach(Path(sys.argv[1]), 256, 4)
        block.requests.begin("GET", "/killed")
        print("serves", flush=True)
        sys.stdin.read()
        """,
        data,
    )
    child.hear()
    served = {each.worker.pid: each for each in keeper.reader.served(keeper.reader.workers.live())}
    assert [request.text for request in served[child.pid].requests] == ["GET /killed"]
    child.kill()
    heir = attach()
    served_now = keeper.reader.served(keeper.reader.workers.live())
    assert [request.text for each in served_now for request in each.requests] == []
    assert heir.worker.slot in {each.worker.slot for each in served_now}
