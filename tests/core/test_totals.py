"""Readers' results for random and damaged blocks: the C core gives the same as its pure Python twin."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmstats.core import _totals_py as twin
from shmstats.layout import CELLS_PER_PAGE, NAME

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


def test_both_cores_read_the_same_sums_histograms_and_contributions(c: ModuleType) -> None:
    @settings(max_examples=30, derandomize=True, deadline=None, database=None)
    @given(
        blocks(),
        st.lists(st.tuples(FIRSTS, st.sampled_from([4, 5, 12, 30, 3])), max_size=4),
        st.lists(st.tuples(FIRSTS, st.booleans()), max_size=6),
        st.sets(st.sampled_from(SIGNED[:-1])),
        st.sampled_from([COLUMNS, COLUMNS, COLUMNS, CELLS_PER_PAGE, 7, 0, COLUMNS + 1]),
    )
    def check(
        block: bytes, spans: list[tuple[int, int]], gauges: list[tuple[int, bool]], living: set[int], columns: int
    ) -> None:
        view = memoryview(block)
        sums = outcome(c.sum_columns, view, *GRID, columns)
        assert sums == outcome(twin.sum_columns, view, *GRID, columns)
        totals = [bytearray(8 * columns) for _ in range(2)]
        histograms = struct.pack(f"<{2 * len(spans)}I", *(word for span in spans for word in span))
        merged, its = (
            outcome(core.merge_histograms, view, *GRID, total, histograms)
            for core, total in zip((c, twin), totals, strict=True)
        )
        assert (merged, totals[0]) == (its, totals[1])
        what = packed([first for first, _ in gauges]), bytes(is_live for _, is_live in gauges)
        signed = struct.pack(f"<{len(living)}Q", *sorted(living))
        mine = outcome(c.sum_contributions, view, *GRID, columns, *what, signed)
        assert mine == outcome(twin.sum_contributions, view, *GRID, columns, *what, signed)

    check()


def test_both_cores_make_the_same_of_a_row_of_totals(c: ModuleType) -> None:
    @settings(max_examples=30, derandomize=True, deadline=None, database=None)
    @given(
        st.lists(WORDS, max_size=64),
        st.lists(st.tuples(st.integers(0, 70), st.integers(0, 5)), max_size=5),
        st.sampled_from([3, 4, 5, 6, 12, 30, 65]),
    )
    def check(words: list[int], series: list[tuple[int, int]], width: int) -> None:
        totals = struct.pack(f"<{len(words)}Q", *words)
        cells, kinds = packed([cell for cell, _ in series]), bytes(kind for _, kind in series)
        assert outcome(c.add_histograms, totals, cells, width) == outcome(twin.add_histograms, totals, cells, width)
        mine, its = bytearray(totals), bytearray(totals)
        cleared = outcome(c.clear_locks, mine, cells, kinds)
        assert cleared == outcome(twin.clear_locks, its, cells, kinds)
        assert mine == its

    check()


def test_both_cores_read_the_same_series_from_records(c: ModuleType) -> None:
    @settings(max_examples=30, derandomize=True, deadline=None, database=None)
    @given(records(), st.lists(st.integers(0, 2), min_size=9, max_size=9), st.sampled_from([64, 61, 0, 2**40]))
    def check(content: bytes, modes: list[int], columns: int) -> None:
        given_modes = bytes(modes).ljust(256, b"\0")
        listed = outcome(c.list_series, content, given_modes, columns)
        assert listed == outcome(twin.list_series, content, given_modes, columns)

    check()
