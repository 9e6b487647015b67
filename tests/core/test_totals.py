"""Readers' results for random and damaged blocks: the C core gives the same as the code in Python."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmstats.core import _catalog_py as twin
from shmstats.layout import CELLS_PER_PAGE, NAME
from shmstats.reading import columns, gauges
from shmstats.reading import totals as totals_

ROWS, COLUMNS, CELLS = 3, CELLS_PER_PAGE + 64, 64
GRID = (CELLS, 8 * COLUMNS, ROWS, 0, 8)  # offset, bytes of a row, rows, offset of the bitmaps, bytes of one

#: Bits that a cell may hold: integers at the limits, doubles of all kinds, signatures.
WORDS = st.one_of(
    st.sampled_from([0, 1, 2, 2**32, 2**32 | 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1, 5 << 32, 7 << 32]),
    st.floats().map(lambda number: struct.unpack("<Q", struct.pack("<d", number))[0]),
    st.integers(0, 2**64 - 1),
)
SIGNED = [1, 2, 5 << 32, 7 << 32, 2**63 - 1, 2**63]
NEARBY = CELLS_PER_PAGE - 16  # spans may cross into a page that has memory in some rows only
FIRSTS = st.sampled_from([0, 6, 12, 24, NEARBY, CELLS_PER_PAGE - 3, CELLS_PER_PAGE, CELLS_PER_PAGE + 5, COLUMNS - 4])


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    """The bitmaps and cells of a block; histograms there are at rest."""
    bits = draw(st.lists(st.integers(0, 3), min_size=ROWS, max_size=ROWS))
    content = bytearray(struct.pack("<3Q", *bits).ljust(CELLS, b"\0") + bytes(8 * ROWS * COLUMNS))
    for row in range(ROWS):
        for first in (0, NEARBY):
            words = draw(st.lists(WORDS, max_size=48))
            struct.pack_into(f"<{len(words)}Q", content, CELLS + 8 * (row * COLUMNS + first), *words)
        for first in draw(st.sets(FIRSTS, max_size=4)):
            contribution = draw(st.sampled_from([0, 2**32])), draw(WORDS), draw(WORDS), draw(st.sampled_from(SIGNED))
            struct.pack_into("<4Q", content, CELLS + 8 * (row * COLUMNS + first), *contribution)
    return bytes(content)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """Records of names, most of them sound."""
    made = []
    for _ in range(draw(st.integers(0, 6))):
        fields = {
            "state": st.sampled_from([0, 1, 1, 1, 2, 3]),
            "kind": st.sampled_from([1, 2, 3, 4, 1, 2, 3, 4, 0, 5, 255]),
            "mode": st.integers(0, 8),
            "flags": st.sampled_from([0, 1, 2, 4, 16, 32, 64, 255]),
            "width": st.sampled_from([2, 3, 6, 20, 6, 1, 2**32 - 1]),
            "cell": st.sampled_from([0, 5, 58, 60, 64, 2**32 - 1]),
            "declaration": st.sampled_from([0, 0, 0, 1]),
        }
        made.append(_record(**{field: draw(values) for field, values in fields.items()}))
    return b"".join(made)


def _record(**fields: int) -> bytes:
    record = bytearray(NAME.size)
    for field, value in fields.items():
        width = {"state": "B", "kind": "B", "mode": "B", "flags": "B"}.get(field, "I")
        struct.pack_into(f"<{width}", record, NAME.offset(field), value)
    return bytes(record)


def outcome(call: Callable[..., Any], *arguments: Any) -> str:
    """Return the result of a call, or its error, in a form that distinguishes 1 from 1.0 and -0.0 from 0.0."""
    try:
        return repr(call(*arguments))
    except (BufferError, ValueError) as error:
        return repr(error)


def packed(words: list[int]) -> bytes:
    return struct.pack(f"<{len(words)}I", *words)


@pytest.fixture(scope="module")
def c() -> ModuleType:
    return pytest.importorskip("shmstats.core._cells", reason="the C extension is not built")


@pytest.fixture
def general(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make readers run Python code in place of C."""
    for module in (columns, gauges):
        monkeypatch.setattr(module, "bulk", None)


def columns_of(block: bytes, count: int = COLUMNS) -> columns.Columns:
    cells, row_bytes, rows, pages, bitmap_bytes = GRID
    place = {"cells": cells, "row_bytes": row_bytes, "rows": rows, "pages": pages, "bitmap_bytes": bitmap_bytes}
    return columns.Columns(memoryview(block), SimpleNamespace(**place, columns=count))  # type: ignore[arg-type]


def test_sums_and_contributions_are_those_of_the_general_code(c: ModuleType, general: None) -> None:
    @settings(max_examples=30, derandomize=True, deadline=None, database=None)
    @given(
        blocks(),
        st.lists(st.tuples(FIRSTS, st.booleans()), max_size=6),
        st.sets(st.sampled_from(SIGNED[:-1])),
        st.sampled_from([COLUMNS, COLUMNS, COLUMNS, CELLS_PER_PAGE, 7, 0]),
    )
    def check(block: bytes, places: list[tuple[int, bool]], living: set[int], count: int) -> None:
        assert c.sum_columns(memoryview(block), *GRID, count) == columns_of(block).merged(count, b"")
        places = [(first, is_live) for first, is_live in places if first + 5 <= COLUMNS]
        what = packed([first for first, _ in places]), bytes(is_live for _, is_live in places)
        signed = struct.pack(f"<{len(living)}Q", *sorted(living))
        sums = c.sum_contributions(memoryview(block), *GRID, COLUMNS, *what, signed)
        reader = gauges.Gauges(columns_of(block))
        for (first, _), found, wanted in zip(places, sums, reader.sums(*what, living), strict=True):
            assert type(found) is type(wanted)
            if all(abs(each.value) < 2**50 for each in reader.contributions(first, None)):
                assert found == pytest.approx(wanted)

    check()


def test_an_access_outside_of_the_block_is_refused(c: ModuleType) -> None:
    block = memoryview(bytes(CELLS + 8 * ROWS * COLUMNS))
    for columns_beyond in (COLUMNS + 1, -1):
        with pytest.raises(BufferError, match="do not fit"):
            c.sum_columns(block, *GRID, columns_beyond)
    for span in ((0, 3), (COLUMNS - 4, 5)):
        with pytest.raises(BufferError, match="do not fit"):
            c.merge_histograms(block, *GRID, bytearray(8 * COLUMNS), packed(list(span)))
    with pytest.raises(BufferError, match="do not fit"):
        c.sum_contributions(block, *GRID, COLUMNS, packed([COLUMNS - 4]), b"\0", b"")


def test_histograms_with_any_content_can_be_shown(c: ModuleType) -> None:
    @settings(max_examples=30, derandomize=True, deadline=None, database=None)
    @given(blocks(), st.lists(st.tuples(FIRSTS, st.sampled_from([4, 5, 12, 30])), max_size=4))
    def check(block: bytes, spans: list[tuple[int, int]]) -> None:
        spans = [(first, width) for first, width in spans if first + width <= COLUMNS]
        totals = bytearray(8 * COLUMNS)
        c.merge_histograms(memoryview(block), *GRID, totals, packed([word for span in spans for word in span]))
        for first, width in spans[-1:]:
            added = c.add_histograms(totals, packed([first, first]), width) if width > 4 else totals[8 * first :]
            for content in (totals[8 * first :], added):
                found = totals_.distribution_in(content, 0, width)
                assert math.isfinite(found.sum)
                assert 0 <= found.min <= found.max or not found.min
                assert all(bucket >= 0 for bucket in found.buckets)

    check()


def test_both_cores_read_the_same_series_from_records(c: ModuleType) -> None:
    @settings(max_examples=30, derandomize=True, deadline=None, database=None)
    @given(records(), st.lists(st.integers(0, 2), min_size=9, max_size=9), st.sampled_from([64, 61, 0, 2**40]))
    def check(content: bytes, modes: list[int], columns: int) -> None:
        given_modes = bytes(modes).ljust(256, b"\0")
        listed = outcome(c.list_series, content, given_modes, columns)
        assert listed == outcome(twin.list_series, content, given_modes, columns)

    check()
