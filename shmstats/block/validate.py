"""Whether a block can be used: by its header, and by what processes of shmstats can have left in it.

A block outlives its processes, and the next process trusts its contents. So before a block without live processes
is adopted it is checked once: every number must stay within the layout, every name must be valid and
in the place of its hash. Everything derived from the names is rebuilt, and any value of a cell is possible.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from ..core import hash_key
from ..layout import LIVE, NAME, PAGE, REMOVED, fits_kind
from ..series import Declaration, Kind, Mode
from .declarations import decode_definition
from .errors import OF_CONTENTS, BlockError, DamagedBlockError, DeclarationError, KindError
from .header import read_header
from .keys import family_key
from .layout import LAYOUT_VERSION, MAGIC, WORKER_SLOTS, Layout
from .records import FAMILY, Records, width_of
from .segment import Segment

_KINDS, _MODES = frozenset(Kind), frozenset(Mode)


def check_layout(name: str, header: dict[str, int], size: int) -> Layout:
    """Check that a block has this version's layout, and return its layout.

    Raises:
        BlockError: it has another version's layout.
        DamagedBlockError: its header cannot be, or does not fit its size.
    """
    if header["magic"] != MAGIC:
        raise DamagedBlockError(
            f"block {name} does not begin with the header of a shmstats block: it is damaged, or it"
            f" belongs to another program"
        )
    if header["layout_version"] != LAYOUT_VERSION:
        raise BlockError(
            f"block {name} has layout version {header['layout_version']}, this shmstats has version"
            f" {LAYOUT_VERSION}: stop the processes that use the other version first"
        )
    layout = Layout(header["capacity"], header["max_workers"])
    if not (layout.capacity and layout.max_workers and layout.size == size):
        raise DamagedBlockError(
            f"block {name} is {size} bytes long, but by its header (capacity {layout.capacity},"
            f" max_workers {layout.max_workers}) it has {layout.size}; it is damaged"
        )
    return layout


def check_unfinished(segment: Segment, header: dict[str, int]) -> None:
    """Check that the maker of a block without a magic was killed before anything was counted in it.

    Raises:
        DamagedBlockError: its beginning was zeroed.
    """
    if header["finished"] or not (header["layout_version"] or segment.is_blank(PAGE)):
        raise DamagedBlockError(f"block {segment.name} is damaged: its beginning was zeroed")


@contextmanager
def damage_named(segment: Segment, layout: Layout) -> Iterator[None]:
    """Raise errors caused by damaged contents as a `DamagedBlockError`, and all others unchanged.

    The block itself is checked, because a signal handler of the application may raise the same classes.
    """
    try:
        yield
    except (DeclarationError, KindError):
        raise
    except BufferError as error:  # damage found by the name table
        raise DamagedBlockError(f"block {segment.name} is damaged: {error}") from error
    except OF_CONTENTS as error:
        damage = damage_of(segment, layout)
        if not damage:
            raise
        raise DamagedBlockError(f"block {segment.name} is damaged: {damage}") from error


def damage_of(segment: Segment, layout: Layout) -> str:
    """Return the damage of a block in use; empty if there is none, or the process has left the block meanwhile."""
    try:
        with segment.locks.table():
            return find_damage(segment.buf, layout)
    except (OSError, ValueError):
        return ""


def find_damage(buf: memoryview, layout: Layout) -> str:
    """Return the damage in the contents of a block; empty if there is none.

    Args:
        buf: the block, whose names do not change meanwhile.
        layout: of the block, from its checked header.
    """
    header = read_header(buf)
    limits = {
        "names": layout.capacity,
        "cells": layout.columns,
        "heap": layout.heap_bytes,
        "slots": WORKER_SLOTS,
    }
    for field, limit in limits.items():
        if header[field] > limit:
            return f"its header has {field} {header[field]}; the limit is {limit}"
    slots = header["index_slots"]
    if not 0 < slots <= layout.index_slots or slots & slots - 1:
        return f"its header says {slots} slots of the index, a power of two up to {layout.index_slots} is possible"
    records = bytes(buf[layout.names : layout.names + header["names"] * NAME.size])
    found = _damage_of_records(records, layout, header["cells"])
    return found or _damage_of_names(buf, layout, records, not header["changing"])


def _damage_of_records(records: bytes, layout: Layout, cells: int) -> str:
    for number, fields in enumerate(NAME.struct.iter_unpack(records)):
        state, kind, mode, flags, width, cell, family, _, _, key, room, length, note, note_room, _, _ = fields
        live = state == LIVE
        rules = (
            (live or state == REMOVED, "a state"),
            (not live or kind in _KINDS, "a kind"),
            (not live or mode in _MODES, "a mode"),
            (cell + width <= cells, "cells"),
            (not live or fits_kind(kind, mode, width, flags & FAMILY), "cells for its kind and mode"),
            (key + room <= layout.heap_bytes, "a place for its key"),
            (length <= room, "a length"),
            (note + note_room <= layout.heap_bytes, "a place for its note"),
            (family * NAME.size <= len(records), "a family"),
        )
        for holds, what in rules:
            if not holds:
                return f"record {number} has {what} that cannot be"
    return ""


def _damage_of_names(buf: memoryview, layout: Layout, records: bytes, have_settled: bool) -> str:
    """Return the damage of names, and of what they say of each other.

    Args:
        buf: the block.
        layout: of the block.
        records: of the names, each of which is possible by itself.
        have_settled: whether histograms have the buckets of their declarations: a kill on the way there marks that.
    """
    seen = set()
    families = {0: (b"", width_of(Declaration(Kind.HISTOGRAM)))}  # key and width, by the numbers that lead to them
    members = []
    with closing(Records(buf, layout)) as table:
        for number, fields in enumerate(NAME.struct.iter_unpack(records)):
            state, kind, _, flags, width, _, family, hashed, declaration, *_ = fields
            if state != LIVE:
                continue
            key, is_family = table.key(number), bool(flags & FAMILY)
            if not _is_key(key, is_family) or (key, declaration) in seen:
                return f"record {number} has a key that cannot be"
            seen.add((key, declaration))
            if hash_key(key, table.salt) ^ declaration != hashed:
                return f"record {number} has a key that does not fit its hash"
            if is_family:
                try:
                    note = table.note(number)
                    families[number + 1] = key, width_of(decode_definition(note).declared) if note else families[0][1]
                except ValueError:
                    return f"record {number} has a declaration that cannot be"
            is_settled = have_settled and kind == Kind.HISTOGRAM and not is_family and not declaration
            of_family = b"no key" if is_family else family_key(key)  # a family has none
            members.append((number, family, of_family, width if is_settled else 0))
    for number, family, of_family, width in members:
        key, buckets = families.get(family, (b"", 0))
        if family and key != of_family:
            return f"record {number} has a family that is not its metric's"
        if width not in (0, buckets):
            return f"record {number} has cells that do not fit its buckets"
    return ""


def _is_key(key: bytes, family: bool) -> bool:
    """Tell whether bytes can be the key of a name, or of a family."""
    try:
        category, metric, *rest = key.decode().split("\0")
    except ValueError:
        return False
    return bool(category and metric) and (rest == [""] if family else len(rest) % 2 == 0)
