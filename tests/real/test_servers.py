"""Real servers with three workers: every answered request is counted once, whatever happens to the workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import section, table
from helpers import segment_file
from real.hosts import HOSTS, Running, remove_block

NAMES = [pytest.param(name, marks=() if host.quick else pytest.mark.thorough) for name, host in HOSTS.items()]
DOCUMENT = "shmstats/docs/deployment.md"


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a server that is there."""
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
        pids = server.hit(30)
        counted = 30
        assert server.total() == counted
        if host.kill:
            counted += server.kill_a_worker()
            assert server.total() == counted
        if host.reload is not None:
            counted += server.reload()
            assert server.total() == counted
        assert {server.total() for _ in range(6)} == {counted}
        assert pids
    assert segment_file(tmp_path / "data").exists() == host.keeps_block
    with Running(host, tmp_path) as server:
        assert server.total() == counted
        server.hit(10)
        assert server.total() == counted + 10
    remove_block(host, tmp_path)


def test_what_is_held_in_buffered_mode_is_there_after_a_stop(name: str, tmp_path: Path) -> None:
    host = HOSTS[name]
    if not host.buffered:
        pytest.skip("the table of the document says that it is lost")
    settings = {"no_buffer": False, "flush_interval_ms": 3_600_000}
    with Running(host, tmp_path, **settings) as server:
        server.hit(30)
    with Running(host, tmp_path, **settings) as server:
        assert server.total() == 30
    remove_block(host, tmp_path)


def test_the_document_has_the_table_of_these_servers() -> None:
    told = {row[0]: row[1:4] for row in table(section(DOCUMENT, "Servers"))}
    for name, host in HOSTS.items():
        kill = "yes" if host.kill else "-"
        reload = "yes" if host.reload is not None else "-"
        assert told[name] == [kill, reload, "yes" if host.buffered else "no"], name
