"""Every parameter of the section ``stats`` changes the behaviour that its row in the table describes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import SHARED_MEMORY, segment_of, wait_until

pytestmark = pytest.mark.far_from_core

NEVER = 3_600_000  # ms; the longest interval that is allowed

READ = "from shmstats import stats; print(stats.get('c', 'm'))"

#: Counts 25 times, reports that, and reads the block only on request.
COUNT = """
    from shmstats import stats
    for _ in range(25): stats.incr('c', 'm')
    print('counted')
    input()
    stats.flush()
    print('flushed')
    input()
"""


@pytest.fixture
def client(shmstats: ModuleType, configure: Callable[..., Any]) -> Callable[..., Any]:
    """Make a client of the endpoints with settings: ``client(enabled=False)``."""

    def client(**settings: Any) -> Any:
        return importlib.import_module("shmstats.web").create_app(configure(**settings)).test_client()

    return client


def shown(client: Any) -> Any:
    """The value in /stats of the statistic that the tests count."""
    return client.get("/stats").get_json()["simple"].get("c", {}).get("m", 0)


def counting(python: Any) -> Any:
    """A process that has counted 25 times."""
    child = python.start(COUNT)
    assert child.hear() == "counted"
    return child


def end(child: Any) -> None:
    """Make a counting process end."""
    child.tell()
    child.tell()
    child.finish()


# enabled ----------------------------------------------------------------------------------------------


def test_disabled_statistics_are_no_ops_without_block_or_file(
    client: Callable[..., Any], shmstats: ModuleType, stats: Any, data: Path, tmp_path: Path
) -> None:
    before = set(tmp_path.iterdir())
    early = stats.counter("c", "m")
    web = client(enabled=False, no_buffer=False)

    @stats.timer("c", "t")
    def timed() -> int:
        return 7

    for handle in (early, stats.counter("c", "m")):
        handle.incr()
        handle.decr(2)
        assert handle.value == 0
    assert stats.incr("c", "m") is None
    assert stats.decr("c", "m", 2) is None
    assert stats.gauge("c", "g", 1.5) is None
    assert stats.absolute("c", "g", 1) is None
    assert stats.timing("c", "t", 1) is None
    assert stats.timestamp("c", "w") is None
    assert timed() == 7
    with stats.timer("c", "t"):
        pass
    assert (stats.get("c", "m"), stats.get_timestamp("c", "w"), stats.snapshot()) == (0, None, {})
    assert (stats.remove("c"), stats.reset("c", "m")) == (0, 0)
    stats.flush()
    shmstats.close()
    assert web.get("/stats").status_code == 404
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "shmstats-test.yml"}
    assert not Path(SHARED_MEMORY, segment_of(data)).exists()


def test_wrong_arguments_are_refused_although_statistics_are_disabled(client: Callable[..., Any], stats: Any) -> None:
    client(enabled=False)
    with pytest.raises(TypeError, match="n must be an integer"):
        stats.incr("c", "m", "1")
    with pytest.raises(ValueError, match="milliseconds"):
        stats.timing("c", "m", -1)


def test_the_endpoints_of_disabled_statistics_answer_404_in_json(client: Callable[..., Any]) -> None:
    web = client(enabled=False)
    for path in (
        "/stats",
        "/stats?format=prometheus",
        "/stats/prometheus",
        "/stats/live/data",
        "/debug/goroutines",
        "/debug/threads",
        "/debug/pool/bytes",
        "/_local/files/_list",
        "/_local/files/stats/_list",
    ):
        answer = web.get(path)
        assert (answer.status_code, answer.content_type) == (404, "application/json"), path
        assert answer.get_json() == {"error": "statistics are disabled"}, path


def test_no_file_can_be_deleted_while_statistics_are_disabled(client: Callable[..., Any], data: Path) -> None:
    data.mkdir()
    (data / "file").write_text("x")
    answer = client(enabled=False).delete("/_local/files/file")
    assert (answer.status_code, list(answer.get_json())) == (404, ["error"])
    assert (data / "file").exists()


def test_statistics_can_be_disabled_and_enabled_again(client: Callable[..., Any], stats: Any) -> None:
    web = client(enabled=True)
    stats.incr("c", "m", 3)
    client(enabled=False)
    stats.incr("c", "m", 100)
    assert web.get("/stats").status_code == 404
    client(enabled=True)
    assert shown(web) == 3


# persist ----------------------------------------------------------------------------------------------


def test_persisted_statistics_are_in_a_file_while_counting_and_survive_a_restart(
    client: Callable[..., Any], shmstats: ModuleType, stats: Any, data: Path
) -> None:
    web = client(persist=True, snapshot_interval_ms=100)
    stats.incr("c", "m", 3)
    file = data / "stats" / "simple.json"
    wait_until(lambda: file.exists() and '"c\\u0000m"' in file.read_text())
    shmstats.close()
    assert shown(web) == 3


def test_without_persistence_nothing_is_saved_and_a_restart_begins_at_0(
    client: Callable[..., Any], shmstats: ModuleType, stats: Any, data: Path, python: Any
) -> None:
    web = client(persist=False, snapshot_interval_ms=100)
    stats.incr("c", "m", 3)
    assert python.run(READ) == "3\n"
    assert shown(web) == 3
    shmstats.close()
    assert list(data.iterdir()) == []  # the block is named by the directory, so it is created
    assert shown(web) == 0


def test_a_saved_snapshot_is_neither_read_nor_touched_without_persistence(
    client: Callable[..., Any], shmstats: ModuleType, stats: Any, data: Path
) -> None:
    client(persist=True)
    stats.incr("c", "m", 3)
    shmstats.close()
    before = {file.name: file.read_bytes() for file in (data / "stats").iterdir()}
    client(persist=False)
    stats.incr("c", "m", 1)
    assert stats.get("c", "m") == 1
    shmstats.close()
    assert {file.name: file.read_bytes() for file in (data / "stats").iterdir()} == before


# no_buffer --------------------------------------------------------------------------------------------


def test_without_a_buffer_every_operation_is_seen_at_once(client: Callable[..., Any], python: Any) -> None:
    web = client(no_buffer=True, buffer_size=1_000_000, flush_interval_ms=NEVER)
    child = counting(python)
    assert shown(web) == 25
    assert "flushes" not in web.get("/stats").get_json()["simple"].get("shmstats", {})
    end(child)
    assert shown(web) == 25


def test_with_a_buffer_operations_are_held_and_seen_after_a_flush(client: Callable[..., Any], python: Any) -> None:
    web = client(no_buffer=False, buffer_size=1_000_000, flush_interval_ms=NEVER)
    child = counting(python)
    assert shown(web) == 0
    assert web.get("/stats").get_json()["simple"]["shmstats"]["operations_held"] == 25
    child.tell()
    assert child.hear() == "flushed"
    assert shown(web) == 25
    own = web.get("/stats").get_json()["simple"]["shmstats"]
    assert (own["operations_held"], own["flushes"], own["flush"]["count"]) == (0, 1, 1)
    child.tell()
    child.finish()


# buffer_size ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "flushed"), [(1, 25), (10, 20), (25, 25), (26, 0)])
def test_the_buffer_is_flushed_when_it_holds_buffer_size_operations(
    client: Callable[..., Any], python: Any, size: int, flushed: int
) -> None:
    web = client(no_buffer=False, buffer_size=size, flush_interval_ms=NEVER)
    child = counting(python)
    assert shown(web) == flushed
    assert web.get("/stats").get_json()["simple"]["shmstats"]["operations_held"] == 25 - flushed
    end(child)
    assert shown(web) == 25


# flush_interval_ms ------------------------------------------------------------------------------------


def test_the_buffer_is_flushed_when_flush_interval_ms_have_passed(client: Callable[..., Any], python: Any) -> None:
    web = client(no_buffer=False, buffer_size=1_000_000, flush_interval_ms=20)
    child = counting(python)
    wait_until(lambda: shown(web) == 25)
    end(child)
    web = client(no_buffer=False, buffer_size=1_000_000, flush_interval_ms=NEVER)
    child = counting(python)
    assert shown(web) == 25
    end(child)
    assert shown(web) == 50


# include_storage_stats_in_api -------------------------------------------------------------------------


def test_storage_figures_are_shown_if_the_parameter_is_true(client: Callable[..., Any], stats: Any, data: Path) -> None:
    data.mkdir()
    (data / "file").write_bytes(b"x" * 12345)
    web = client(include_storage_stats_in_api=True)
    document = web.get("/stats").get_json()
    assert {"all", "used", "free", "available"} <= set(document["disk"])
    assert document["disk"]["all"] >= document["disk"]["used"] > 0
    assert document["disk"]["free"] >= document["disk"]["available"]
    assert document["simple"]["system"]["store"] >= 12345
    assert "\nstore_bytes " in web.get("/stats/prometheus").get_data(as_text=True)


def test_storage_figures_are_not_shown_if_the_parameter_is_false(client: Callable[..., Any], stats: Any) -> None:
    web = client(include_storage_stats_in_api=False)
    document = web.get("/stats").get_json()
    assert "disk" not in document
    assert "store" not in document["simple"]["system"]
    assert "store_bytes" not in web.get("/stats/prometheus").get_data(as_text=True)
