"""Putting the names of a block in order that a process left which was killed while it changed them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layout import LIVE, REMOVED
from .names import NameTable
from .ready import find_replaced
from .records import FAMILY, INHERITED, MEMBER, READY


def repair(names: NameTable) -> bool:
    """Derive anew from the records what can be, where a change was broken off; returns whether one was.

    The table lock is held.
    """
    count, *_, is_broken_off, _ = names.index.usage()
    if not is_broken_off:
        return False
    records = names.array()
    _replace_by_ready_ones(names, records)
    live = records["state"] == LIVE
    _follow_families(names, records, live)
    names.index.rebuild()
    names.removed = int(count - live.sum())
    names.cells_used = int((records["cell"] + records["width"]).max(initial=0))
    keys, notes = records["key"] + records["room"], records["note"] + records["note_room"]
    names.heap_used = int(max(keys.max(initial=0), notes.max(initial=0)))
    names.families = int((live & (records["flags"] & FAMILY != 0)).sum())
    members = np.zeros(count, "<u4")
    counted = records["family"][live & (records["flags"] & MEMBER != 0)]
    np.add.at(members, counted[counted > 0] - 1, 1)
    records["members"] = members
    names.revision += 1
    names.cells.raise_generation()
    names.broken_off = 0
    return True


def mark_inherited(names: NameTable) -> None:
    """Mark all names as those of processes that are gone. The table lock is held."""
    names.array()["flags"] |= INHERITED
    names.revision += 1


def _replace_by_ready_ones(names: NameTable, records: np.ndarray[Any, Any]) -> None:
    """Have the series that are ready for a declaration be there if it is noted; else those that they are made of."""
    former, successors, unused = find_replaced(records, names.key, names.note)
    records["state"][former + unused] = REMOVED
    for number in successors:
        names.set_declaration(number, 0)
        records["flags"][number] &= ~READY & 0xFF


def _follow_families(names: NameTable, records: np.ndarray[Any, Any], live: np.ndarray[Any, Any]) -> None:
    """Have series be found under the declaration of the family that they were given to."""
    members = np.flatnonzero(live & (records["family"] > 0))
    expected = records["declaration"][records["family"][members] - 1]
    differ = records["declaration"][members] != expected
    for number, declaration in zip(members[differ].tolist(), expected[differ].tolist(), strict=True):
        names.set_declaration(number, declaration)
