"""The memory under a block: no resource tracker, reservation, permissions."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from importlib import import_module
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import segment_file

pytestmark = pytest.mark.far_from_core


def can_mount() -> bool:
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/dev/shm"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o377])
def test_a_segment_is_private_under_any_umask(attach: Any, data: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        attach()
    finally:
        os.umask(before)
    found = segment_file(data).stat()
    assert stat.S_IMODE(found.st_mode) & 0o177 == 0
    assert found.st_uid == os.geteuid()


def test_a_process_that_attached_and_ends_unlinks_nothing(stats: Any, python: Any, data: Path) -> None:
    stats.incr("c", "m")
    for _ in range(2):
        python.run("from shmstats import stats; stats.incr('c', 'm')")
        assert segment_file(data).exists()
    assert stats.get("c", "m") == 3


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_resource_tracker_does_not_track_segments(stats: Any, python: Any, data: Path, method: str) -> None:
    """The tracker would unlink the block when the child ends, and warn of a leak when the parent ends."""
    code = """
        import multiprocessing, sys
        from multiprocessing import resource_tracker
        from shmstats import stats

        def count():
            from shmstats import stats
            stats.incr("c", "m")

        if __name__ == "__main__":
            resource_tracker.ensure_running()
            context = multiprocessing.get_context(sys.argv[1])
            stats.incr("c", "m")
            for _ in range(2):
                child = context.Process(target=count)
                child.start()
                child.join()
                assert child.exitcode == 0
            assert stats.get("c", "m") == 4, stats.get("c", "m")
    """
    stats.incr("c", "m")
    python.run(code, method)
    assert segment_file(data).exists()
    assert stats.get("c", "m") == 4


def test_other_segments_are_still_tracked(shmstats: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(resource_tracker._resource_tracker, "register", lambda name, kind: told.append(name))
    monkeypatch.setattr(resource_tracker._resource_tracker, "unregister", lambda name, kind: None)
    monkeypatch.setattr(resource_tracker, "register", resource_tracker.register)
    other = SharedMemory(create=True, size=4096)
    try:
        shmstats.stats.incr("c", "m")
    finally:
        other.close()
        other.unlink()
    assert not any("shmstats" in name for name in told)


def test_a_segment_that_cannot_be_mapped_stays(stats: Any, python: Any, data: Path) -> None:
    stats.incr("c", "m")
    code = """
        import mmap, shmstats

        def fail(*_, **__):
            raise OSError(12, "Cannot allocate memory")

        mmap.mmap = fail
        try:
            shmstats.init()
        except OSError as error:
            print(error.strerror)
    """
    assert python.run(code, quiet=False) == "Cannot allocate memory\n"
    assert segment_file(data).exists()
    assert stats.get("c", "m") == 1


def test_memory_is_used_only_after_it_was_reserved(stats: Any, data: Path, python: Any) -> None:
    """A page without its bit is never touched: the file grows only by reserved pages."""
    stats.incr("c", "m")
    block = stats.shared.attach()
    from shmstats.layout import PAGE

    def pages() -> int:
        return segment_file(data).stat().st_blocks * 512 // PAGE

    before = pages()
    stats.get("c", "m")
    stats.get("c", "nobody")
    stats.snapshot()
    block.reader.read(by_worker=True)
    block.reader.usage()
    list(block.reader.workers)
    stats.reset("c")
    assert pages() == before
    reserved = block.reader.columns.pages_in_use()
    for number in range(300):
        stats.incr("c", f"name {number}")
    grown = block.reader.columns.pages_in_use() - reserved
    names = -(-block.names.count * 64 // PAGE) - 1
    heap = -(-block.names.heap_used // PAGE) - 1
    assert pages() - before == grown + names + heap
    python.run(
        "from shmstats.reading.reader import read_only; from pathlib import Path; import sys\n"
        "with read_only(Path(sys.argv[1])) as reader: print(len(reader.read().names))",
        data,
    )
    assert pages() - before == grown + names + heap


def full_after(reserve: Callable[..., None], allowed: int) -> Callable[..., None]:
    calls = 0

    def limited(self: Any, offset: int, length: int) -> None:
        nonlocal calls
        calls += 1
        if calls > allowed:
            raise OSError(28, "No space left on device")
        reserve(self, offset, length)

    return limited


def test_if_no_memory_is_left_new_names_are_dropped_and_old_ones_count_on(
    core: str, stats: Any, shmstats: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if core == "C":
        pytest.skip("C reserves by itself: tests/faults/test_full.py fills a memory")
    segment = shmstats.block.lock.RecordLocks
    stats.incr("c", "m")
    monkeypatch.setattr(segment, "reserve", full_after(segment.reserve, 0))
    for number in range(500):
        stats.incr("c", f"name {number}")
        stats.incr("c", "m")
    counted = stats.snapshot()["c"]
    assert counted.pop("m") == 501
    assert 0 < len(counted) < 500
    assert set(counted.values()) == {1}
    assert stats.get("shmstats", "operations_dropped") == 500 - len(counted)
    assert len([record for record in caplog.records if "shared memory is full" in record.getMessage()]) == 1
    monkeypatch.undo()
    stats.incr("c", "name 499")
    assert stats.get("c", "name 499") == 1


def test_a_worker_without_memory_for_its_row_shares_a_row(
    attach: Any, shmstats: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, segment = shmstats.series.Kind, shmstats.block.lock.RecordLocks
    one = attach()
    record = one.find_or_add(b"c\0m", kind.COUNTER, 1)
    other = attach()
    monkeypatch.setattr(segment, "reserve", full_after(segment.reserve, 0))
    assert (other.worker.row, other.row_for(record)) == (2, 1)
    other.cells.add(other.row_for(record), record.cell, 5, other.cells.generation)
    one.cells.add(one.row_for(record), record.cell, 5, one.cells.generation)
    assert one.reader.value(record) == 10
    monkeypatch.undo()
    assert other.row_for(record) == 2


@pytest.mark.skipif(not can_mount(), reason="a small tmpfs cannot be mounted here")
@pytest.mark.parametrize(
    "size",
    [
        *("4k", "28k", "40k", "96k"),
        *(pytest.param(size, marks=pytest.mark.thorough) for size in ("16k", "32k", "48k", "64k")),
    ],
)
def test_a_small_shared_memory_kills_no_process(python: Any, size: str, tmp_path: Path, configure: Any) -> None:
    configure(capacity=1024, persist=False)
    mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    python.prefix = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    code = """
        import os, sys
        from shmstats import stats
        for number in range(800):
            stats.incr("c", f"name {number}")
            stats.gauge("g", f"name {number}", number)
        children = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                for number in range(800):
                    stats.incr("c", f"name {number}")
                stats.snapshot()
                stats.close()
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        values = stats.snapshot()
        counted = values.get("c", {})
        assert set(counted.values()) <= {1, 2, 3, 4}, counted
        print(len(counted))
    """
    child = python.start(code)
    child.finish(quiet=False)
    assert "Traceback" not in child.stderr
    assert "No space" in child.stderr or "full" in child.stderr or size in ("64k", "96k")


def test_a_process_that_closes_all_descriptors_counts_on_and_its_files_are_untouched(python: Any, stats: Any) -> None:
    """Code that turns its process into a daemon closes all descriptors; their numbers are then reused for its files."""
    code = """
        import os
        from shmstats import stats
        stats.incr("c", "m")
        kept = os.dup(1)
        os.closerange(3, kept)
        files = [open(f"own {number}", "w+b", buffering=0) for number in range(12)]
        for number in range(600):
            stats.incr("c", f"name {number}")
        stats.incr("c", "m")
        print([os.fstat(file.fileno()).st_size for file in files] == [0] * 12, len(stats.snapshot()["c"]))
        os._exit(0)
    """
    # The background thread's descriptors are closed too, so it may log that.
    assert python.run(code, quiet=False) == "True 601\n"
    assert stats.get("c", "m") == 2
    assert stats.get("c", "name 599") == 1


def test_a_reader_that_fails_keeps_no_descriptor_whose_close_would_drop_the_locks_of_the_process(
    shmstats: ModuleType, data: Path
) -> None:
    read_only = import_module("shmstats.reading.reader").read_only
    file = segment_file(data)
    file.write_bytes(bytes(65536))
    file.chmod(0o600)
    with pytest.raises(FileNotFoundError, match="not finished") as kept, read_only(data):
        pass
    opened = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    assert str(file) not in opened
    assert kept.value is not None
    file.unlink()


@pytest.mark.skipif(not can_mount(), reason="must be able to mount a file system")
def test_on_a_read_only_mount_attaching_names_that_also_while_a_reader_has_the_block(
    python: Any, stats: Any, data: Path
) -> None:
    stats.incr("c", "m")
    mount = 'mount --bind /dev/shm /dev/shm && mount -o remount,ro,bind /dev/shm && exec "$@"'
    python.prefix = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    code = """
        import shmstats, sys
        from pathlib import Path
        from shmstats.reading.reader import read_only
        with read_only(Path(sys.argv[1])) as reader:
            print("m" in [name.metric for name in reader.read().names])
            try:
                shmstats.init()
            except OSError as error:
                print(error.strerror, Path(error.filename).parent)
    """
    assert python.run(code, data, quiet=False) == "True\nRead-only file system /dev/shm\n"
