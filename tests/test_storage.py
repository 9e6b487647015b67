"""The size of a data directory: exact if the walk is quick, and never waited for."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from shmstats.storage import Storage, StorageMeter


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


def measure(directory: Path) -> Storage:
    return StorageMeter(directory, 60).read()


def test_the_size_is_the_sum_of_the_regular_files(data: Path, tmp_path: Path) -> None:
    (outside := tmp_path / "outside").mkdir()
    (outside / "canary").write_text("alive")
    (data / "inner").mkdir()
    (data / "file").write_bytes(b"12345")
    (data / "inner" / "file").write_bytes(b"67")
    (data / "link").symlink_to(outside)
    (data / "inner" / "dangling").symlink_to("nowhere")
    os.mkfifo(data / "fifo")
    found = measure(data)
    assert (found.store, found.complete) == (7, True)
    assert 0 < found.available <= found.free <= found.all
    assert measure(data / "missing").store == 0


def test_a_tree_of_any_depth_leaves_no_descriptor_open(data: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    deep = data
    for _ in range(200):
        deep = deep / "d"
        deep.mkdir()
        (deep / "f").write_bytes(b"x")
    assert measure(data).store == 200
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_directory_is_not_walked_again_before_the_interval_ends(data: Path) -> None:
    meter = StorageMeter(data, 60)
    meter.read()
    (data / "late").write_bytes(b"x")
    assert meter.read().store == 0


def test_a_forked_child_measures_by_itself(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "f").write_bytes(b"x")
    goes_on = threading.Event()
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: goes_on.wait() and scandir(path))
    meter = StorageMeter(data, 0)
    assert not meter.read().complete
    if not (child := os.fork()):
        monkeypatch.undo()
        meter._patience = 60
        os._exit(0 if meter.read()[:1] == (1,) else 1)
    goes_on.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_unreadable_directory_is_measured_without_its_content(data: Path) -> None:
    data.chmod(0)
    child = os.fork()
    if not child:
        status = 1
        try:
            if os.geteuid() == 0:
                os.setresuid(65534, 65534, 65534)
            found = measure(data / "below")
            status = 0 if found.store == 0 < found.all else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
