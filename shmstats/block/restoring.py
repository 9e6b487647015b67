"""Restoring a saved snapshot into a block that was just made, and is not yet anyone else's.

Names are registered together, which takes a small part of the time that one after the other takes. Where there is
not room for all of them, halves are tried, so that as many are there as fit, in the order of the snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..layout import INT64_MAX, INT64_MIN, NAME
from ..series import Declaration, Distribution, Kind, Mode, Name, Value
from .block import Block
from .errors import BlockFullError, capacity_is_used
from .keys import encode_key, family_key, is_overflow
from .rebucketing import carry
from .records import FAMILY, MEMBER, MONOTONIC, PLAIN, Record, packed, width_of
from .repairing import mark_inherited
from .stripes import SHARED_ROW

#: Where the moment of creation is in a record: behind all else.
_CREATED = NAME.offset("created")


class _Saved(NamedTuple):
    """A name that is to be registered, with its key and value."""

    name: Name
    key: bytes
    value: Value


def restore(block: Block, names: Sequence[Name], values: Sequence[Value]) -> list[tuple[Name, str]]:
    """Register the names of a saved snapshot, with their values in row 0.

    Args:
        block: to restore into. It is not yet anyone else's.
        names: of the snapshot; no two are the same.
        values: of the names.

    Returns:
        What was not restored, and why.
    """
    failed = []
    with block.exclusive():
        there = {block.names.key(record.number) for record in block.names.records()}
        todo: list[_Saved] = []
        for name, value in zip(names, values, strict=True):
            key = encode_key(name.category, name.metric, name.labels)
            reason = _reason_against(block, name, key, value)
            if reason:
                failed.append((name, reason))
            elif key in there:
                record = block.find_or_add(key, name.kind)
                block.names.set_created(record.number, name.created)
                _put(block, record, name, value)
            else:
                todo.append(_Saved(name, key, value))
        start, size = 0, len(todo)
        while start < len(todo):
            try:
                _register(block, todo[start : start + size])
                start += size
            except BlockFullError as error:
                if size == 1:
                    failed += [(name, str(error)) for name, _, _ in todo[start:]]
                    break
                size //= 2
        mark_inherited(block.names)
    return failed


def _register(block: Block, part: list[_Saved]) -> None:
    """Register a part of the names, with their values.

    Raises:
        BlockFullError: there is not room for all of them. None was registered.
    """
    families = _families(block, part)
    made: dict[tuple[Kind, bool, bool, int], Record] = {}  # many names want the same
    numbers: dict[tuple[Kind, bool, bool, int], int] = {}
    wanted = []
    which = []
    for name, key, _ in part:
        family = families.get(family_key(key)) if families else None
        counted = family is not None and bool(name.labels) and not is_overflow(key)
        what = name.kind, name.monotonic, counted, -1 if family is None else family.number
        record = made.get(what)
        if record is None:
            record = made[what] = _wanted(block, name, counted, family)
            numbers[what] = len(numbers)
        which.append(numbers[what])
        wanted.append(record)
    templates = [packed(record, 0, 0) for record in made.values()]
    records = bytearray(b"".join([templates[i] for i in which]))
    lengths, created = NAME.column(records, "length"), NAME.column(records, "created")
    for i, (name, key, _) in enumerate(part):
        lengths[i], created[i] = len(key), name.created
    totals = [value if isinstance(value, int) and name.kind is Kind.COUNTER else 0 for name, _, value in part]
    first, cells = block.names.add_all(b"".join([key for _, key, _ in part]), bytes(records), totals)
    for i, (name, _, value) in enumerate(part):
        if name.kind is not Kind.COUNTER:
            _put(block, wanted[i]._replace(number=first + i, cell=cells[i]), name, value)


def _families(block: Block, part: list[_Saved]) -> dict[bytes, Record]:
    """Return the families of names, by key; those with labels all have one.

    Raises:
        BlockFullError: there is not room for all names together with their families.
    """
    families: dict[bytes, Record] = {}
    missing: dict[bytes, Record] = {}
    for name, key, _ in part:
        family = family_key(key) if name.labels or block.names.families else b""
        if family and family not in families and family not in missing:
            found = block.names.find(family)
            if found is not None:
                families[family] = found
            elif name.labels:
                missing[family] = Record(-1, name.kind, FAMILY, 0, 0)
    if missing and block.names.count + len(missing) + len(part) > block.layout.capacity:
        raise capacity_is_used(block.layout.capacity)
    for family, wanted in missing.items():
        families[family] = block.names.add(family, wanted)
    return families


def _wanted(block: Block, name: Name, counted: bool, family: Record | None) -> Record:
    """Return what a restored name is to be."""
    flags = (MONOTONIC if name.monotonic else 0) | (MEMBER if counted else 0)
    if family is None:
        return PLAIN[name.kind]._replace(flags=flags)
    width = width_of(block.declared(family) or Declaration(name.kind))
    return Record(-1, name.kind, flags, 0, width, Mode.LAST, family.number)


def _put(block: Block, record: Record, name: Name, value: Value) -> None:
    """Put a restored value into row 0."""
    block.space.reserve_cells(SHARED_ROW, record.cell, record.width)
    cells, generation = block.cells, block.cells.generation
    if record.kind is Kind.GAUGE:
        cells.set_gauge(SHARED_ROW, record.cell, value, generation)
    elif isinstance(value, Distribution):
        carry(block, record, value, name.bounds, block.bounds_of(record), name.carried)
    elif isinstance(value, int):
        cells.add(SHARED_ROW, record.cell, value, generation)
        if not name.monotonic:
            block.names.clear_monotonic(record)


def _reason_against(block: Block, name: Name, key: bytes, value: Value) -> str:
    """Return why a saved value cannot be restored, or nothing."""
    if name.kind is Kind.HISTOGRAM:
        buckets = len(name.bounds) + 1
        if not isinstance(value, Distribution) or len(value.buckets) != buckets:
            return f"a histogram must have {buckets} buckets: {value!r:.80}"
        fits = all(INT64_MIN <= bucket <= INT64_MAX for bucket in value.buckets)
        return "" if fits else "a bucket does not fit 64 bits"
    if isinstance(value, Distribution) or (name.kind is Kind.COUNTER and not isinstance(value, int)):
        return f"a {name.kind.name.lower()} cannot be {value!r:.80}"
    if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
        return f"{value!r:.80} does not fit 64 bits"
    return ""
