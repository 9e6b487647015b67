"""The saved snapshot: exactly one process writes it, over deaths and failures to write."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import FORKING, SHARED_MEMORY, PythonRunner, process_state, segment_file, segment_of, wait_until

pytestmark = pytest.mark.far_from_core

#: The byte of the lock file that the saving process holds.
SAVER = 2**60

INTERVAL = 100  # ms; the shortest that is allowed

#: Counts in steps of 1 until it reads a line; then prints the number of counts.
COUNT = """
    import select, sys
    from shmstats import stats
    print('ready', flush=True)
    n = 0
    while not select.select([0], [], [], 0.001)[0]:
        stats.incr('c', 'm')
        n += 1
    print(n)
"""


@pytest.fixture(autouse=True)
def often(configure: Callable[..., Any]) -> Callable[..., Any]:
    """Save as often as is allowed."""

    def often(**stats: Any) -> dict[str, Any]:
        return configure(snapshot_interval_ms=INTERVAL, **stats)  # type: ignore[no-any-return]

    often()
    return often


def saver(data: Path) -> int:
    """The pid of the process that saves, by /proc/locks, which takes no lock; 0 if there is none."""
    try:
        inode = segment_file(data).stat().st_ino
    except FileNotFoundError:
        return 0
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "->" not in fields and fields[5].endswith(f":{inode}") and fields[6] == str(SAVER):
            return int(fields[4])
    return 0


def saved_total(data: Path, file: str = "simple.json") -> int:
    """The total of c.m in a saved snapshot; -1 if there is none."""
    try:
        saved = json.loads((data / "stats" / file).read_text())["data"]
    except FileNotFoundError:
        return -1
    return dict(zip(saved["names"], saved["values"], strict=True)).get("c\0m", 0)


def snapshots(data: Path) -> list[str]:
    """The files of snapshots in a data directory."""
    return sorted(name for name in os.listdir(data / "stats") if "simple.json" in name)


class Watcher:
    """A thread that reads the saved snapshot all the time, and records its faults."""

    def __init__(self, shmstats: ModuleType, data: Path) -> None:
        self.wrong: list[str] = []
        self.read = 0
        self._load, self._file = shmstats.snapshot.store.load, data / "stats" / "simple.json"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        last = 0
        while not self._done.is_set():
            try:
                snapshot = self._load(self._file)
            except Exception as error:
                self.wrong.append(repr(error))
                continue
            total = sum(v for n, v in zip(snapshot.names, snapshot.values, strict=True) if n.category == "c")
            if total < last:
                self.wrong.append(f"{total} after {last}")
            last = total
            self.read += 1
            self._done.wait(0.0005)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._done.set()
        self._thread.join()


# Election ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("core", ["C"], indirect=True)  # independent of the core
def test_another_process_takes_over_when_the_saver_is_killed(
    shmstats: ModuleType, python: PythonRunner, data: Path
) -> None:
    chance = random.Random(3)
    children = {}

    def start() -> None:
        child = python.start(COUNT)
        assert child.hear() == "ready"
        children[child.pid] = child

    def total() -> int:
        """The total, read by a process without a slot, which cannot save."""
        with shmstats.reading.reader.read_only(data) as reader:
            snapshot = reader.read()
        names = [(name.category, name.metric) for name in snapshot.names]
        return snapshot.values[names.index(("c", "m"))] if ("c", "m") in names else 0

    for _ in range(4):
        start()
    wait_until(lambda: saver(data) in children and saved_total(data) > 0)
    with Watcher(shmstats, data) as watcher:
        for _ in range(10):
            victim = saver(data)
            # A kill at a random moment of the interval: each worker counts about once in a millisecond.
            goal = total() + chance.randrange(400)
            wait_until(lambda goal=goal: total() >= goal)
            children.pop(victim).kill()
            before = saved_total(data)
            wait_until(lambda: saver(data) in children, 0.001 * INTERVAL * 2 + 10)
            assert saver(data) != victim
            wait_until(lambda before=before: saved_total(data) > before, 0.001 * INTERVAL * 2 + 10)
            start()
    assert watcher.wrong == []
    assert watcher.read > 50
    counted = total()
    for child in children.values():
        child.tell()
        child.finish()
    assert saved_total(data) >= counted > 0


def test_after_a_process_has_left_others_can_save(shmstats: ModuleType, python: PythonRunner, data: Path) -> None:
    first = python.start(
        """
        import shmstats
        shmstats.stats.incr('c', 'm')
        print('ready')
        input()
        shmstats.close()
        print('left')
        input()
        """
    )
    assert first.hear() == "ready"
    wait_until(lambda: saver(data) == first.pid)
    shmstats.stats.incr("c", "m")
    first.tell()
    assert first.hear() == "left"
    shmstats.stats.incr("c", "m")
    wait_until(lambda: saved_total(data) == 3, 10)
    first.tell()
    first.finish()


def test_a_process_that_forks_all_the_time_saves(
    stats: Any, python: PythonRunner, data: Path, often: Callable[..., Any]
) -> None:
    often()
    child = python.start(FORKING)
    assert child.hear() == "ready"
    wait_until(lambda: saved_total(data) == 7, 10)
    child.tell()
    child.finish()
    assert stats.get("c", "m") == 7


def test_forked_children_save_when_their_parent_is_killed(stats: Any, python: PythonRunner, data: Path) -> None:
    parent = python.start(
        """
        import os, signal
        from shmstats import stats
        stats.incr('c', 'm', 5)
        pid = os.fork()
        stats.incr('c', 'm', 10)
        if pid:
            print(pid)
        signal.pause()
        """
    )
    child = int(parent.hear())
    try:
        wait_until(lambda: saver(data) in (parent.pid, child) and saved_total(data) == 25)
        os.kill(parent.pid, signal.SIGKILL)
        wait_until(lambda: saver(data) == child, 10)
    finally:
        os.kill(child, signal.SIGKILL)
        parent.kill()
    wait_until(lambda: not Path(f"/proc/{child}").exists() or process_state(child) in "ZX")
    assert stats.get("c", "m") == 25


def test_a_snapshot_is_not_written_again_while_nothing_changes(
    shmstats: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    write, read = shmstats.snapshot.store.write, shmstats.reading.reader.BlockReader.read
    monkeypatch.setattr(shmstats.reading.reader.BlockReader, "read", lambda self: (looked.append(1), read(self))[1])
    written = []
    monkeypatch.setattr(shmstats.snapshot.store, "write", lambda *a: (written.append(1), write(*a))[1])
    shmstats.stats.incr("c", "m")
    wait_until(lambda: saved_total(data) == 1)
    count, goal = len(written), len(looked) + 3
    wait_until(lambda: len(looked) >= goal)
    assert len(written) == count
    shmstats.stats.incr("c", "m")
    wait_until(lambda: saved_total(data) == 2)


def test_the_previous_snapshot_is_kept_beside_the_new_one(stats: Any, data: Path) -> None:
    for total in range(1, 4):
        stats.incr("c", "m")
        wait_until(lambda total=total: saved_total(data) == total)
        wait_until(lambda total=total: saved_total(data, "simple.json.1") == total - 1 or total == 1)
    assert snapshots(data) == ["simple.json", "simple.json.1"]
    assert (data / "stats" / "simple.json").stat().st_mode & 0o777 == 0o600


def test_a_deleted_snapshot_is_written_again(stats: Any, data: Path) -> None:
    stats.incr("c", "m")
    wait_until(lambda: saved_total(data) == 1)
    shutil.rmtree(data)
    stats.incr("c", "m")
    wait_until(lambda: saved_total(data) == 2)


def test_a_saver_that_could_not_import_for_lack_of_descriptors_starts_later(
    shmstats: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import shmstats.attachment.saver as module

    modules, asked = module.snapshots, []

    def snapshots_later() -> ModuleType:
        asked.append(1)
        if len(asked) <= 2:
            raise OSError(errno.EMFILE, "Too many open files")
        return modules()

    monkeypatch.setattr(module, "snapshots", snapshots_later)
    shmstats.stats.incr("c", "m")
    wait_until(lambda: saved_total(data) == 1)
    assert len(asked) > 2
    assert "Too many open files" in caplog.text


# Places that cannot be written ------------------------------------------------------------------------


@pytest.fixture
def small_disk(data: Path) -> Iterator[Path]:
    """The data directory on a separate file system of 192 KiB."""
    data.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", data], capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root only")
    yield data
    subprocess.run(["umount", "-l", data], check=True)


def remount(place: Path, how: str) -> None:
    """Make a mounted file system read-only ("ro") or writable ("rw")."""
    subprocess.run(["mount", "-o", f"remount,{how}", place], check=True)


def fill(filler: Path) -> None:
    """Write a file until there is no room left."""
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_full_disk_stops_no_counting_and_is_logged_once(
    shmstats: ModuleType, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "shmstats")
    stats, filler = shmstats.stats, small_disk / "filler"
    stats.incr("c", "m")
    wait_until(lambda: saved_total(small_disk) == 1)
    fill(filler)
    with Watcher(shmstats, small_disk) as watcher:
        stats.incr("c", "m")
        wait_until(lambda: errors(caplog))
        for _ in range(3):
            stats.incr("c", "m")
            read = watcher.read
            wait_until(lambda read=read: watcher.read > read + 100)
        assert stats.get("c", "m") == 5
        assert saved_total(small_disk) == 1
        (message,) = [each for each in errors(caplog) if "cannot be saved" in each]
        assert os.strerror(errno.ENOSPC) in message
        filler.unlink()
        wait_until(lambda: saved_total(small_disk) == 5)
    assert watcher.wrong == []
    wait_until(lambda: [r for r in caplog.records if "the statistics can be saved" in r.getMessage()])
    assert len([each for each in errors(caplog) if "cannot be saved" in each]) == 1
    assert snapshots(small_disk) == ["simple.json", "simple.json.1"]
    shmstats.close()


def test_if_the_last_save_fails_on_a_full_disk_the_block_is_kept(
    shmstats: ModuleType, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stats, filler = shmstats.stats, small_disk / "filler"
    fill(filler)
    stats.incr("c", "m", 3)
    shmstats.close()
    assert segment_file(small_disk).exists()
    assert any("stay in shared memory" in message for message in errors(caplog))
    assert stats.get("c", "m") == 3
    filler.unlink()
    shmstats.close()
    assert saved_total(small_disk) == 3


def test_a_read_only_directory_stops_no_counting_and_is_logged_once(
    shmstats: ModuleType, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stats = shmstats.stats
    stats.incr("c", "m", 2)
    shmstats.close()
    remount(small_disk, "ro")
    try:
        stats.incr("c", "m")
        wait_until(lambda: errors(caplog))
        block = stats.shared.attach()
        for _ in range(2):
            stats.shared._saver.save_or_tell()
        assert block is stats.shared.attach()
        (message,) = [each for each in errors(caplog) if "cannot be saved" in each]
        assert "Read-only file system" in message
        assert stats.get("c", "m") == 3
        assert saved_total(small_disk) == 2
    finally:
        remount(small_disk, "rw")
    wait_until(lambda: saved_total(small_disk) == 3)
    shmstats.close()
    assert stats.get("c", "m") == 3


@pytest.mark.parametrize("place", ["data", "data/stats"])
def test_a_file_in_place_of_the_directory_stops_no_counting(
    shmstats: ModuleType, tmp_path: Path, data: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    stats, obstacle = shmstats.stats, tmp_path / place
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.write_text("in the way")
    stats.incr("c", "m")
    wait_until(lambda: any("cannot be saved" in message for message in errors(caplog)))
    stats.incr("c", "m")
    assert stats.get("c", "m") == 2
    assert obstacle.read_text() == "in the way"
    assert len([message for message in errors(caplog) if "cannot be saved" in message]) == 1
    obstacle.unlink()
    wait_until(lambda: saved_total(data) == 2)


# Damage -----------------------------------------------------------------------------------------------


@pytest.fixture
def two_saved(shmstats: ModuleType, data: Path) -> Path:
    """The directory of the saved snapshots: 2 in the newer one, 1 in the older one."""
    for _ in range(2):
        shmstats.stats.incr("c", "m")
        shmstats.close()
    assert (saved_total(data), saved_total(data, "simple.json.1")) == (2, 1)
    return data / "stats"


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flipped(content: bytes) -> bytes:
    at = content.index(b'"values"') + 12
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": _cut,
    "one bit flipped": _flipped,
    "one byte missing at the end": lambda content: content[:-1],
    "something behind": lambda content: content + b" ",
    "zeros": lambda content: bytes(len(content)),
    "other JSON": lambda content: b'{"version": 1, "checksum": "", "data": {}}\n',
    "no text": lambda content: b"\xff\xfe" + content,
}


@pytest.mark.parametrize("core", ["C"], indirect=True)  # independent of the core
def test_a_damaged_snapshot_is_set_aside_and_the_previous_one_is_used(
    shmstats: ModuleType, two_saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newer, older = ((two_saved / name).read_bytes() for name in ("simple.json", "simple.json.1"))
    for what, damage in DAMAGES.items():
        caplog.clear()
        for file in two_saved.iterdir():
            file.unlink()
        damaged = damage(newer)
        (two_saved / "simple.json").write_bytes(damaged)
        (two_saved / "simple.json.1").write_bytes(older)
        assert shmstats.stats.get("c", "m") == 1, what
        (aside,) = two_saved.glob("simple.json.damaged-*")
        assert aside.read_bytes() == damaged
        (message,) = errors(caplog)
        assert str(two_saved / "simple.json") in message
        assert str(aside) in message
        shmstats.close()
        assert (saved_total(two_saved.parent), saved_total(two_saved.parent, "simple.json.1")) == (1, 1)
        assert aside.exists()


@pytest.mark.parametrize("kind", ["unreadable", "directory"])
def test_a_snapshot_that_cannot_be_read_is_set_aside_and_not_replaced(
    shmstats: ModuleType,
    two_saved: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """As a copy of a backup that root has made for itself."""
    file = two_saved / "simple.json"
    content = file.read_bytes()
    read_file = shmstats.snapshot.store.read_file

    def refused(path: Path) -> bytes:
        if path == file:
            raise PermissionError(13, "Permission denied")
        found: bytes = read_file(path)
        return found

    with monkeypatch.context() as patch:
        if kind == "directory":
            file.rename(two_saved / "moved")
            file.mkdir()
            (two_saved / "moved").rename(file / "simple.json")
        else:
            patch.setattr(shmstats.snapshot.store, "read_file", refused)
        assert shmstats.stats.get("c", "m") == 1
    for _ in range(3):
        shmstats.stats.incr("c", "m")
        shmstats.close()
    assert saved_total(two_saved.parent) == 4
    (aside,) = two_saved.glob("simple.json.unreadable-*")
    assert (aside / "simple.json" if kind == "directory" else aside).read_bytes() == content
    (message,) = errors(caplog)
    assert message.endswith(f"the snapshot was set aside as {aside}")


@pytest.mark.parametrize("core", ["C"], indirect=True)  # independent of the core
def test_a_snapshot_that_cannot_be_read_for_lack_of_descriptors_is_read_later(
    shmstats: ModuleType, two_saved: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(shmstats.snapshot.store, "read_file", refused)
        assert shmstats.stats.get("c", "m") == 0
    (message,) = errors(caplog)
    assert message.startswith("nothing is counted: [Errno 24] Too many open files")
    wait_until(lambda: shmstats.stats.get("c", "m") == 2)
    assert sorted(file.name for file in two_saved.glob("simple.json*")) == ["simple.json", "simple.json.1"]


def test_statistics_start_at_0_if_both_snapshots_are_damaged(
    shmstats: ModuleType, two_saved: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("simple.json", "simple.json.1"):
        (two_saved / name).write_bytes(name.encode())
    assert shmstats.stats.get("c", "m") == 0
    assert sorted(file.read_text() for file in two_saved.glob("*.damaged-*")) == [
        "simple.json",
        "simple.json.1",
    ]
    assert len(errors(caplog)) == 2
    shmstats.stats.incr("c", "m", 7)
    shmstats.close()
    assert saved_total(data) == 7
    assert shmstats.stats.get("c", "m") == 7


def test_a_damaged_older_snapshot_has_no_effect(
    shmstats: ModuleType, two_saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (two_saved / "simple.json.1").write_bytes(b"")
    assert shmstats.stats.get("c", "m") == 2
    assert errors(caplog) == []


def test_snapshots_that_are_damaged_again_and_again_are_all_kept(
    shmstats: ModuleType, two_saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        (two_saved / "simple.json").write_bytes(b"damage %d" % number)
        assert shmstats.stats.get("c", "m") == 1
        shmstats.close()
    kept = sorted(file.read_bytes() for file in two_saved.glob("simple.json.damaged-*"))
    assert kept == [b"damage 0", b"damage 1", b"damage 2"]


def test_a_damaged_snapshot_that_cannot_be_moved_is_not_logged_as_set_aside(
    shmstats: ModuleType, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        shmstats.stats.incr("c", "m")
        shmstats.close()
    (small_disk / "stats" / "simple.json").write_bytes(b"damaged")
    remount(small_disk, "ro")
    try:
        assert shmstats.stats.get("c", "m") == 1
        assert not [message for message in errors(caplog) if "was set aside" in message]
        assert [message for message in errors(caplog) if "simple.json" in message]
    finally:
        remount(small_disk, "rw")
    shmstats.close()


# Content of snapshots-----------------------------------------------------------------------------------


def test_kinds_labels_and_histograms_are_restored_from_the_snapshot_alone(
    shmstats: ModuleType, python: PythonRunner, data: Path
) -> None:
    stats = shmstats.stats
    child = python.start(
        """
        from shmstats import stats
        stats.incr('k', 'up', 5); stats.incr('k', 'down', 5); stats.decr('k', 'down')
        stats.gauge('k', 'int', -3); stats.gauge('k', 'float', 0.1); stats.gauge('k', 'whole', 2.0)
        for ms in (0, 0.1, 3, 60000, 61000): stats.timing('k', 'time', ms)
        stats.timestamp('k', 'moment')
        print('ready'); input()
        """
    )
    assert child.hear() == "ready"
    wait_until(lambda: saver(data) == child.pid)  # before this process attaches and may become the saver
    before = stats.read()
    names = [name for name in before.names if name.metric != "moment" and name.category == "k"]
    wait_until(
        lambda: (
            (data / "stats" / "simple.json").exists()
            and set(names) <= set(shmstats.snapshot.store.load(data / "stats" / "simple.json").names)
        )
    )
    wait_until(
        lambda: (
            sum(
                value.count
                for name, value in zip(
                    *_columns(shmstats.snapshot.store.load(data / "stats" / "simple.json")),
                    strict=True,
                )
                if name.metric == "time"
            )
            == 5
        )
    )
    kept = (data / "stats" / "simple.json").read_bytes()
    child.kill()
    shmstats.close()
    shutil.rmtree(data)
    (data / "stats").mkdir(parents=True)
    (data / "stats" / "simple.json").write_bytes(kept)
    after = stats.read()
    values = {name: repr(value) for name, value in zip(*_columns(before), strict=True) if name in names}
    assert {name: repr(value) for name, value in zip(*_columns(after), strict=True) if name.category == "k"} == values


def _columns(snapshot: Any) -> tuple[Any, Any]:
    return snapshot.names, snapshot.values


@pytest.mark.parametrize("core", ["C"], indirect=True)  # independent of the core
def test_processes_killed_while_they_save_leave_a_valid_snapshot(
    shmstats: ModuleType, python: PythonRunner, data: Path
) -> None:
    child = python.start(
        """
        import os, signal, threading
        import shmstats.snapshot
        from shmstats import stats
        stats.incr('c', 'm', 3)
        while not os.path.exists('data/stats/simple.json'):
            threading.Event().wait(0.01)
        def killed(directory):
            os.kill(os.getpid(), signal.SIGKILL)
        sync = os.fsync
        os.fsync = killed
        stats.incr('c', 'm')
        threading.Event().wait()
        """
    )
    child.finish(status=-signal.SIGKILL, quiet=False)
    assert shmstats.stats.get("c", "m") == 4
    assert shmstats.snapshot.store.load(data / "stats" / "simple.json").values
    shmstats.close()
    assert not list((data / "stats").glob(".simple.json.*"))
    assert saved_total(data) == 4
    python.run("import sys; from shmstats.cli import main; sys.argv = ['shmstats', 'clean']; main()")
    assert snapshots(data) == ["simple.json", "simple.json.1"]
    assert not [name for name in os.listdir(SHARED_MEMORY) if segment_of(data) in name]


def test_a_slow_save_of_a_process_that_has_left_does_not_replace_a_newer_snapshot(
    shmstats: ModuleType, stats: Any, python: PythonRunner, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is slow: the background thread is still saving when others have saved and left."""
    waits, go_on = threading.Event(), threading.Event()
    sync = os.fsync

    def slow(fd: int) -> None:
        if threading.current_thread().name == "shmstats-saver":
            waits.set()
            go_on.wait(30)
        sync(fd)

    monkeypatch.setattr(shmstats.attachment.saver, "_STOP_SECONDS", 0.05)
    monkeypatch.setattr(os, "fsync", slow)
    stats.incr("c", "m")
    wait_until(waits.is_set)
    (saver,) = [thread for thread in threading.enumerate() if thread.name == "shmstats-saver"]
    child = python.start("from shmstats import stats\nstats.incr('c', 'm')\nprint()\ninput()\nstats.incr('c', 'm', 99)")
    child.hear()
    shmstats.close()
    child.tell()
    child.finish()
    assert saved_total(data) == 101
    assert list((data / "stats").glob(".simple.json.*")), "the file of a process that lives was removed"
    go_on.set()
    saver.join(30)
    assert not saver.is_alive()
    assert saved_total(data) == 101
    assert not list((data / "stats").glob(".simple.json.*"))


@pytest.mark.parametrize("core", ["C"], indirect=True)  # independent of the core
@pytest.mark.parametrize("step", range(4))
def test_a_save_interrupted_by_leaving_is_not_a_failure(
    shmstats: ModuleType,
    stats: Any,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: int,
) -> None:
    """The save waits for a lock; when it continues, the block has been saved and removed."""
    steps, waits, go_on = iter(range(10**6)), threading.Event(), threading.Event()
    locks = shmstats.block.lock.RecordLocks
    table = locks.table

    def held_up(self: Any) -> Any:
        if threading.current_thread().name == "shmstats-saver" and next(steps) == step:
            waits.set()
            go_on.wait(30)
        return table(self)

    monkeypatch.setattr(shmstats.attachment.saver, "_STOP_SECONDS", 0.05)
    monkeypatch.setattr(locks, "table", held_up)
    stats.incr("c", "m")
    wait_until(waits.is_set)
    (saver,) = [thread for thread in threading.enumerate() if thread.name == "shmstats-saver"]
    stats.incr("c", "m", 6)
    shmstats.close()
    saved = (data / "stats" / "simple.json").read_bytes()
    go_on.set()
    saver.join(30)
    assert not saver.is_alive()
    assert (saved_total(data), errors(caplog)) == (7, [])
    assert (data / "stats" / "simple.json").read_bytes() == saved
    assert not list((data / "stats").glob(".simple.json.*"))


def test_a_save_for_a_page_that_fails_while_the_block_is_left_raises_nothing(
    shmstats: ModuleType, stats: Any, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, go_on = threading.Event(), threading.Event()

    def fail(*arguments: Any) -> None:
        raise OSError(errno.EIO, "no such disk")

    def tell_slowly(text: str) -> None:
        waits.set()
        go_on.wait(30)

    monkeypatch.setattr(shmstats.attachment.saver, "_STOP_SECONDS", 0.05)
    stats.incr("c", "m", 7)
    saver = stats.shared._saver
    with ThreadPoolExecutor(1) as page:
        with monkeypatch.context() as patch:
            patch.setattr(saver, "save", fail)
            patch.setattr(saver, "_tell", tell_slowly)
            saved = page.submit(saver.save_or_tell)
            wait_until(waits.is_set)
            shmstats.close()
        go_on.set()
        assert saved.result(30) is None
    assert saved_total(data) == 7


def test_a_saver_started_while_another_thread_leaves_is_stopped(
    stats: Any, data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stats.incr("c", "m", 7)
    attachment = stats.shared
    saver = attachment._saver
    stop = attachment._stop_agent

    def attached_after(of_left: bool = False) -> None:
        """Start new threads of the block right after the old ones were stopped."""
        if of_left:
            stop(of_left)

    wait_until(lambda: saved_total(data) == 7)
    monkeypatch.setattr(attachment, "_stop_agent", attached_after)
    stats.incr("c", "m")
    agent = attachment._agent
    stats.close()
    assert all(thread.join(30) for thread in saver._threads._threads)
    assert agent._run is None or agent._run.thread.join(30)
    assert (saved_total(data), errors(caplog)) == (8, [])


def test_a_close_made_by_the_saving_thread_itself_ends_it(
    shmstats: ModuleType, stats: Any, data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A call deferred by a signal handler is made by the next thread that leaves the guard."""
    closing: list[threading.Thread] = []
    remove_stale = shmstats.snapshot.store.remove_stale

    def close(directory: Path) -> None:
        if not closing:
            closing.append(threading.current_thread())
            shmstats.close()
        remove_stale(directory)

    monkeypatch.setattr(shmstats.snapshot.store, "remove_stale", close)
    stats.incr("c", "m", 7)
    wait_until(lambda: closing)
    closing[0].join(30)
    assert (closing[0].name, closing[0].is_alive()) == ("shmstats-saver", False)
    assert not segment_file(data).exists()
    assert (saved_total(data), caplog.text) == (7, "")


def test_file_and_directory_are_synced_around_the_rename_of_a_snapshot(
    shmstats: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    replace, sync = os.replace, os.fsync

    def note_sync(fd: int) -> None:
        done.append("sync " + os.path.basename(os.readlink(f"/proc/self/fd/{fd}")).partition(".simple")[0][:5])
        sync(fd)

    def note_replace(source: Any, target: Any) -> None:
        done.append(f"replace {os.path.basename(target)}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    nothing = shmstats.series.Snapshot([], [])
    for _ in range(2):
        shmstats.snapshot.store.save(tmp_path / "stats", nothing)
    assert done == [
        *("sync ", "replace simple.json", "sync stats"),
        *("sync ", "replace simple.json.1", "replace simple.json", "sync stats"),
    ]
