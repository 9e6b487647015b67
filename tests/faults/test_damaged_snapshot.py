"""A snapshot with any damage, and a data directory that is removed.

``tests/attachment/test_saver.py`` tests that damaged snapshots are set aside, and full disks and read-only directories;
storms damage snapshots too (``test_kill_of_all.py``). Here the reader gets arbitrary bytes, and valid files with
meaningless contents.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import PythonRunner, segment_file, wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FUZZ = settings(
    derandomize=True, deadline=None, database=None, max_examples=100, suppress_health_check=list(HealthCheck)
)

#: Any JSON, and some nearly valid contents.
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from(["c", "c\0m", "c\0m\0", "c\0m\0a\0b", "c\0m\0le\0b", "c\0\ud800", "c\0" + "x" * 256]),
        st.sampled_from([1, 2, 3, 4, -1, [], {}, 10**400]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=4,
)


@pytest.fixture
def saved(shmstats: ModuleType, data: Path) -> Path:
    """A snapshot with one name of each kind, and its file."""
    stats = shmstats.stats
    stats.incr("c", "counter", 7)
    stats.decr("c", "down", 7)
    stats.gauge("c", "gauge", 1.5)
    stats.timing("c", "timing", 3)
    stats.incr("c", "labelled", 7, labels={"a": "b"})
    stats.declare("c", "declared", kind="histogram", unit="bytes", buckets=(1, 2, 3), help="Help.")
    shmstats.close()
    return data / "stats" / "simple.json"


def loaded(shmstats: ModuleType, file: Path) -> Any:
    """The snapshot in a file; None if it is refused, which raises only one exception."""
    try:
        return shmstats.snapshot.store.load(file)
    except shmstats.snapshot.format.SnapshotError:
        return None


def test_a_snapshot_with_any_bytes_is_read_or_refused(shmstats: ModuleType, saved: Path) -> None:
    @FUZZ
    @given(content=st.binary(max_size=300))
    def check(content: bytes) -> None:
        saved.write_bytes(content)
        assert loaded(shmstats, saved) is None

    check()


def test_any_change_of_a_snapshot_is_noticed(shmstats: ModuleType, saved: Path) -> None:
    whole = saved.read_bytes()

    @FUZZ
    @given(place=st.integers(0, len(whole)), gone=st.integers(0, 40), put=st.binary(max_size=20))
    def check(place: int, gone: int, put: bytes) -> None:
        changed = whole[:place] + put + whole[place + gone :]
        saved.write_bytes(changed)
        assert (loaded(shmstats, saved) is None) == (changed != whole)

    check()


def test_meaningless_contents_of_a_snapshot_stop_no_process(shmstats: ModuleType, saved: Path, data: Path) -> None:
    """The checksum is right, as in a file of a later version, or one written by hand."""
    columns = json.loads(saved.read_bytes())["data"]
    lists = [name for name, column in columns.items() if isinstance(column, list) and column]
    assert len(lists) >= 4

    @FUZZ
    @given(column=st.sampled_from(lists), row=st.integers(0, 100), value=JSON, whole=st.booleans())
    def check(column: str, row: int, value: Any, whole: bool) -> None:
        changed = json.loads(json.dumps(columns))
        if whole:
            changed[column] = value
        else:
            changed[column][row % len(changed[column])] = value
        content = json.dumps(changed).encode()
        saved.write_bytes(shmstats.snapshot.format._prefix(2, content) + content + b"}\n")
        (saved.parent / "simple.json.1").unlink(missing_ok=True)
        loaded(shmstats, saved)
        shmstats.stats.incr("fresh", "counter")
        assert shmstats.stats.get("fresh", "counter") == 1
        shmstats.stats.snapshot()
        shmstats.stats.remove("fresh")
        for aside in saved.parent.glob("*.damaged-*"):
            aside.unlink()
        saved.unlink(missing_ok=True)
        (saved.parent / "simple.json.1").unlink(missing_ok=True)
        shmstats.close()

    check()


@pytest.mark.parametrize("values", ["[[1e3, 1e999, []]]", f"[[1{'0' * 400}, 1.0, [1]]]", "[" * 100_000 + "]" * 100_000])
def test_a_snapshot_with_unreadable_numbers_or_depths_is_set_aside(
    shmstats: ModuleType, saved: Path, values: str
) -> None:
    content = b'{"saved": 1, "values": %s, "declared": [], "names": ["c\\u0000h"], "kinds": [3]}' % values.encode()
    saved.write_bytes(shmstats.snapshot.format._prefix(2, content) + content + b"}\n")
    shmstats.stats.incr("c", "counter")
    assert shmstats.stats.get("c", "counter") in (1, 8)


def test_a_data_directory_removed_while_in_use_is_created_again(
    stats: Any, python: PythonRunner, data: Path, configure: Callable[..., Any]
) -> None:
    configure(snapshot_interval_ms=100)
    worker = python.start("from shmstats import stats\nstats.incr('c', 'm')\nprint()\ninput()\nstats.incr('c', 'm')")
    worker.hear()
    for number in range(3):
        wait_until((data / "stats" / "simple.json").exists)
        shutil.rmtree(data, ignore_errors=True)
        stats.incr("c", "m")
        # If this process was the first to create the directory again, the worker's counts arrive at its next look.
        wait_until(lambda total=2 + number: stats.get("c", "m") == total)
    worker.tell()
    worker.finish(quiet=False)
    assert stats.get("c", "m") == 5
    stats.close()
    assert (data / "stats" / "simple.json").exists()
    assert stats.get("c", "m") == 5


def test_the_last_process_removes_the_block_of_a_removed_directory(
    stats: Any, python: PythonRunner, data: Path, configure: Callable[..., Any]
) -> None:
    configure(snapshot_interval_ms=3_600_000)
    stats.incr("c", "m")
    block = segment_file(data)
    data.rename(data.with_name("elsewhere"))
    worker = python.start("from shmstats import stats\nstats.incr('c', 'm')\nprint()\ninput()")
    worker.hear()
    assert block.exists()
    stats.close()
    assert not block.exists()
    worker.tell()
    worker.finish()
    assert stats.get("c", "m") == 2
