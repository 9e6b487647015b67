"""Real servers with three workers: every answered request is counted once, over kills, reloads and restarts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import section, table
from helpers import BOUND, segment_file
from real.hosts import HOSTS, Running, remove_block
from real.servers import wait_until

NAMES = [pytest.param(name, marks=() if host.quick else pytest.mark.thorough) for name, host in HOSTS.items()]
DOCUMENT = "shmstats/docs/deployment.md"


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of an installed server."""
    chosen: str = request.param
    host = HOSTS[chosen]
    if not host.is_there:
        if os.environ.get("CI") and not host.is_older:
            pytest.fail(f"{host.needs} is missing, and CI must test it")
        pytest.skip(f"{host.needs} is missing")
    return chosen


def test_each_answered_request_is_counted_once_over_kill_reload_and_restart(name: str, tmp_path: Path) -> None:
    host = HOSTS[name]
    with Running(host, tmp_path) as server:
        server.hit(30)
        counted = 30
        assert server.total() == counted
        if host.kill:
            counted += server.kill_a_worker()
            assert server.total() == counted
        if host.reload is not None:
            counted += server.reload()
            assert server.total() == counted
        assert {server.total() for _ in range(6)} == {counted}
        if host.stacks and host.workers:
            answering = server.hit(10)
            counted += 10
            wait_until(lambda: server.tell_stacks() >= answering, f"the stacks of {answering}")
    if host.keeps_block is not None:
        assert segment_file(tmp_path / "data").exists() == host.keeps_block
    with Running(host, tmp_path) as server:
        assert server.total() == counted
        server.hit(10)
        assert server.total() == counted + 10
    remove_block(host, tmp_path)


def test_the_counts_of_workers_are_kept_when_they_are_recycled_and_stopped(name: str, tmp_path: Path) -> None:
    """In buffered mode, unless the table of the document says that held operations are lost."""
    host = HOSTS[name]
    if not (host.buffered or host.recycle):
        pytest.skip("it recycles no worker, and loses held operations")
    settings = {"no_buffer": not host.buffered, "flush_interval_ms": 3_600_000}
    with Running(host, tmp_path, recycles=True, **settings) as server:
        answered, counted, end = server.hit(40), 40, time.monotonic() + BOUND
        while host.recycle and len(answered) <= host.workers:
            assert time.monotonic() < end, f"no worker was recycled in {counted} requests"
            answered |= server.hit(10)
            counted += 10
        if host.recycle:
            server.settle()
    with Running(host, tmp_path, **settings) as server:
        assert server.total() == counted
    remove_block(host, tmp_path)


def test_the_document_has_the_table_of_these_servers() -> None:
    told = {row[0]: row[1:6] for row in table(section(DOCUMENT, "Servers"))}
    assert list(told) == list(HOSTS)
    for name, host in HOSTS.items():
        can = (host.kill, host.reload is not None, bool(host.recycle))
        holds = (host.buffered, host.stacks)
        wanted = ["yes" if each else "-" for each in can] + ["yes" if each else "no" for each in holds]
        assert told[name] == wanted, name
