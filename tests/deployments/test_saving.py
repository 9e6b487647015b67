"""Saving continues over failures of the disk and of the saver."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import Child, PythonRunner, segment_file, wait_until
from real.hosts import Running, uwsgi
from servers import group_lives
from tortures.storm import remove_block

pytestmark = pytest.mark.far_from_core

COUNT = """
    import sys
    from shmstats import stats
    print(stats.get('c', 'm'), flush=True)
    stats.incr('c', 'm', 5)
    for line in sys.stdin:
        stats.incr('c', 'm', int(line))
        print(stats.get('c', 'm'), flush=True)
"""


@pytest.fixture
def total(shmstats: ModuleType, data: Path) -> Callable[[], int]:
    """The saved total of c.m; -1 if nothing is saved."""

    def total() -> int:
        try:
            snapshot = shmstats.snapshot.store.load(data / "stats" / "simple.json")
        except FileNotFoundError:
            return -1
        shown = zip(snapshot.names, snapshot.values, strict=True)
        return next((value for name, value in shown if name[:2] == ("c", "m")), 0)

    return total


def count(child: Child, n: int) -> int:
    child.tell(str(n))
    return int(child.hear())


def test_another_process_takes_over_from_a_stopped_saver_which_never_saves_older_values(
    configure: Callable[..., Any], python: PythonRunner, total: Callable[[], int], lose_power: Callable[..., None]
) -> None:
    configure(snapshot_interval_ms=200)
    first = python.start(COUNT)
    assert first.hear() == "0"
    wait_until(lambda: total() == 5)
    second = python.start(COUNT)
    assert second.hear() == "5"
    first.signal(signal.SIGSTOP)
    expected = count(second, 100)
    assert expected == 110
    wait_until(lambda: total() == expected, 10)
    count(second, 1)
    wait_until(lambda: total() == expected + 1, 10)
    first.signal(signal.SIGCONT)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        assert total() == expected + 1
        time.sleep(0.01)
    assert count(first, 1) == expected + 2
    wait_until(lambda: total() == expected + 2, 10)
    lose_power(first, second)


def test_counts_in_a_block_whose_file_was_removed_are_saved(
    shmstats: ModuleType, stats: Any, data: Path, total: Callable[[], int]
) -> None:
    stats.incr("c", "m", 7)
    segment_file(data).unlink()
    stats.incr("c", "m", 100)
    shmstats.close()
    assert total() == 107
    assert stats.get("c", "m") == 107


def test_counts_in_a_block_whose_file_was_removed_are_added_to_its_successor(
    shmstats: ModuleType,
    stats: Any,
    python: PythonRunner,
    data: Path,
    total: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    stats.incr("c", "m", 7)
    stats.timing("c", "t", 3)
    stats.gauge("c", "g", 2.5)
    segment_file(data).unlink()
    child = python.start(
        "from shmstats import stats\nstats.incr('c', 'm', 1000)\nprint()\ninput()\nstats.incr('c', 'm')"
    )
    child.hear()
    wait_until(lambda: stats.get("c", "m") == 1007)
    stats.incr("c", "m", 100)
    child.tell()
    child.finish()
    assert stats.get("c", "m") == 1108
    assert stats.get("c", "t").count == 1
    assert stats.get("c", "g") == 2.5
    assert caplog.text.count("was removed while it was in use") == 1
    shmstats.close()
    assert total() == 1108


def test_a_volume_without_hard_links_keeps_the_newest_and_the_previous_snapshot(
    configure: Callable[..., Any],
    python: PythonRunner,
    preload: Callable[[str], None],
    lose_power: Callable[..., None],
    total: Callable[[], int],
    data: Path,
) -> None:
    configure(snapshot_interval_ms=100)
    preload("no_links")
    for begun in (0, 10, 20):
        child = python.start(COUNT)
        assert child.hear() == str(begun)
        wait_until(lambda begun=begun: total() == begun + 5)
        count(child, 5)
        wait_until(lambda begun=begun: total() == begun + 10)
        lose_power(child)
    assert (data / "stats" / "simple.json.1").exists()


@pytest.mark.parametrize("locks", ["no_locks", "nfs_locks"])
def test_a_volume_with_other_file_locks_or_none_is_saved_to_and_cleaned_up(
    configure: Callable[..., Any],
    python: PythonRunner,
    preload: Callable[[str], None],
    total: Callable[[], int],
    data: Path,
    locks: str,
) -> None:
    """Without locks a dead process' file stays for an hour; a file that another thread is writing always stays."""
    configure(snapshot_interval_ms=100)
    young, old = (data / "stats" / f".simple.json.{2**22 + 1}-{number}" for number in range(2))
    old.parent.mkdir(parents=True)
    for file in (young, old):
        file.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    preload(locks)
    child = python.start(COUNT)
    assert child.hear() == "0"
    wait_until(lambda: total() == 5 and not old.exists())
    assert young.exists() == (locks == "no_locks")
    count(child, 5)
    wait_until(lambda: total() == 10)
    child.finish()
    said = python.run(
        """
        from pathlib import Path
        from shmstats.snapshot import store
        directory = Path("data/stats")
        written = store.write(directory, store.load(directory / "simple.json"))
        store.remove_stale(directory)
        written.put_in_place()
        written.discard()
        print("in place")
        """
    )
    assert said == "in place\n"


def test_after_a_link_to_the_directory_changes_each_process_keeps_its_directory(
    configure: Callable[..., Any], python: PythonRunner, shmstats: ModuleType, data: Path
) -> None:
    """A release moves the link ``current``: old processes count and save in the old directory, new ones in the new."""
    configure(snapshot_interval_ms=100)
    releases = [data.with_name(f"release {number}") for number in (1, 2)]
    for release in releases:
        release.mkdir()
    data.symlink_to(releases[0])
    old = python.start(COUNT)
    assert old.hear() == "0"
    data.with_name("new").symlink_to(releases[1])
    os.replace(data.with_name("new"), data)
    new = python.start(COUNT)
    assert new.hear() == "0"
    assert [count(old, 10), count(new, 1), count(old, 10)] == [15, 6, 25]
    for child in (old, new):
        child.finish()
    saved = [shmstats.snapshot.store.load(release / "stats" / "simple.json") for release in releases]
    assert [dict(zip([name[:2] for name in each.names], each.values, strict=True))["c", "m"] for each in saved] == [
        25,
        6,
    ]


def test_a_snapshot_of_another_owner_that_cannot_be_read_is_replaced(
    shmstats: ModuleType, configure: Callable[..., Any], data: Path, total: Callable[[], int]
) -> None:
    """Root has left such a file; this user owns the directory, so the file can be moved."""
    written = shmstats.snapshot.store.write(data / "stats", shmstats.series.Snapshot((), ()))
    (data / "stats" / "simple.json").write_text("another's")

    def refused(*arguments: object, **options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", refused)
        patch.setattr(shutil, "copyfile", refused)
        written.put_in_place()
    assert shmstats.snapshot.store.load(data / "stats" / "simple.json").values == []
    assert (data / "stats" / "simple.json.1").read_text() == "another's"


def test_a_process_that_cannot_start_a_thread_leaves_saving_to_others_and_retries(
    configure: Callable[..., Any], python: PythonRunner, total: Callable[[], int], lose_power: Callable[..., None]
) -> None:
    """A limit of processes in a container also limits threads."""
    configure(snapshot_interval_ms=100)
    child = python.start(
        """
        import logging, threading, time
        from shmstats import stats
        logging.disable()
        start, refused = threading.Thread.start, []
        def refuse(thread):
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        threading.Thread.start = refuse
        stats.incr('c', 'm')
        time.sleep(0.2)
        print('shmstats-agent' in refused, flush=True)
        threading.Thread.start = start
        while True:
            stats.incr('c', 'm', 0)
            time.sleep(0.01)
        """
    )
    assert child.hear() == "True"
    wait_until(lambda: total() == 1)
    lose_power(child)


def test_forks_do_not_wait_for_a_slow_disk(
    configure: Callable[..., Any], python: PythonRunner, preload: Callable[[str], None]
) -> None:
    configure(snapshot_interval_ms=100)
    preload("slow_fsync")
    longest = python.run(
        """
        import os, time
        from shmstats import stats
        stats.incr('c', 'm')
        time.sleep(0.4)
        longest = 0
        for _ in range(20):
            stats.incr('c', 'm')
            begun = time.monotonic()
            child = os.fork()
            if not child:
                os._exit(0)
            longest = max(longest, time.monotonic() - begun)
            os.waitpid(child, 0)
            time.sleep(0.05)
        print(longest)
        """
    )
    assert float(longest) < 0.4


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to give something away")
def test_files_saved_by_root_belong_to_the_owner_of_the_directory(shmstats: ModuleType, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, 65534, 65534)
    for _ in range(2):
        shmstats.snapshot.store.save(data / "stats", shmstats.series.Snapshot((), ()))
    owners = {path.name: path.stat().st_uid for path in (data / "stats", *(data / "stats").iterdir())}
    assert owners == dict.fromkeys(("stats", "simple.json", "simple.json.1"), 65534)


@pytest.mark.thorough
@pytest.mark.parametrize("options", ["--enable-threads", "--enable-threads --lazy-apps", "--threads 2"])
def test_uwsgi_saves_on_a_volume_without_hard_links_in_both_fork_modes(
    tmp_path: Path, preload: Callable[[str], None], options: str
) -> None:
    host = uwsgi(f"{options} --processes 2", at_import=True)
    if not host.is_there:
        pytest.skip(f"{host.needs} is missing")
    preload("no_links")
    server = Running(host, tmp_path, snapshot_interval_ms=3_600_000)
    expected = 0
    for _ in range(3):  # the first save replaces nothing, and the second keeps no previous snapshot
        with server:
            server.hit(10)
            expected += 10
            assert server.total() == expected, server.log.read_text()
            assert server.get("/stats/prometheus")[0] == 200  # exposed values are on the disk
            os.killpg(server.pid, signal.SIGKILL)
            wait_until(lambda: not group_lives(server.pid))
        remove_block(tmp_path / "data")
    assert (tmp_path / "data" / "stats" / "simple.json.1").exists()
