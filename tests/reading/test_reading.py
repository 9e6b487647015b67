"""Reading many rows at once: sums and distributions equal the content of the cells, to the limits of 64 bits."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

PAGE, CELL = 4096, 8
MAX = 2**63 - 1


def block_of(rows: int, columns: int, reserved: list[list[bool]], values: Any) -> tuple[memoryview, tuple[int, ...]]:
    """Return a block of cells after a page of bitmaps, and the arguments that describe it to sum_columns."""
    pages = -(-columns * CELL // PAGE)
    row_bytes = pages * PAGE
    buffer = bytearray(PAGE + rows * row_bytes)
    for row, bits in enumerate(reserved):
        for page, bit in enumerate(bits):
            buffer[row * 8 + page // 8] |= bit << page % 8
    cells = np.ndarray((rows, columns), "<i8", buffer, PAGE, (row_bytes, CELL))
    cells[:] = values
    return memoryview(bytes(buffer)), (PAGE, row_bytes, rows, 0, 8, columns)


@pytest.fixture
def sum_columns() -> Any:
    return pytest.importorskip("shmstats.core._cells").sum_columns


def test_sums_are_saturated_and_skip_memory_that_is_not_reserved(sum_columns: Any) -> None:
    chance = random.Random(7)
    rows, columns = 5, 1400
    reserved = [[chance.random() < 0.7 for _ in range(3)] for _ in range(rows)]
    extremes = (0, 1, -1, MAX, -MAX - 1, 2**62, -(2**62), 12345)
    values = [[chance.choice(extremes) for _ in range(columns)] for _ in range(rows)]
    block, where = block_of(rows, columns, reserved, values)
    sums = np.frombuffer(sum_columns(block, *where), np.int64).tolist()
    for column in range(columns):
        exact = sum(values[row][column] for row in range(rows) if reserved[row][column // 512])
        assert sums[column] == min(max(exact, -MAX - 1), MAX)


@pytest.mark.parametrize("change", range(6))
def test_cells_beyond_the_block_are_refused(sum_columns: Any, change: int) -> None:
    block, where = block_of(2, 10, [[True], [True]], 1)
    for wrong in (-1, 2**40):
        arguments = list(where)
        arguments[change] = wrong
        with pytest.raises(BufferError, match="do not fit"):
            sum_columns(block, *arguments)


def test_many_histograms_over_many_rows_are_merged_as_each_alone(attach: Any, shmstats: Any) -> None:
    from shmstats.block.keys import encode_key

    kind = shmstats.series.Kind.HISTOGRAM
    chance = random.Random(3)
    block = attach(capacity=4096, max_workers=4)
    declared = shmstats.series.Declaration(kind, "", "bytes", (1.0, 2.0, 3.0))
    shmstats.block.declaring.declare(block, "c", "small", declared)
    keys = [encode_key("c", f"h{number}") for number in range(40)] + [encode_key("c", "small")]
    records = [block.find_or_add(key, kind) for key in keys]
    largest = 2**63 - 1
    for record in records:
        for row in range(5):
            if chance.random() < 0.8:
                assert block.stripes.reserve_cells(row, record.cell, record.width)
                buckets = tuple(chance.choice((0, 5, largest)) for _ in range(record.width - 4))
                figures = 2.5, float(row), row / 2, buckets
                block.cells.add_distribution(row, record.cell, *figures, block.cells.generation)
    read = block.reader.read()
    assert list(read.values) == [block.reader.value(record) for record in records]


def test_a_histogram_of_a_killed_writer_is_read(attach: Any, shmstats: Any) -> None:
    from shmstats.block.keys import encode_key
    from shmstats.layout import CELL as CELL_LAYOUT

    block = attach()
    record = block.find_or_add(encode_key("c", "h"), shmstats.series.Kind.HISTOGRAM)
    row = block.row_for(record)
    buckets = (1,) + (0,) * (record.width - 5)
    block.cells.add_distribution(row, record.cell, 0.05, 0.05, 0.05, buckets, block.cells.generation)
    place = block.layout.cells + row * block.layout.row_bytes + record.cell * CELL_LAYOUT.size
    np.frombuffer(block._buf, "<u4", 1, place + 4)[:] |= 1
    assert block.reader.read().values[0].buckets == buckets


def test_counters_are_added_and_buckets_written_like_numpy_does() -> None:
    core = pytest.importorskip("shmstats.core._cells")
    chance = random.Random(13)
    for _ in range(50):
        words = np.array([chance.choice([0, 0, 0, 1, 5, 12345, MAX, -1, -MAX - 1]) for _ in range(300)], np.int64)
        cells = np.array([chance.randrange(299) for _ in range(60)], np.uint32)
        groups = np.array([chance.randrange(7) for _ in cells], np.uint32)
        small = np.clip(words, -1, 12345)
        added = np.zeros(7, np.int64)
        np.add.at(added, groups, small[cells + 1])
        assert core.add_counters(small.tobytes(), cells.tobytes(), groups.tobytes(), 7) == added.tobytes()
        widths = np.array([chance.randrange(5, 40) for _ in range(9)], np.uint32)
        firsts = np.array([chance.randrange(300 - width) for width in widths], np.uint32)
        texts = core.text_buckets(words.tobytes(), firsts.tobytes(), widths.tobytes())
        for cell, width, (first, text) in zip(firsts, widths, texts, strict=True):
            shown = [0] * first + list(map(int, text.split()))
            assert shown + [0] * (width - 4 - len(shown)) == words[cell + 4 : cell + width].tolist()


def test_counters_and_histograms_that_are_not_within_the_totals_are_refused() -> None:
    module = pytest.importorskip("shmstats.core._cells")

    def words(*numbers: int) -> bytes:
        return np.array(numbers, np.uint32).tobytes()

    totals = bytes(8 * 10)
    assert module.add_counters(totals, b"", b"", 0) == b""
    assert module.add_counters(totals, words(8), words(0), 1) == bytes(8)
    for cells, groups, count in ((9, 0, 1), (2**32 - 1, 0, 1), (0, 1, 1), (0, 0, 0), (0, 0, -1)):
        with pytest.raises(ValueError, match="not within these totals and groups"):
            module.add_counters(totals, words(cells), words(groups), count)
    with pytest.raises(ValueError, match="not within these totals and groups"):
        module.add_counters(totals, words(0, 2), words(0), 1)
    assert module.text_buckets(totals, words(0), words(10)) == [(0, "")]
    for cells, width in ((0, 4), (0, 11), (6, 5), (2**32 - 1, 5), (5, 2**32 - 1)):
        with pytest.raises(ValueError, match="not within these totals"):
            module.text_buckets(totals, words(cells), words(width))
    with pytest.raises(ValueError, match="not within these totals"):
        module.text_buckets(totals, words(0, 0), words(5))


def test_the_list_of_workers_is_read_again_after_one_has_come_or_left(
    attach: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = attach(max_workers=4)
    looks = []
    live = type(first.workers).live
    monkeypatch.setattr(type(first.workers), "live", lambda table: (looks.append(1), live(table))[1])
    for _ in range(3):
        assert len(first.reader.lately_live()) == 1
    assert len(looks) == 1
    second = attach()
    assert len(first.reader.lately_live()) == 2
    second.leave()
    assert len(first.reader.lately_live()) == 1
