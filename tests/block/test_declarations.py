"""Families of metrics with labels or declarations, also after a kill at any line."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def series(shmstats: ModuleType) -> Any:
    return shmstats.series


def key(metric: str, **labels: str) -> bytes:
    return "\0".join(("c", metric, *(part for pair in sorted(labels.items()) for part in pair))).encode()


def remove(block: Any, *keys: bytes) -> None:
    with block.exclusive():
        block.remove([block.names.find(each).number for each in keys])


def declare(block: Any, *arguments: Any, **named: Any) -> None:
    from shmstats.block import declaring

    declaring.declare(block, *arguments, **named)


def give_way(block: Any, series: Any) -> None:
    from shmstats.block import declarations, declaring

    newest = declarations.Definition(series.Declaration(series.Kind.GAUGE, "Now."), 2**62)
    declaring.give_way(block, "c", "winner", newest, ["rival", "not there"])


def families(block: Any) -> set[str]:
    """Check the invariants of families and of the heap, and return the metrics that have a family."""
    from shmstats.block.records import FAMILY, MEMBER
    from shmstats.layout import LIVE, NAME

    table = block.names
    records = np.frombuffer(block._buf, NAME.dtype, table.count, block.layout.names)
    live = records["state"] == LIVE
    standing = np.flatnonzero(live & (records["flags"] & FAMILY != 0)).tolist()
    assert table.families == len(standing)
    assert table.broken_off == 0
    counted = records["family"][live & (records["flags"] & MEMBER != 0)]
    members = Counter((counted - 1).tolist())
    assert {number: int(records["members"][number]) for number in standing} == {
        number: members[number] for number in standing
    }
    assert set(np.unique(records["family"][live]).tolist()) - {0} <= {number + 1 for number in standing}
    places = [*zip(records["key"].tolist(), records["room"].tolist(), strict=True)]
    places += zip(records["note"].tolist(), records["note_room"].tolist(), strict=True)
    places = sorted(place for place in places if place[1])
    ends = [start + room for start, room in places]
    assert all(end <= start for end, (start, _) in zip(ends, [*places, (table.heap_used, 0)][1:], strict=True))
    for number in np.flatnonzero(live).tolist():
        record = table.record(number)
        assert table.find(table.key(number), record.declaration) == record
        assert record.family < 0 or table.record(record.family).declaration == record.declaration
    return {table.key(number).split(b"\0")[1].decode() for number in standing}


def test_a_metric_is_removed_completely_with_its_last_series(attach: Any, series: Any) -> None:
    block = attach(capacity=32)
    for turn in range(100):
        metric = f"metric {turn:03}"
        block.find_or_add(key(metric, a="x"), series.Kind.COUNTER)
        block.find_or_add(key(metric, a="y"), series.Kind.COUNTER)
        remove(block, key(metric, a="x"))
        assert families(block) == {metric}
        remove(block, key(metric, a="y"))
        assert families(block) == set()
    assert block.names.count <= 4


def test_a_declaration_stays_when_no_series_is_left(attach: Any, series: Any) -> None:
    block = attach()
    declare(block, "c", "m", series.Declaration(series.Kind.GAUGE, help="It."))
    block.find_or_add(key("m", a="x"), series.Kind.GAUGE)
    remove(block, key("m", a="x"))
    assert families(block) == {"m"}
    block.find_or_add(key("m"), series.Kind.COUNTER)
    (name,) = block.reader.read().names
    assert (name.kind, name.help) == (series.Kind.GAUGE, "It.")


def test_after_a_kill_of_its_writer_a_note_is_the_old_or_the_new_one(attach: Any, series: Any) -> None:
    """A kill can interrupt a store of many bytes: the test tears each half of the note's place."""
    block = attach()
    record = block.find_or_add(key("m"), series.Kind.COUNTER)
    texts = [f"note {turn}".encode() * (1 + turn % 3) for turn in range(40)]
    for turn, text in enumerate(texts):
        place = slice(block.layout.heap, block.layout.heap + block.layout.heap_bytes)
        before = bytes(block._buf[place])
        block.names.annotate(record.number, text)
        assert block.names.note(record.number) == text
        after = bytes(block._buf[place])
        changed = [at for at in range(block.names.heap_used) if before[at] != after[at]]
        for at in changed[1::5]:
            block._buf[place] = after[:at] + before[at:]
            assert block.names.note(record.number) in (text, texts[turn - 1] if turn else b"")
        block._buf[place] = after
    # A longer note gets a new place, and the old note stays until it is written.
    block.names.annotate(record.number, b"x" * 1000)
    assert block.names.note(record.number) == b"x" * 1000


def test_a_reader_during_a_change_finds_the_old_or_the_new_note(attach: Any, series: Any) -> None:
    block, other = attach(), attach()
    record = block.find_or_add(key("m"), series.Kind.COUNTER)
    block.names.annotate(record.number, b"old")
    seen = set()

    def look(frame: FrameType, event: str, argument: object) -> Any:
        sys.settrace(None)
        seen.update(note for _, note in other.reader.notes("c"))
        sys.settrace(trace)
        return look

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        return look if frame.f_code.co_filename.endswith(("block/names.py", "block/records.py")) else None

    for text in (b"new", b"n" * 500):
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            block.names.annotate(record.number, text)
        finally:
            sys.settrace(before)
    assert {b"old", b"new"} <= seen <= {b"old", b"new", b"n" * 500}


def test_changing_label_names_do_not_fill_the_names(attach: Any, series: Any, shmstats: ModuleType) -> None:
    block = attach(capacity=256)
    refused = shmstats.block.SeriesLimitError
    for number in range(100):
        labels = {f"name{number}": "x"}
        try:
            block.find_or_add(key("m", **labels), series.Kind.COUNTER, 5)
        except refused:
            try:
                block.find_or_add(key("m", **dict.fromkeys(labels, "__overflow__")), series.Kind.COUNTER, 5)
            except refused as error:
                assert "different label names, 16 of them already" in str(error)  # noqa: PT017
    assert block.names.count == 1 + 5 + 16


# A kill at every line ---------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process: the stores made so far stay."""


#: The points at which a change of names may be interrupted.
FILES = (
    "block/names.py",
    "block/records.py",
    "core/_names_py.py",
    "block/block.py",
    "block/stripes.py",
    "block/declaring.py",
    "block/outdated.py",
)


@contextmanager
def killed_before_line(number: int) -> Iterator[None]:
    """Raise `Killed` before the ``number``-th line of the modules that change names."""
    seen = 0

    def inside(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal seen
        if event == "line":
            if seen == number:
                raise Killed
            seen += 1
        return inside

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        return inside if frame.f_code.co_filename.endswith(FILES) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def let_go(block: Any) -> None:
    """Release the table lock, as the kernel does for a killed process; a kill at a ``with`` leaves it held."""
    table = block.locks.table()
    while table._is_owned():
        table.__exit__(None, None, None)


CHANGES: dict[str, Callable[[Any, Any], Any]] = {
    "register the first label set": lambda block, s: block.find_or_add(key("new", a="1"), s.Kind.COUNTER, 5),
    "register another label set": lambda block, s: block.find_or_add(key("two", a="3"), s.Kind.COUNTER, 5),
    "register beyond the bound": lambda block, s: block.find_or_add(key("two", a="__overflow__"), s.Kind.COUNTER, 5),
    "declare": lambda block, s: declare(block, "c", "new", s.Declaration(s.Kind.GAUGE, "New.", mode=s.Mode.SUM)),
    "declare a used metric": lambda block, s: declare(block, "c", "plain", s.Declaration(s.Kind.COUNTER, "Plain.")),
    "declare otherwise": lambda block, s: declare(block, "c", "inherited", s.Declaration(s.Kind.COUNTER, "Now.")),
    "declare otherwise, at length": lambda block, s: declare(
        block, "c", "inherited", s.Declaration(s.Kind.COUNTER, "Now. " * 99)
    ),
    "declare a histogram otherwise": lambda block, s: declare(
        block, "c", "sizes", s.Declaration(s.Kind.HISTOGRAM, "Now.", "bytes", (1.0, 2.0, 3.0))
    ),
    "declare a metric of others differently": lambda block, s: declare(
        block, "c", "two", s.Declaration(s.Kind.HISTOGRAM, "Now.", "bytes", (1.0, 2.0), labelnames=("a",))
    ),
    "repeat an earlier declaration": lambda block, s: declare(block, "c", "gone", s.Declaration(s.Kind.COUNTER)),
    "have another metric give way": lambda block, s: give_way(block, s),
    "remove a label set": lambda block, s: remove(block, key("two", a="1")),
    "remove a metric": lambda block, s: remove(block, key("two", a="1"), key("two", a="2")),
}

#: The changes that contain the steps of the others.
_EVERY_DAY = {
    "register another label set",
    "declare a metric of others differently",
    "declare a histogram otherwise",
    "remove a metric",
}


@pytest.mark.slow
@pytest.mark.far_from_core
@pytest.mark.parametrize(
    "change",
    [each if each in _EVERY_DAY else pytest.param(each, marks=pytest.mark.thorough) for each in CHANGES],
)
def test_after_a_kill_at_any_line_families_are_valid_and_the_next_worker_continues(
    attach: Any, series: Any, change: str
) -> None:
    from shmstats.block.repairing import mark_inherited

    number, ended = 0, False
    while not ended:
        block, other = attach(), attach()
        counter, histogram = series.Kind.COUNTER, series.Kind.HISTOGRAM
        declare(block, "c", "inherited", series.Declaration(counter, "Once."), inherited=True)
        declare(block, "c", "sizes", series.Declaration(histogram, "Once.", "bytes", (1.0, 2.0)), inherited=True)
        sizes = block.find_or_add(key("sizes", a="1"), histogram)
        for row in (0, block.row_for(sizes)):
            assert block.stripes.reserve_cells(row, sizes.cell, sizes.width)
            figures = 5.0, 1.5, 0.5, (2, 3, 0)
            block.cells.add_distribution(row, sizes.cell, *figures, block.cells.generation)
        block.find_or_add(key("inherited"), counter)
        with block.exclusive():
            mark_inherited(block.names)
        declare(block, "c", "gone", series.Declaration(counter))
        block.find_or_add(key("gone", a="1"), counter)
        declare(block, "c", "gone", series.Declaration(series.Kind.GAUGE, "Now."))
        block.find_or_add(key("gone", a="1"), series.Kind.GAUGE)
        declare(block, "c", "rival", series.Declaration(counter))
        block.find_or_add(key("rival"), counter)
        for name in (key("plain"), key("two", a="1"), key("two", a="2")):
            record = block.find_or_add(name, counter, 5)
            block.cells.add(block.row_for(record), record.cell, 7, block.cells.generation)
        try:
            with killed_before_line(number):
                CHANGES[change](block, series)
            ended = True
        except Killed:
            number += 1
            let_go(block)
        read = other.reader.read()
        helps = {name.metric: name.help for name in read.names}
        assert helps["inherited"].strip() in ("Once.", "Now.", ("Now. " * 99).strip())
        for name, value in zip(read.names, read.values, strict=True):
            if name.kind is histogram:
                assert len(value.buckets) == len(name.bounds) + 1
            if name.metric == "sizes":
                assert (value.sum, value.max, value.min, value.count) == (10.0, 1.5, 0.5, 10)
        assert "sizes" in helps, "both the former series and its successor are missing"
        # Another worker, without any state of the killed one, does the same.
        with other.exclusive():
            pass
        families(other)
        for name in (key("two", a="1"), key("two", a="2")):
            other.find_or_add(name, counter, 5, series.Declaration(counter, labelnames=("a",)))
        CHANGES[change](other, series)
        families(other)
        assert other.reader.value(other.names.find(key("plain"))) == 7
        assert other.reader.value(other.names.find(key("sizes", a="1"))).count == 10
        record = other.find_or_add(key("sizes", a="9"), histogram)
        assert len(other.bounds_of(record)) == record.width - 5
        assert len({each.width for each in other.names.members_of(other.names.family_of(key("sizes")))}) == 1
        block.leave()
        other.leave()
    assert number > 10


@pytest.mark.parametrize("labels", [None, {"l": "x"}])
@pytest.mark.parametrize("used", [True, False])
def test_a_float_is_set_apart_if_a_newer_process_has_declared_a_counter(
    stats: Any, python: Any, labels: Any, used: bool
) -> None:
    """The older process was first and has declared nothing: none of its calls may fail."""
    stats.incr("c", "other")
    gauge = stats.gauge("c", "m", labels=labels)
    if used:
        gauge.set(1)
    code = "from shmstats import stats; stats.declare('c', 'm', kind='counter'); stats.incr('c', 'm', 5, labels={})"
    python.run(code.format(labels), quiet=False)
    gauge.set(2.5)
    gauge.incr(0.25)
    gauge.set(3)
    stats.gauge("c", "m", 0.5, labels=labels)
    read = stats.read()
    shown = [(name.kind.name, value) for name, value in zip(read.names, read.values, strict=True) if name.metric == "m"]
    assert shown == [("COUNTER", 5)]
    assert stats.get("shmstats", "operations_dropped") == 0


def test_finding_replaced_series_takes_time_in_proportion_to_their_number(shmstats: ModuleType) -> None:
    from shmstats.block.records import DECLARED, READY
    from shmstats.block.repairing import find_replaced
    from shmstats.layout import NAME

    def seconds(number: int) -> float:
        heap = b"".join(b"%08d" % each for each in range(number))
        fields = [(DECLARED, 0, 0)] + [(flags, 1, 8 * each) for flags in (0, READY) for each in range(number)]
        records = [
            NAME.struct.pack(1, 0, 0, flags, 0, 0, family, 0, 0, key, 0, 8, 0, 0, 0, 0) for flags, family, key in fields
        ]
        copy = b"".join(records)
        began = time.process_time()
        gone, successors = find_replaced(copy, heap)
        taken = time.process_time() - began
        assert gone == list(range(1, number + 1))
        assert successors == list(range(number + 1, 2 * number + 1))
        return taken

    assert seconds(16000) < 40 * seconds(1000)
