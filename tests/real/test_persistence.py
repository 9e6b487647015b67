"""Under real gunicorn statistics of every kind survive restarts, unless persistence is off."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import KINDS, SITE, Gunicorn, Load, wait_until

SITE_OF_EVERY_KIND = (
    SITE
    + """

@app.get("/every-kind")
def every_kind():
    stats.incr("requests", "total")
    stats.incr("kinds", "up", 2)
    stats.incr("kinds", "down", 3)
    stats.decr("kinds", "down")
    stats.gauge("kinds", "integer", -7)
    stats.gauge("kinds", "float", 0.1)
    stats.gauge("kinds", "whole", 2.0)
    stats.timing("kinds", "quick", 0.1)
    stats.timing("kinds", "slow", 61000)
    stats.timestamp("kinds", "moment")
    return str(os.getpid())
"""
)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Path]:
    """A data directory in which no file may be created, not even for a moment."""
    directory = tmp_path / "data"
    directory.mkdir()
    before = directory.stat()
    yield directory
    assert os.listdir(directory) == []
    assert directory.stat().st_mtime_ns == before.st_mtime_ns


def simple(server: Gunicorn) -> dict[str, Any]:
    """The statistics of users in /stats."""
    document: dict[str, Any] = server.document()["simple"]
    return {category: document[category] for category in document if category not in ("system", "shmstats")}


def exposed(server: Gunicorn) -> set[str]:
    """The samples and types of the statistics of users, as Prometheus gets them."""
    lines = server.get("/stats/prometheus")[1].splitlines()
    families = {line.split()[0].split("{")[0] for line in lines if 'category="' in line and "shmstats" not in line}
    stems = {family.removesuffix(end) for family in families for end in ("", "_bucket", "_sum", "_count")}
    return {
        line
        for line in lines
        if line.split("{")[0] in families or (line.startswith("# TYPE") and line.split()[2] in stems)
    }


@pytest.mark.parametrize("kind", ["sync", pytest.param("gthread", marks=pytest.mark.thorough)])
def test_a_restart_keeps_every_value_and_kind(tmp_path: Path, kind: str) -> None:
    server = Gunicorn(tmp_path, *KINDS[kind], site=SITE_OF_EVERY_KIND)
    with server:
        with Load(server, "/every-kind") as load:
            load.more(200)
        assert load.failed == 0
        assert isinstance(server.document()["simple"]["kinds"].pop("moment"), str)
        values, samples = simple(server), exposed(server)
    values["kinds"].pop("moment")
    samples = {sample for sample in samples if "moment" not in sample}
    n = load.total
    assert (values["requests"]["total"], values["kinds"]["up"], values["kinds"]["down"]) == (n, 2 * n, 2 * n)
    assert values["kinds"]["slow"]["count"] == values["kinds"]["quick"]["count"] == n
    assert {"# TYPE up_total counter", "# TYPE down gauge", "# TYPE slow_seconds histogram"} <= samples
    with server:
        assert repr(simple(server)) == repr(values)
        assert exposed(server) == samples
        assert type(simple(server)["kinds"]["whole"]) is float
        assert server.get("/every-kind")[0] == 200
        after = simple(server)["kinds"]
    assert (after["up"], after["down"]) == (2 * n + 2, 2 * n + 2)
    assert (after["slow"]["count"], after["slow"]["sum"]) == (n + 1, 61000.0 * (n + 1))


def test_no_answered_request_is_lost_if_all_processes_are_killed_under_load(tmp_path: Path) -> None:
    config = "path: {data: data}\nstats: {snapshot_interval_ms: 100}\n"
    server = Gunicorn(tmp_path, *KINDS["gthread"], site=SITE_OF_EVERY_KIND, config=config)
    answered = failed = 0
    for _ in range(2):
        server.start()
        with Load(server, "/every-kind") as load:
            load.more(150)
            server.kill_group()
        answered, failed = answered + load.total, failed + load.failed
    with server:
        values = simple(server)
        assert answered <= server.total() <= answered + failed
        assert answered <= values["kinds"]["slow"]["count"] <= answered + failed
        assert 2 * answered <= values["kinds"]["up"] <= 2 * (answered + failed)
        assert (values["kinds"]["integer"], values["kinds"]["float"]) == (-7, 0.1)


@pytest.mark.thorough
def test_without_persistence_counts_last_while_a_process_is_attached(
    empty: Path,
) -> None:
    config = "path: {data: data}\nstats: {persist: false, snapshot_interval_ms: 100}\n"
    site = SITE_OF_EVERY_KIND + '\nstats.incr("boots", "preload")\n'  # so the master is attached too
    server = Gunicorn(empty.parent, *KINDS["sync"], "--preload", site=site, config=config)
    with server, Load(server, "/every-kind") as load:
        load.more(100)
        workers = server.workers()
        server.signal(signal.SIGHUP)
        wait_until(lambda: len(server.workers()) == 4 and not server.workers() & workers, "other workers")
        load.more(100)
        load.stop()
        assert load.total <= server.total() <= load.total + load.failed
    with server:
        assert server.total() == 0
        assert simple(server) == {"boots": {"preload": 1}}


def test_without_persistence_nothing_is_written_if_all_processes_are_killed(empty: Path) -> None:
    config = "path: {data: data}\nstats: {persist: false, snapshot_interval_ms: 100}\n"
    server = Gunicorn(empty.parent, *KINDS["sync"], site=SITE_OF_EVERY_KIND, config=config).start()
    with Load(server, "/every-kind") as load:
        load.more(100)
        server.kill_group()
    with server:
        assert load.total <= server.total() <= load.total + load.failed


def test_a_snapshot_saved_while_the_server_runs_is_restored_on_another_machine(
    tmp_path: Path,
) -> None:
    """The block is removed, as by a power loss, and the file stays."""
    config = "path: {data: data}\nstats: {snapshot_interval_ms: 100}\n"
    server = Gunicorn(tmp_path, *KINDS["sync"], site=SITE_OF_EVERY_KIND, config=config).start()
    with Load(server, "/every-kind") as load:
        load.more(50)
    assert load.failed == 0
    file = server.data / "stats" / "simple.json"
    wait_until(lambda: file.exists() and _has(file, load.total), "a snapshot with everything in it")
    values = simple(server)
    saved = file.read_bytes()
    server.kill_group()
    other = tmp_path / "other"
    (other / "data" / "stats").mkdir(parents=True)
    (other / "data" / "stats" / "simple.json").write_bytes(saved)
    with Gunicorn(other, *KINDS["sync"], site=SITE_OF_EVERY_KIND, config=config) as second:
        values["kinds"].pop("moment")
        assert repr(simple(second)) == repr(values)
    with server:
        assert server.total() == load.total


def _has(file: Path, total: int) -> bool:
    from shmstats.snapshot.store import load

    snapshot = load(file)
    values = dict(zip(snapshot.names, snapshot.values, strict=True))
    totals = {name.metric: value for name, value in values.items()}
    return totals.get("total") == total and totals["slow"].count == total  # type: ignore[union-attr]
