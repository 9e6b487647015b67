"""Under real gunicorn every answered request is counted once, over reloads, kills and upgrades."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import BOUND, KINDS, SITE, Gunicorn, Load, children, wait_until


@pytest.fixture(params=["gthread", pytest.param("sync", marks=pytest.mark.thorough)])
def options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return KINDS[request.param]


@pytest.fixture
def server(tmp_path: Path, options: tuple[str, ...]) -> Iterator[Gunicorn]:
    with Gunicorn(tmp_path, *options) as running:
        yield running


def dumped(server: Gunicorn, form: str) -> str:
    command = [sys.executable, "-m", "shmstats", "dump", "--data", str(server.data), "--format", form]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND, check=True)
    assert done.stderr == ""
    return done.stdout


def assert_counted_once(server: Gunicorn, load: Load) -> None:
    """All answered requests must be counted, and any number of the failed ones may be."""
    assert load.total <= server.total() <= load.total + load.failed


@pytest.mark.thorough
def test_every_reader_shows_exactly_the_answered_requests(server: Gunicorn) -> None:
    with Load(server) as load:
        load.more(1500)
    assert len(load.answered) > 1, "a single worker answered all requests"
    assert load.failed == 0
    expected = load.total
    for _ in range(12):
        assert server.total() == expected
        assert f'requests_total{{category="requests"}} {expected}\n' in server.get("/stats/prometheus")[1]
        assert f" {expected}\n" in server.get("/stats?format=prometheus")[1]
    assert json.loads(dumped(server, "json"))["requests"]["total"] == expected
    assert f'requests_total{{category="requests"}} {expected}\n' in dumped(server, "prometheus")
    assert str(expected) in dumped(server, "table")
    rows = list(csv.DictReader(io.StringIO(dumped(server, "csv"))))
    assert [row["value"] for row in rows if row["category"] == "requests"] == [str(expected)]


def test_no_count_is_lost_or_doubled_by_reloads(server: Gunicorn) -> None:
    with Load(server) as load:
        for _ in range(3):
            load.more(150)
            before = server.workers()
            server.signal(signal.SIGHUP)
            wait_until(lambda before=before: not server.workers() & before, "the old workers' end")
        load.more(150)
    assert_counted_once(server, load)
    assert server.document()["pool"]["rows"]["used"] <= 4


@pytest.mark.thorough
def test_no_count_is_lost_or_doubled_when_workers_are_added_and_removed(server: Gunicorn) -> None:
    with Load(server) as load:
        load.more(150)
        for number, workers in ((signal.SIGTTIN, 6), (signal.SIGTTOU, 2), (signal.SIGTTIN, 4)):
            while len(server.workers()) != workers:
                count = len(server.workers())
                server.signal(number)
                wait_until(lambda count=count: len(server.workers()) != count, "another number of workers")
            load.more(100)
    assert_counted_once(server, load)
    assert server.document()["pool"]["rows"]["used"] <= 6


@pytest.mark.thorough
def test_no_count_is_lost_or_doubled_by_an_upgrade_of_the_master(server: Gunicorn) -> None:
    with Load(server) as load:
        load.more(150)
        server.signal(signal.SIGUSR2)
        successor_file = Path(f"{server.pidfile}.2")
        wait_until(successor_file.exists, "the second master")
        successor = int(successor_file.read_text())
        try:
            wait_until(lambda: len(children(successor)) == 4, "the second master's workers")
            load.more(200)
            server.signal(signal.SIGTERM)
            wait_until(lambda: not Path(f"/proc/{server.master}/cwd").exists(), "the first master's end")
            load.more(200)
            load.stop()
            counted = server.total()
        finally:
            os.kill(successor, signal.SIGTERM)
            wait_until(lambda: not Path(f"/proc/{successor}").exists(), "the second master's end")
    assert load.total <= counted <= load.total + load.failed


def test_a_preloaded_application_counts_in_its_workers(tmp_path: Path, options: tuple[str, ...]) -> None:
    site = SITE + '\nstats.incr("boots", "preload")\n'
    with Gunicorn(tmp_path, *options, "--preload", site=site) as server:
        with Load(server) as load:
            load.more(400)
        assert_counted_once(server, load)
        simple = server.document()["simple"]
        assert simple["boots"] == {"preload": 1}
        assert simple["system"]["workers"] >= 2


@pytest.mark.thorough
def test_applications_share_counts_if_and_only_if_they_share_a_data_directory(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("one", "two", "three")]
    for place in places:
        place.mkdir()
    shared = f"path: {{data: {tmp_path / 'common'}}}\n"
    with (
        Gunicorn(places[0], *KINDS["sync"], config=shared) as one,
        Gunicorn(places[1], *KINDS["sync"], config=shared) as two,
        Gunicorn(places[2], *KINDS["sync"]) as three,
    ):
        for server, number in ((one, 30), (two, 12), (three, 5)):
            for _ in range(number):
                assert server.get("/hit")[0] == 200
        assert one.total() == two.total() == 42
        assert three.total() == 5
