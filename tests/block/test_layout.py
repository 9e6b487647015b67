"""The layout: C's structs and numpy's dtypes against it, sections that do not meet, and a header that survives."""

from __future__ import annotations

import struct
from types import ModuleType
from typing import Any

import numpy as np
import pytest

STRUCTURES = ["HEADER", "WORKER", "REQUEST", "NAME"]
SIZES = [(1, 1), (256, 1), (256, 4), (257, 3), (1000, 7), (65536, 64), (16_777_216, 1024)]


def named(shmstats: ModuleType, name: str) -> Any:
    return getattr(shmstats.block.layout, name, None) or getattr(shmstats.layout, name)


@pytest.mark.parametrize("name", ["CELL", "NAME"])
def test_the_structs_of_the_core_equal_the_layout_field_by_field(shmstats: ModuleType, name: str) -> None:
    structure = getattr(shmstats.layout, name)
    core = getattr(shmstats.core, shmstats.core.Cells.__module__.rpartition(".")[2])
    built = {"CELL": core.CELL_LAYOUT, "NAME": core.RECORD_LAYOUT}[name]
    assert built == structure.fields | {"size": structure.size}


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.far_from_core
def test_a_struct_reads_the_values_that_numpy_writes(shmstats: ModuleType, name: str) -> None:
    structure = named(shmstats, name)
    dtype = structure.dtype
    assert dtype.itemsize == structure.struct.size == structure.size
    record = np.frombuffer(bytes(number % 255 + 1 for number in range(dtype.itemsize)), dtype, 1)[0]
    expected = [record[field].item() for field in dtype.names]
    assert list(structure.struct.unpack(record.tobytes())) == expected
    assert structure.struct.pack(*expected) == record.tobytes()


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.far_from_core
def test_a_column_is_one_field_of_all_rows(shmstats: ModuleType, name: str) -> None:
    structure = named(shmstats, name)
    content = bytes(number % 251 for number in range(5 * structure.size))
    for field in structure.fields:
        if structure.empty[field] == 0:
            assert structure.column(content, field).tolist() == np.frombuffer(content, structure.dtype)[field].tolist()


@pytest.mark.parametrize("name", [*STRUCTURES, "CELL"])
@pytest.mark.far_from_core
def test_every_number_is_aligned_to_its_own_size(shmstats: ModuleType, name: str) -> None:
    structure = named(shmstats, name)
    for field, (offset, size) in structure.fields.items():
        if structure.empty.get(field) != b"":
            assert offset % size == 0, field


@pytest.mark.parametrize(("capacity", "max_workers"), SIZES)
@pytest.mark.far_from_core
def test_sections_begin_on_pages_and_do_not_overlap(shmstats: ModuleType, capacity: int, max_workers: int) -> None:
    module = shmstats.block.layout
    layout = module.Layout(capacity, max_workers)
    sections = [
        (0, module.HEADER.size),
        (layout.workers, module.WORKER_SLOTS * module.WORKER.size),
        (layout.requests, module.WORKER_SLOTS * shmstats.layout.REQUESTS_PER_WORKER * shmstats.layout.REQUEST.size),
        (layout.pages, layout.rows * layout.bitmap_bytes),
        (layout.index, 4 * layout.index_slots),
        (layout.names, capacity * module.NAME.size),
        (layout.heap, layout.heap_bytes),
        *(
            (layout.cells + row * layout.row_bytes, layout.columns * shmstats.layout.CELL.size)
            for row in range(layout.rows)
        ),
    ]
    for start, _ in sections:
        assert start % shmstats.layout.PAGE == 0
    for (start, size), (following, _) in zip(sections, [*sections[1:], (layout.size, 0)], strict=True):
        assert start + size <= following


@pytest.mark.parametrize(("capacity", "max_workers"), SIZES)
@pytest.mark.far_from_core
def test_the_size_of_the_index_is_a_power_of_two_and_it_is_at_most_half_full(
    shmstats: ModuleType, capacity: int, max_workers: int
) -> None:
    slots = shmstats.block.layout.Layout(capacity, max_workers).index_slots
    assert slots & slots - 1 == 0
    assert slots >= 2 * capacity


@pytest.mark.parametrize(("capacity", "max_workers"), SIZES)
@pytest.mark.far_from_core
def test_the_bitmap_has_a_bit_for_every_page_of_a_row(shmstats: ModuleType, capacity: int, max_workers: int) -> None:
    module = shmstats.block.layout
    layout = module.Layout(capacity, max_workers)
    assert layout.bitmap_bytes * 8 >= layout.row_bytes // shmstats.layout.PAGE
    assert layout.bitmap_bytes % 8 == 0


def test_an_owner_word_is_never_0_and_is_unique_to_slot_and_claim(shmstats: ModuleType) -> None:
    def owner_word(slot: int, claim: int) -> int:
        word: int = shmstats.block.Worker(slot, claim, 1, 1, 0, 0, 0).word
        return word

    last = shmstats.block.layout.WORKER_SLOTS - 1
    words = {owner_word(slot, claim) for slot in (0, 1, last) for claim in (0, 1, 0xFFFFF)}
    assert len(words) == 9
    assert 0 < min(words)
    assert max(words) < 2**32
    assert owner_word(0, 0x100001) == owner_word(0, 1)


def test_a_header_survives_being_written_and_read(attach: Any, shmstats: ModuleType) -> None:
    block = attach(capacity=300, max_workers=5)
    header = shmstats.block.header.read_header(block._buf)
    assert header["magic"] == struct.unpack("<Q", b"shmstats")[0]
    assert (header["capacity"], header["max_workers"]) == (300, 5)
    assert header["layout_version"] == shmstats.block.layout.LAYOUT_VERSION
    assert header["protocol"] == shmstats.core.PROTOCOL
    assert bytes(block._buf[:8]) == b"shmstats"
    for field in ("names", "removed", "cells", "heap", "changing"):
        assert header[field] == 0
    assert (header["slots"], header["claims"]) == (1, 1)
    assert len(header["salt"]) == 16


def test_the_saving_fields_of_a_header_are_read_as_they_were_written(attach: Any, shmstats: ModuleType) -> None:
    header = attach().header
    assert (header.saved, header.saver_term, header.save_error, header.push_error) == (0, 0, "", "")
    header.saver_term += 1
    header.saved, header.saver_pid = 2**63, 2**32 - 1
    header.save_error = "x" * 191 + "é"
    header.push_error = "no\0route"
    assert (header.saver_term, header.saved, header.saver_pid) == (1, 2**63, 2**32 - 1)
    assert (header.save_error, header.push_error) == ("x" * 191, "no route")
    header.save_error = ""
    assert header.save_error == ""


def test_a_half_written_message_is_not_shown(attach: Any, shmstats: ModuleType) -> None:
    block = attach()
    block.header.save_error = "No space left on device"
    start = shmstats.block.layout.HEADER.offset("save_error")
    block._buf[start : start + 2] = b"no"
    assert block.header.save_error == ""
