"""Creating, attaching, adopting and leaving a block; and blocks that are refused."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import Child, segment_file, with_hold

COUNT_AND_WAIT = """
    from shmstats import stats
    stats.incr("c", "m")
    print("counted", flush=True)
    input()
"""


def field(shmstats: ModuleType, name: str) -> tuple[int, int]:
    layout = shmstats.block.layout
    return layout.HEADER.offset(name), layout.HEADER.fields[name][1]


def write_header(shmstats: ModuleType, data: Path, **values: int) -> None:
    with segment_file(data).open("r+b") as file:
        for name, value in values.items():
            offset, size = field(shmstats, name)
            file.seek(offset)
            file.write(value.to_bytes(size, "little"))


def leave_behind(python: Any, count: int = 1) -> None:
    """Make a block whose processes were killed."""
    children = [python.start(COUNT_AND_WAIT) for _ in range(count)]
    for child in children:
        child.hear()
    for child in children:
        child.signal(signal.SIGKILL)
    for child in children:
        child.finish(status=-signal.SIGKILL)


@pytest.fixture
def refused(attach: Any, data: Path) -> Iterator[Path]:
    """The file of a block without processes, for a test to damage; removed at the end."""
    block = attach(capacity=1024, max_workers=8)
    file = segment_file(data)
    content = file.read_bytes()
    block.leave()
    file.touch(0o600)
    file.write_bytes(content)
    yield file
    for name in file.parent.glob(f"{file.name}*"):
        name.unlink()


# Making and attaching -----------------------------------------------------------------------------------


def test_many_processes_that_start_at_once_share_one_block(python: Any, stats: Any, data: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    code = """
        import os, sys, time
        from shmstats import stats
        print("ready", flush=True)
        end = time.monotonic() + 60
        while not os.path.exists(sys.argv[1]):
            assert time.monotonic() < end
        for number in range(50):
            stats.incr("c", "m")
            stats.incr("c", f"name {number}")
        print(os.stat(sys.argv[2]).st_ino, flush=True)
        input()
    """
    children: list[Child] = [python.start(code, gate, segment_file(data)) for _ in range(12)]
    for child in children:
        child.hear()
    gate.touch()
    assert len({child.hear() for child in children}) == 1
    assert stats.snapshot()["c"] == {"m": 600} | {f"name {number}": 12 for number in range(50)}
    for child in children:
        child.tell()
    for child in children:
        child.finish()


def test_processes_that_attach_and_leave_repeatedly_lose_nothing(python: Any, stats: Any, data: Path) -> None:
    """Each process may be the first or the last, so the block is created and removed all the time."""
    code = """
        from shmstats import stats
        import shmstats
        for _ in range(40):
            stats.incr("c", "m")
            shmstats.close()
    """
    children = [python.start(code) for _ in range(4)]
    for child in children:
        child.finish()
    assert not segment_file(data).exists()
    assert not list(segment_file(data).parent.glob(f"{segment_file(data).name}*"))
    assert stats.get("c", "m") == 160


def test_only_the_last_process_to_leave_unlinks_the_block(stats: Any, python: Any, data: Path) -> None:
    children = [python.start(COUNT_AND_WAIT) for _ in range(3)]
    for child in children:
        child.hear()
    for child in children:
        assert segment_file(data).exists()
        child.tell()
        child.finish()
    assert not segment_file(data).exists()
    assert not list(segment_file(data).parent.glob(f"{segment_file(data).name}*"))
    assert stats.get("c", "m") == 3


@pytest.mark.parametrize("content", [b"", bytes(4096), bytes(100_000)], ids=["empty", "a page", "zeros"])
def test_an_unfinished_block_of_a_killed_creator_is_replaced(stats: Any, data: Path, content: bytes) -> None:
    segment_file(data).write_bytes(content)
    segment_file(data).chmod(0o600)
    stats.incr("c", "m")
    assert stats.get("c", "m") == 1


def test_the_last_process_to_leave_removes_the_file_of_a_killed_creator(python: Any, stats: Any, data: Path) -> None:
    stats.incr("c", "m")
    maker = int(python.run("import os; print(os.getpid())"))
    unfinished = Path(f"{segment_file(data)}.{maker}_0a1b2c3d.new")
    being_made = Path(f"{segment_file(data)}.{os.getpid()}_0a1b2c3d.new")
    unfinished.touch()
    being_made.touch()
    try:
        stats.close()
        assert (unfinished.exists(), being_made.exists()) == (False, True)
    finally:
        being_made.unlink()


def test_a_file_that_seems_to_be_made_by_an_impossible_process_stops_no_creator(stats: Any, data: Path) -> None:
    """Other users can make such a file in shared memory."""
    unfinished = Path(f"{segment_file(data)}.{10**20}_0a1b2c3d.new")
    unfinished.touch()
    try:
        stats.incr("c", "m")
        assert stats.get("c", "m") == 1
    finally:
        unfinished.unlink(missing_ok=True)


@pytest.mark.far_from_core
def test_a_creator_killed_at_any_step_does_not_stop_the_next(python: Any, stats: Any, data: Path) -> None:
    code = """
        import os, signal, sys
        from shmstats import stats
        from shmstats.block import block, lock, names, workers

        steps = int(sys.argv[1])
        def counting(function):
            def counted(*arguments, **keywords):
                global steps
                if steps == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                steps -= 1
                return function(*arguments, **keywords)
            return counted

        os.ftruncate = counting(os.ftruncate)
        lock.RecordLocks.reserve = counting(lock.RecordLocks.reserve)
        block.Block.__init__ = counting(block.Block.__init__)
        workers.WorkerTable.claim = counting(workers.WorkerTable.claim)
        names.NameTable.add = counting(names.NameTable.add)
        stats.incr("c", "m")
        stats.close()
        print("done", flush=True)
    """
    killed = 0
    while True:
        child = python.start(code, killed)
        if child.finish(status=None):
            break
        assert not Path(f"/proc/{child.pid}").exists()
        stats.incr("c", "n")
        killed += 1
        assert stats.get("c", "n") == killed
        stats.close()
    assert killed > 6
    assert stats.get("c", "m") == 1


# Refusing ---------------------------------------------------------------------------------------------------


def test_a_block_of_another_owner_is_refused_and_both_owners_are_named(
    shmstats: ModuleType, refused: Path, data: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(refused, 12345, -1)
    with pytest.raises(shmstats.BlockError, match="belongs to user 12345; it must belong to user 0"):
        shmstats.init()
    with pytest.raises(shmstats.BlockError, match="belongs to user 12345"), shmstats.reading.reader.read_only(data):
        pass


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o620])
def test_a_wider_mode_is_refused(shmstats: ModuleType, refused: Path, data: Path, mode: int) -> None:
    refused.chmod(mode)
    with pytest.raises(shmstats.BlockError, match=r"has mode -rw.*; it must be -rw-------"):
        shmstats.init()
    with pytest.raises(shmstats.BlockError, match="has mode"), shmstats.reading.reader.read_only(data):
        pass


def test_an_unfinished_block_of_another_owner_is_not_touched(shmstats: ModuleType, refused: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    for content in (b"", bytes(8192)):
        refused.write_bytes(content)
        refused.chmod(0o600)
        os.chown(refused, 12345, -1)
        with pytest.raises(shmstats.BlockError, match="belongs to user 12345"):
            shmstats.init()
        assert refused.read_bytes() == content


def test_a_link_in_place_of_the_block_is_not_followed(shmstats: ModuleType, refused: Path, tmp_path: Path) -> None:
    refused.unlink()
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    refused.symlink_to(target)
    with pytest.raises(shmstats.BlockError, match="has mode lrwxrwxrwx; it must be -rw-------"):
        shmstats.init()
    shmstats.stats.incr("c", "m")
    assert target.read_bytes() == b"precious"
    assert refused.is_symlink()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"magic": 1}, "does not begin with the header of a shmstats block"),
        ({"capacity": 512}, r"bytes long, but by its header \(capacity 512, max_workers 8\) it has"),
        ({"capacity": 0}, "it is damaged"),
        ({"max_workers": 0}, "it is damaged"),
        ({"capacity": 2**32 - 1, "max_workers": 2**32 - 1}, "it is damaged"),
    ],
    ids=str,
)
def test_a_dead_block_whose_header_cannot_be_is_set_aside_and_logged(
    shmstats: ModuleType,
    refused: Path,
    data: Path,
    caplog: pytest.LogCaptureFixture,
    values: dict[str, int],
    message: str,
) -> None:
    write_header(shmstats, data, **values)
    before = refused.read_bytes()
    shmstats.init()
    shmstats.stats.incr("c", "m")
    assert shmstats.stats.get("c", "m") == 1
    aside = Path(f"{refused}.damaged")
    assert aside.read_bytes() == before
    (told,) = [record.getMessage() for record in caplog.records if "set aside" in record.getMessage()]
    assert re.search(message, told)
    assert f"set aside as {aside} for inspection" in told


def test_a_header_that_cannot_be_is_refused_while_processes_use_the_block(
    shmstats: ModuleType, python: Any, data: Path
) -> None:
    child = python.start(COUNT_AND_WAIT)
    child.hear()
    offset, size = field(shmstats, "capacity")
    with segment_file(data).open("rb") as file:
        file.seek(offset)
        capacity = int.from_bytes(file.read(size), "little")
    write_header(shmstats, data, capacity=512)
    with pytest.raises(shmstats.BlockError, match="it is damaged; live processes use it: stop them first"):
        shmstats.init()
    shmstats.stats.incr("c", "m")
    write_header(shmstats, data, capacity=capacity)
    child.tell()
    child.finish()


@pytest.mark.parametrize("version", [0, 3, 99])
def test_a_dead_block_of_another_layout_is_set_aside_and_logged(
    shmstats: ModuleType, refused: Path, data: Path, caplog: pytest.LogCaptureFixture, version: int
) -> None:
    write_header(shmstats, data, layout_version=version)
    before = refused.read_bytes()
    shmstats.stats.incr("c", "m")
    assert shmstats.stats.get("c", "m") == 1
    assert Path(f"{refused}.layout{version}").read_bytes() == before
    assert f"has layout version {version}, this shmstats has version" in caplog.text


def test_a_live_block_of_another_layout_is_refused(
    shmstats: ModuleType, python: Any, data: Path, configure: Callable[..., Any]
) -> None:
    configure(snapshot_interval_ms=3_600_000)  # so that the owner does not begin to save meanwhile
    code = "from shmstats import stats; stats.incr('c', 'm', 7); print(stats.get('c', 'm'), flush=True); input()"
    child = python.start(code)
    child.hear()
    write_header(shmstats, data, layout_version=99)
    before = segment_file(data).read_bytes()
    with pytest.raises(shmstats.BlockError, match=r"has layout version 99.*stop the processes"):
        shmstats.init()
    assert segment_file(data).read_bytes() == before
    write_header(shmstats, data, layout_version=shmstats.block.layout.LAYOUT_VERSION)
    child.tell()
    child.finish()


@pytest.mark.parametrize("size", [1, 4095, 4096, 20000])
def test_a_truncated_block_is_refused_to_readers_and_set_aside_by_a_process_that_counts(
    shmstats: ModuleType, refused: Path, data: Path, size: int
) -> None:
    os.truncate(refused, size)
    with pytest.raises(shmstats.BlockError, match=rf"is {size} bytes long"), shmstats.reading.reader.read_only(data):
        pass
    shmstats.init()
    assert Path(f"{refused}.damaged").stat().st_size == size


def other_core(core: str) -> str:
    return "1" if core == "C" else ""


def test_a_live_block_of_the_other_core_is_refused(
    stats: Any, shmstats: ModuleType, python: Any, core: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("shmstats.core._cells")
    stats.incr("c", "m")
    monkeypatch.setenv("SHMSTATS_PURE", other_core(core))
    child = python.start("import shmstats; shmstats.init()")
    child.finish(status=1, quiet=False)
    for part in ("compare-and-swap", "record locks", "run all processes with the same core"):
        assert part in child.stderr


def test_a_dead_block_of_the_other_core_is_adopted_and_its_locks_are_taken_over(
    stats: Any, python: Any, core: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("shmstats.core._cells")
    monkeypatch.setenv("SHMSTATS_PURE", other_core(core))
    child = python.start(
        with_hold("""
        from shmstats import stats
        stats.incr("c", "m", 5)
        block = stats.shared.attach()
        hold(block, 1, block.names.find(b"c\\0m").cell, block.worker.word)
        print("held", flush=True)
        input()
        """)
    )
    child.hear()
    child.signal(signal.SIGKILL)
    child.finish(status=-signal.SIGKILL)
    stats.incr("c", "m")
    assert stats.get("c", "m") == 6
    block = stats.shared.attach()
    assert block.reader.header.number("protocol") == (1 if core == "C" else 2)


def test_other_configured_sizes_are_logged_and_the_block_keeps_its_own(
    stats: Any, python: Any, configure: Any, caplog: pytest.LogCaptureFixture
) -> None:
    child = python.start(COUNT_AND_WAIT)
    child.hear()
    configure(capacity=2048, max_workers=3)
    stats.incr("c", "m")
    assert stats.get("c", "m") == 2
    assert "keeps capacity 1024 and max_workers 8" in caplog.text
    assert "configured: 2048 and 3" in caplog.text
    child.tell()
    child.finish()


# Crashes ----------------------------------------------------------------------------------------------------------


def test_after_a_kill_of_all_the_next_start_adopts_the_block(python: Any, stats: Any, data: Path) -> None:
    leave_behind(python, 4)
    inode = segment_file(data).stat().st_ino
    assert stats.get("c", "m") == 4
    assert segment_file(data).stat().st_ino == inode
    stats.incr("c", "m")
    assert stats.get("c", "m") == 5
    assert stats.shared.attach().worker.row == 1
    stats.close()
    assert not segment_file(data).exists()
    assert stats.get("c", "m") == 5


def test_adoption_restarts_the_uptime_and_joining_does_not(
    python: Any, stats: Any, shmstats: ModuleType, data: Path
) -> None:
    leave_behind(python)
    before = time.monotonic_ns()
    stats.get("c", "m")
    started = stats.shared.attach().reader.header.number("started")
    assert started >= before
    python.run("from shmstats import stats; stats.incr('c', 'm')")
    assert stats.shared.attach().reader.header.number("started") == started


def test_a_kill_while_a_block_is_finished_leaves_no_damaged_block(python: Any, stats: Any, data: Path) -> None:
    child = python.start(
        """
        import os, signal
        from shmstats import stats
        from shmstats.block import attaching
        attaching._store = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        stats.incr("c", "m")
        """
    )
    child.finish(status=-signal.SIGKILL)
    made = segment_file(data)
    assert made.exists()
    inode = made.stat().st_ino
    stats.incr("c", "m")
    assert (made.stat().st_ino, stats.get("c", "m")) == (inode, 1)
    stats.close()
    assert sorted(made.parent.glob(f"{made.name}*")) == []


def test_adoption_writes_only_the_fields_that_change(
    python: Any, stats: Any, shmstats: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`struct.pack_into` zeroes its target first: a kill in between would leave a block without a magic."""
    leave_behind(python)
    struct_of_header = shmstats.block.header._HEADER

    class ReadOnly:
        unpack_from = staticmethod(struct_of_header.unpack_from)

        @staticmethod
        def pack_into(*_: object) -> None:
            raise AssertionError("the whole header of a finished block is written")

    monkeypatch.setattr(shmstats.block.header, "_HEADER", ReadOnly)
    shmstats.init()
    assert stats.get("c", "m") == 1


def test_the_next_process_to_attach_repairs_a_change_that_a_kill_interrupted(
    python: Any, stats: Any, shmstats: ModuleType, data: Path, core: str
) -> None:
    if core == "C":
        pytest.skip("a change runs no Python code; tests/model kills inside it")
    code = """
        import os, signal
        from shmstats import stats
        from shmstats.core._names_py import NameIndex
        for number in range(20):
            stats.incr("c", f"name {number}")
        stats.remove("c", "name 7")
        NameIndex._store = lambda self, number, field, value: os.kill(os.getpid(), signal.SIGKILL)
        stats.incr("c", "name 21")
    """
    python.start(code).finish(status=-signal.SIGKILL)
    stats.incr("c", "name 3")
    values = stats.snapshot()["c"]
    values.pop("a longer name that reuses no place", None)
    assert values == {f"name {number}": 1 for number in range(20) if number != 7} | {"name 3": 2}
    stats.incr("c", "a longer name that reuses no place")
    assert stats.get("c", "a longer name that reuses no place") == 1


def test_processes_of_a_removed_block_add_their_counts_to_its_successor(python: Any, stats: Any, data: Path) -> None:
    child = python.start(COUNT_AND_WAIT)
    child.hear()
    segment_file(data).unlink()
    stats.incr("c", "m", 10)
    inode = segment_file(data).stat().st_ino
    child.tell()
    child.finish(quiet=False)
    assert "was removed while it was in use" in child.stderr
    assert segment_file(data).stat().st_ino == inode
    assert stats.get("c", "m") == 11  # the counts of the removed block are carried over once


def test_a_new_block_is_filled_before_other_processes_see_it(attach: Any, shmstats: ModuleType, data: Path) -> None:
    seen: list[bytes] = []

    def fill(block: Any) -> None:
        seen.append(segment_file(data).read_bytes()[:8])
        packing = shmstats.snapshot.packing.Packing({})
        packing.add_checked([(shmstats.series.Name("c", "m", shmstats.series.Kind.COUNTER), 5)])
        assert shmstats.block.restoring.restore(block, packing.packed()) == []

    block = attach(fill=fill)
    assert seen == [bytes(8)]
    assert block.reader.value(block.names.find(b"c\0m")) == 5
    new: list[bool] = []
    other = attach(fill=lambda block: new.append(block.is_new))
    assert new == [False]
    assert other.reader.read().values == [5]


def test_a_fill_that_raises_leaves_no_block(attach: Any, data: Path) -> None:
    def fill(block: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        attach(fill=fill)
    assert not segment_file(data).exists()
    assert not list(segment_file(data).parent.glob(f"{segment_file(data).name}*"))
    attach()
    with pytest.raises(ZeroDivisionError):
        attach(fill=fill)
    assert len(list(attach().workers)) == 2


def test_if_the_last_save_fails_the_next_process_adopts_the_block(
    attach: Any, data: Path, shmstats: ModuleType
) -> None:
    block = attach()
    record = block.find_or_add(b"c\0m", shmstats.series.Kind.COUNTER, 1)
    block.cells.add(block.row_for(record), record.cell, 5, block.cells.generation)

    def save(block: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        block.leave(save)
    assert segment_file(data).exists()
    again = attach()
    assert again.reader.value(again.names.find(b"c\0m")) == 5


# Reading only -----------------------------------------------------------------------------------------------------


def test_a_reader_does_not_change_the_block(
    stats: Any, python: Any, data: Path, shmstats: ModuleType, configure: Callable[..., Any]
) -> None:
    configure(snapshot_interval_ms=3_600_000)  # so that no process begins to save meanwhile
    stats.incr("c", "m", 5)
    stats.gauge("g", "v", 1.5)
    before = segment_file(data).read_bytes()
    code = """
        import sys
        from pathlib import Path
        from shmstats.reading.reader import read_only
        with read_only(Path(sys.argv[1])) as reader:
            read = reader.read(by_worker=True)
            print({name.metric: value for name, value in zip(read.names, read.values) if name.category != "shmstats"})
            print(reader.usage()["names"].used, reader.protocol, len(list(reader.workers)))
    """
    protocol = shmstats.block.layout.PROTOCOLS[shmstats.core.PROTOCOL]
    names = stats.shared.attach().names.count
    assert python.run(code, data) == f"{{'m': 5, 'v': 1.5}}\n{names} {protocol} 1\n"
    assert segment_file(data).read_bytes() == before


def test_without_a_block_there_is_no_reader(shmstats: ModuleType, data: Path) -> None:
    with pytest.raises(FileNotFoundError), shmstats.reading.reader.read_only(data):
        pass
    segment_file(data).touch(0o600)
    with pytest.raises((FileNotFoundError, shmstats.BlockError)), shmstats.reading.reader.read_only(data):
        pass
    segment_file(data).unlink()


def test_a_breakdown_shows_the_value_of_each_row(stats: Any, python: Any) -> None:
    stats.incr("c", "m", 5)
    stats.gauge("g", "v", 7)
    python.run("from shmstats import stats; stats.incr('c', 'm', 3)")
    read = stats.shared.attach().reader.read(by_worker=True)
    position = {name.metric: index for index, name in enumerate(read.names)}
    assert {row: values[position["m"]] for row, values in read.workers.items() if values[position["m"]]} == {1: 5, 2: 3}
    assert read.workers[0][position["v"]] == 7
    assert read.values[position["m"]] == 8


def test_sums_beyond_64_bits_are_saturated(attach: Any, shmstats: ModuleType) -> None:
    blocks = [attach(max_workers=4) for _ in range(3)]
    high = blocks[0].find_or_add(b"c\0high", shmstats.series.Kind.COUNTER, 1)
    low = blocks[0].find_or_add(b"c\0low", shmstats.series.Kind.COUNTER, 1)
    mixed = blocks[0].find_or_add(b"c\0mixed", shmstats.series.Kind.COUNTER, 1)
    for number, block in enumerate(blocks):
        for record, n in ((high, 2**63 - 1), (low, -(2**63)), (mixed, (2**63 - 1) * (-1) ** number)):
            block.cells.add(block.row_for(record), record.cell, n, block.cells.generation)
    assert blocks[0].reader.read().values == [2**63 - 1, -(2**63), 2**63 - 1]
    assert [blocks[1].reader.value(record) for record in (high, low, mixed)] == [2**63 - 1, -(2**63), 2**63 - 1]


def test_names_are_the_same_object_while_nothing_changes(stats: Any) -> None:
    stats.incr("c", "m")
    names = stats.read().names
    stats.incr("c", "m")
    assert stats.read().names is names
    stats.incr("c", "n")
    assert stats.read().names is not names


def test_the_process_list_is_bounded(stats: Any, python: Any) -> None:
    """Recycled workers take the slots of earlier workers."""
    stats.incr("c", "m")
    for _ in range(4):
        python.start("import os; from shmstats import stats; stats.incr('c', 'm'); os._exit(0)").finish()
    assert stats.get("c", "m") == 5
    assert stats.shared.attach().reader.header.number("slots") == 2
