"""The name table: finding, adding, removing, reusing; against a model; and after a kill at any step."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture
def kind(shmstats: ModuleType) -> Any:
    return shmstats.series.Kind


def key(metric: str, category: str = "c") -> bytes:
    return f"{category}\0{metric}".encode()


def remove(block: Any, *keys: bytes) -> None:
    with block.exclusive():
        block.names.remove([block.names.find(each) for each in keys])


def hashed(block: Any, name: bytes) -> int:
    from shmstats.core import hash_key

    return hash_key(name, block.names.salt)


def entries(block: Any) -> list[int]:
    """Return the slots of the index."""
    layout = block.layout
    found: list[int] = np.frombuffer(block._buf, "<u4", layout.index_slots, layout.index).tolist()
    return found


def check_structure(block: Any) -> dict[bytes, Any]:
    """Check all invariants of the names, and return them: {key: record}."""
    table, layout = block.names, block.layout
    from shmstats.layout import DELETED, NAME

    assert table.broken_off == 0
    count = table.count
    records = np.frombuffer(block._buf, NAME.dtype, count, layout.names)
    names = {}
    for record in table.records():
        name = table.key(record.number)
        assert name not in names, f"{name!r} occurs twice"
        names[name] = record
        assert table.find(name) == record
    assert sorted(np.unique(records["state"]).tolist()) in ([], [1], [2], [1, 2])
    assert table.removed == int((records["state"] == 2).sum())
    entered = [entry for entry in entries(block) if entry not in (0, DELETED)]
    assert sorted(entered) == [record.number + 1 for record in names.values()]
    for start, size, used in (("cell", "width", table.cells_used), ("key", "room", table.heap_used)):
        ranges = sorted(zip(records[start].tolist(), records[size].tolist(), strict=True))
        ends = [first + length for first, length in ranges]
        assert all(end <= first for end, (first, _) in zip(ends, [*ranges, (used, 0)][1:], strict=True)), start
    assert (records["length"] <= records["room"]).all()
    return names


def test_a_name_is_found_as_it_was_added(attach: Any, kind: Any) -> None:
    block = attach()
    assert block.names.find(key("m")) is None
    counter = block.find_or_add(key("m"), kind.COUNTER)
    gauge = block.find_or_add(key("g"), kind.GAUGE)
    assert (counter.kind, counter.monotonic, counter.width) == (kind.COUNTER, True, 2)
    assert (gauge.kind, gauge.monotonic, gauge.width) == (kind.GAUGE, False, 3)
    assert block.names.find(key("m")) == counter == block.find_or_add(key("m"), kind.GAUGE)
    assert list(block.names.records()) == [counter, gauge]
    check_structure(block)


def test_names_are_seen_by_all_workers_at_once(attach: Any, kind: Any) -> None:
    one, other = attach(), attach()
    record = one.find_or_add(key("m"), kind.COUNTER)
    assert other.names.find(key("m")) == record
    remove(other, key("m"))
    assert one.names.find(key("m")) is None


def test_adding_moves_the_count_and_removing_the_revision_and_the_generation(attach: Any, kind: Any) -> None:
    block = attach()
    revision, generation = block.names.revision, block.cells.generation
    block.find_or_add(key("m"), kind.COUNTER)
    assert (block.names.count, block.names.revision, block.cells.generation) == (1, revision, generation)
    revision = block.names.revision
    block.find_or_add(key("m"), kind.COUNTER)
    assert block.names.revision == revision
    remove(block, key("m"))
    assert block.names.revision > revision
    assert block.cells.generation > generation


def test_cells_and_heap_of_a_removed_name_are_reused_for_the_same_width(attach: Any, kind: Any) -> None:
    block = attach()
    old = block.find_or_add(key("a long name"), kind.COUNTER)
    block.cells.add(1, old.cell, 5, block.cells.generation)
    remove(block, key("a long name"))
    gauge = block.find_or_add(key("gauge"), kind.GAUGE)
    longer = block.find_or_add(key("a much longer name than that"), kind.COUNTER)
    assert old.cell not in (gauge.cell, gauge.cell + 1, longer.cell)
    new = block.find_or_add(key("short"), kind.COUNTER)
    assert (new.number, new.cell) == (old.number, old.cell)
    assert block.reader.value(new) == 0
    assert set(check_structure(block)) == {key("gauge"), key("a much longer name than that"), key("short")}


def test_a_record_that_is_taken_over_has_its_place_at_every_moment(
    attach: Any, kind: Any, shmstats: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`struct.pack_into` zeroes its target first: a kill in between would leave a record with another name's cells."""
    block = attach()
    old = block.find_or_add(key("old"), kind.COUNTER)
    remove(block, key("old"))

    places = ["cell", "width", "key", "room"]
    before = [block.names.column(place)[old.number] for place in places]
    store = block.names._store

    def store_and_look(number: int, field: str, value: int) -> None:
        store(number, field, value)
        assert [block.names.column(place)[old.number] for place in places] == before

    monkeypatch.setattr(block.names, "_store", store_and_look)
    assert block.find_or_add(key("new"), kind.COUNTER).cell == old.cell


def test_a_reused_cell_is_empty_in_every_row(attach: Any, kind: Any) -> None:
    one, other = attach(), attach()
    record = one.find_or_add(key("old"), kind.COUNTER)
    for block in (one, other):
        block.cells.add(block.row_for(record), record.cell, 7, block.cells.generation)
    remove(one, key("old"))
    new = other.find_or_add(key("new"), kind.COUNTER)
    assert new.cell == record.cell
    assert other.reader.value(new) == 0


def test_an_old_binding_cannot_count_into_a_name_that_reuses_its_cells(attach: Any, kind: Any) -> None:
    one, other = attach(), attach()
    record = one.find_or_add(key("old"), kind.COUNTER)
    row, generation = other.row_for(record), other.cells.generation
    remove(one, key("old"))
    new = one.find_or_add(key("new"), kind.COUNTER)
    assert not other.cells.add(row, record.cell, 5, generation)
    assert one.reader.value(new) == 0


@pytest.mark.parametrize(
    "text", ["日本語", "ελληνικά", "русский", "עברית", "🙂🙃", "a\u0301", "\u200b", "\x01", " ", "\n"]
)
def test_names_of_any_script_are_read_as_they_were_written(attach: Any, kind: Any, text: str) -> None:
    block = attach()
    block.find_or_add(key(text, text), kind.COUNTER)
    assert list(check_structure(block)) == [key(text, text)]
    (name,) = block.reader.read().names
    assert (name.category, name.metric) == (text, text)


@pytest.mark.slow
def test_65536_names_fit_and_are_found_and_summed(attach: Any, kind: Any, core: str) -> None:
    block = attach(capacity=65536, max_workers=2)
    names = [key(f"metric {number}", f"category {number % 100}") for number in range(65536)]
    with block.exclusive():
        for number, name in enumerate(names):
            record = block.find_or_add(name, kind.COUNTER)
            if number % 1000 == 7:
                block.cells.add(1, record.cell, number, block.cells.generation)
    full = pytest.raises(sys.modules["shmstats"].block.BlockFullError, match="capacity of the block, 65536, is in use")
    with full:
        block.find_or_add(key("one too many"), kind.COUNTER)
    read = block.reader.read()
    assert len(read.names) == len(set(read.names)) == 65536
    assert [value for value in read.values if value] == list(range(7, 65536, 1000))
    assert all(block.names.find(name) for name in names[::997])
    assert block.names.find(key("one too many")) is None


def test_a_full_heap_refuses_long_names_and_accepts_short_ones(attach: Any, kind: Any, shmstats: ModuleType) -> None:
    block = attach(capacity=256)
    long = [key(f"{number:03}" + "x" * 212, "y" * 255) for number in range(256)]
    added = 0
    with pytest.raises(shmstats.block.BlockFullError, match="bytes for names in the block are in use"):  # noqa: PT012
        for name in long:
            block.find_or_add(name, kind.COUNTER)
            added += 1
    assert 0 < added < 256
    assert len(check_structure(block)) == added
    block.find_or_add(key("s"), kind.COUNTER)
    remove(block, long[0])
    block.find_or_add(long[added], kind.COUNTER)
    assert len(check_structure(block)) == added + 1


def test_a_name_that_needs_more_cells_than_there_are_is_refused(attach: Any, kind: Any, shmstats: ModuleType) -> None:
    block = attach(capacity=256)
    for number in range(170):
        block.find_or_add(key(str(number)), kind.GAUGE)
    with pytest.raises(shmstats.block.BlockFullError):
        block.find_or_add(key("two"), kind.GAUGE)
    block.find_or_add(key("last"), kind.COUNTER)
    check_structure(block)


@pytest.mark.slow
def test_a_search_ends_if_all_slots_are_used_or_deleted(attach: Any, kind: Any) -> None:
    block = attach(capacity=256)
    for number in range(3000):
        name = key(f"name {number}")
        record = block.find_or_add(name, kind.COUNTER)
        block.cells.add(1, record.cell, 1, block.cells.generation)
        assert block.reader.value(record) == 1
        remove(block, name)
    assert block.names.find(key("nobody")) is None
    assert check_structure(block) == {}
    assert (block.names.count, block.names.removed) == (1, 1)


def test_tombstones_do_not_make_a_search_read_the_whole_index(attach: Any, kind: Any) -> None:
    block = attach(capacity=256)
    for number in range(4000):
        block.find_or_add(key(f"name {number}"), kind.COUNTER)
        remove(block, key(f"name {number}"))
    longest = 0
    for number in range(50):
        looked = 0
        slots = block.reader.header.number("index_slots")
        slot = hashed(block, key(f"missing {number}")) % slots
        while entries(block)[slot] != 0 and looked < slots:
            looked += 1
            slot = (slot + 1) % slots
        longest = max(longest, looked)
    assert longest < slots / 2


@pytest.mark.skipif(sys.hash_info.algorithm != "siphash13", reason="this Python hashes bytes in another way")
@pytest.mark.parametrize("seed", [0, 7])
def test_a_key_is_hashed_as_python_hashes_bytes_with_the_same_secret(shmstats: ModuleType, seed: int) -> None:
    keys = [bytes(range(size)) for size in range(1, 256)]
    code = "import sys; print([hash(bytes(range(size))) & 0xffffffff for size in range(1, 256)])"
    environment = os.environ | {"PYTHONHASHSEED": str(seed)}
    hashes = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
    secret, state = b"", seed
    for _ in range(16 if seed else 0):  # as CPython derives its secret from PYTHONHASHSEED
        state = (state * 214013 + 2531011) % 2**32
        secret += bytes([state >> 16 & 0xFF])
    assert [shmstats.core.hash_key(each, secret or bytes(16)) for each in keys] == json.loads(hashes)
    with pytest.raises(ValueError, match="a salt has 16 bytes, not 8"):
        shmstats.core.hash_key(b"c", bytes(8))


def test_names_with_the_same_hash_are_distinguished(attach: Any, kind: Any) -> None:
    block = attach(capacity=256)
    candidates = (key("x" * (number % 5) + str(number)) for number in itertools.count())
    slots = block.names.index_slots
    names = list(itertools.islice((name for name in candidates if hashed(block, name) % slots < 2), 45))
    records = {name: block.find_or_add(name, kind.COUNTER) for name in names}
    assert {name: block.names.find(name) for name in names} == records
    remove(block, *names[::2])
    assert [block.names.find(name) for name in names] == [
        None if number % 2 == 0 else records[name] for number, name in enumerate(names)
    ]
    for name in names:
        block.find_or_add(name, kind.COUNTER)
    assert set(check_structure(block)) == set(names)


@pytest.mark.slow
def test_the_table_agrees_with_a_dict_after_random_operations(attach: Any, kind: Any, shmstats: ModuleType) -> None:
    steps = st.lists(
        st.tuples(
            st.sampled_from(["add", "add", "add", "gauge", "remove", "count", "decrement"]),
            st.sampled_from([f"{letter * (1 + 9 * (number % 3))}{number}" for letter in "aé" for number in range(9)]),
        ),
        max_size=60,
    )
    full = shmstats.block.BlockFullError

    @settings(derandomize=True, deadline=None, database=None, max_examples=40)
    @given(steps)
    def check(steps: list[tuple[str, str]]) -> None:
        block = attach(capacity=256)
        try:
            compare(block, steps)
        finally:
            block.leave()

    def compare(block: Any, steps: list[tuple[str, str]]) -> None:
        model: dict[bytes, tuple[Any, int, bool]] = {}
        for step, metric in steps:
            name = key(metric)
            if step in ("add", "gauge"):
                wanted = kind.COUNTER if step == "add" else kind.GAUGE
                try:
                    record = block.find_or_add(name, wanted, 1 if step == "add" else 2)
                except full:
                    continue
                model.setdefault(name, (wanted, 0, wanted is kind.COUNTER))
            elif name in model:
                record = block.names.find(name)
                of, value, monotonic = model[name]
                if step == "remove":
                    remove(block, name)
                    del model[name]
                elif of is kind.COUNTER and step == "count":
                    block.cells.add(block.row_for(record), record.cell, 3, block.cells.generation)
                    model[name] = (of, value + 3, monotonic)
                elif of is kind.COUNTER:
                    with block.exclusive():
                        block.names.clear_monotonic(record)
                    model[name] = (of, value, False)
            found = {
                block.names.key(record.number): (record.kind, block.reader.value(record), record.monotonic)
                for record in block.names.records()
            }
            assert found == model
        check_structure(block)
        read = block.reader.read()
        assert {key(name.metric): value for name, value in zip(read.names, read.values, strict=True)} == {
            name: value for name, (_, value, _) in model.items()
        }

    check()


# A kill at every step -------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process: the stores made so far stay."""


#: The modules that change names; over the C core some changes are a single line.
FILES = ("block/names.py", "block/records.py", "core/_names_py.py", "block/repairing.py")


@contextmanager
def killed_before_line(number: int) -> Iterator[list[int]]:
    """Raise `Killed` before the ``number``-th line of the modules of names; yields the number of lines seen."""
    seen = [0]

    def in_names(frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            if seen[0] == number:
                raise Killed
            seen[0] += 1
        return in_names

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        return in_names if frame.f_code.co_filename.endswith(FILES) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(before)


CHANGES: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda block, kind: block.find_or_add(key("new name, longer than any before"), kind.COUNTER),
    "add a gauge": lambda block, kind: block.find_or_add(key("new gauge"), kind.GAUGE),
    "take over": lambda block, kind: block.find_or_add(key("n"), kind.COUNTER),
    "take over a gauge": lambda block, kind: block.find_or_add(key("n"), kind.GAUGE),
    "remove": lambda block, kind: remove(block, key("kept 3"), key("kept 5"), key("gauge")),
    "decrement": lambda block, kind: _decrement(block),
    "repair": lambda block, kind: _repair(block),
}


def _decrement(block: Any) -> None:
    with block.exclusive():
        block.names.clear_monotonic(block.names.find(key("kept 3")))


def _repair(block: Any) -> None:
    block.names.broken_off = 1
    with block.exclusive():
        pass


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_after_a_kill_at_any_line_the_next_worker_finds_a_valid_structure(
    attach: Any, kind: Any, change: str, shmstats: ModuleType
) -> None:
    number, ended = 0, False
    while not ended:
        block, other = attach(capacity=256), attach(capacity=256)
        for i in range(6):
            record = block.find_or_add(key(f"kept {i}"), kind.COUNTER)
            block.cells.add(block.row_for(record), record.cell, 10 + i, block.cells.generation)
        for name, of, width in (("gone", kind.COUNTER, 2), ("gauge gone", kind.GAUGE, 3), ("gauge", kind.GAUGE, 3)):
            block.find_or_add(key(name), of, width)
        gone = block.names.find(key("gone"))
        block.cells.add(block.row_for(gone), gone.cell, 99, block.cells.generation)
        remove(block, key("gone"), key("gauge gone"))
        before = set(check_structure(block))
        generation = block.cells.generation
        try:
            with killed_before_line(number):
                CHANGES[change](block, kind)
            ended = True
        except Killed:
            number += 1
        # Another worker, without any state of the killed one, continues.
        added = other.find_or_add(key("after"), kind.COUNTER)
        names = check_structure(other)
        assert other.reader.value(added) == 0
        new = names.keys() - before - {key("after")}
        assert len(new) <= 1
        missing = before - names.keys()
        assert missing <= ({key("kept 3"), key("kept 5"), key("gauge")} if change == "remove" else set())
        if missing:
            assert other.cells.generation > generation, "a name is gone, and its old bindings still count"
        for name, record in names.items():
            expected = 10 + int(name[-1:]) if name.startswith(b"c\0kept") else 0
            assert other.reader.value(record) == expected, name
        for name in new:
            assert block.find_or_add(name, kind.COUNTER) == names[name]
        read = other.reader.read()
        assert {key(name.metric) for name in read.names} == set(names)
        block.leave()
        other.leave()
    assert number > 5


def test_a_reader_between_two_lines_of_a_change_sees_whole_names(attach: Any, kind: Any) -> None:
    """At every line of the writer all names that are not being changed are found."""
    block, other = attach(capacity=256), attach(capacity=256)
    for i in range(6):
        block.find_or_add(key(f"kept {i}"), kind.COUNTER)
    kept = {key(f"kept {i}") for i in range(6)}
    seen: list[set[bytes]] = []

    def look(frame: FrameType, event: str, argument: object) -> Any:
        sys.settrace(None)
        names = other.reader.read().names
        seen.append({key(name.metric) for name in names})
        sys.settrace(trace)
        return look

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        return look if frame.f_code.co_filename.endswith(FILES) else None

    for _ in range(2):
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            block.find_or_add(key("new"), kind.COUNTER)
        finally:
            sys.settrace(before)
        remove(block, key("new"))
    assert len(seen) > 20
    for names in seen:
        assert kept <= names <= kept | {key("new")}


def test_the_index_grows_with_the_names_and_finds_them_all(attach: Any, kind: Any) -> None:
    block, other = attach(capacity=8192), attach()
    assert block.reader.header.number("index_slots") == 1024
    records = {}
    for number in range(3000):
        name = key(f"name {number}")
        records[name] = block.find_or_add(name, kind.COUNTER)
        if number % 3 == 0:
            remove(block, name)
            del records[name]
    assert block.reader.header.number("index_slots") == 4096
    assert {name: other.names.find(name) for name in records} == records
    assert other.names.find(key("name 0")) is None
    assert check_structure(block) == records


def test_a_kill_while_the_index_grows_is_repaired(attach: Any, kind: Any) -> None:
    block = attach(capacity=8192)
    names = [key(f"name {number}") for number in range(1500)]
    records = {name: block.find_or_add(name, kind.COUNTER) for name in names}
    block.names.broken_off = 1
    block.names.index_slots = 8192
    block.locks.reserve(block.layout.index, 4 * 8192)
    with block.exclusive():
        pass
    assert {name: block.names.find(name) for name in names} == records
    assert check_structure(block) == records


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", 0), ("kind", 77), ("mode", 200), ("cell", 2**32 - 1), ("width", 2**31), ("key", 2**62), ("note", 2**63)],
)
def test_a_damaged_record_fails_no_count_and_raises_block_error(
    shmstats: ModuleType, stats: Any, field: str, value: int
) -> None:
    """Unknown kinds, and places outside the block: nothing is read from there."""
    stats.incr("c", "m", labels={"l": "x"})
    stats.declare("c", "d", kind="histogram", buckets=(1, 2))
    stats.timing("c", "d", 1)
    block = stats.shared.attach()
    for number in range(block.names.count):
        block.names._store(number, field, value)
    with block.exclusive():
        block.names.raise_revision()
        block.cells.raise_generation()
    stats.incr("c", "m", labels={"l": "x"})
    stats.timing("c", "d", 1)
    stats.gauge("c", "g", 1.5)
    stats.incr("c", "new")
    for read in (lambda: stats.get("c", "d"), stats.snapshot):
        with suppress(shmstats.BlockError):
            read()
    stats.close()
    for file in Path("/dev/shm").glob(f"{block.name}*"):
        file.unlink()
