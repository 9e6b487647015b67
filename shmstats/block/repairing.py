"""Repairing the names of a block after a process was killed while it changed them.

Series are prepared, hidden, for a declaration that is about to be stored. Once it is stored, they are the current
ones: a repair puts them into the places of those that they replace, and readers treat them as if it had.
"""

from __future__ import annotations

from collections import Counter
from operator import add

from ..layout import LIVE, NAME, REMOVED
from ..series import Declaration
from .declarations import decode_definition, digest
from .names import NameTable
from .records import DECLARED, FAMILY, INHERITED, MEMBER, READY, key_in, note_in

#: The flags of each record after its process has ended, by its flags before.
_INHERITED = bytes(flags | INHERITED for flags in range(256))

#: Whether a record is prepared for a declaration, by its flags.
_ARE_READY = bytes(bool(flags & READY) for flags in range(256))


def repair(names: NameTable) -> bool:
    """Rebuild everything derived from the records if a change was interrupted; returns whether one was.

    The table lock is held.

    Raises:
        DamagedBlockError: a record has cells or texts outside of the block.
    """
    count, *_, is_broken_off, _ = names.index.usage()
    if not is_broken_off:
        return False
    _replace_by_ready_ones(names)
    live = [(number, flags) for number, state, flags in _columns(names, "state", "flags") if state == LIVE]
    _follow_families(names, [number for number, _ in live])
    names.index.rebuild()
    names.removed = count - len(live)
    names.set_used(_end(names, "cell", "width"), max(_end(names, "key", "room"), _end(names, "note", "note_room")))
    names.families = sum(1 for _, flags in live if flags & FAMILY)
    families = names.column("family").tolist()
    members = Counter(families[number] - 1 for number, flags in live if flags & MEMBER)
    for number, noted in _columns(names, "members"):
        if noted != members[number]:
            names.set_members(number, members[number])
    names.revision += 1
    names.cells.raise_generation()
    names.broken_off = 0
    return True


def mark_inherited(names: NameTable) -> None:
    """Mark all names as inherited from ended processes. The table lock is held."""
    flags = names.column("flags")
    flags[:] = flags.tobytes().translate(_INHERITED)
    names.revision += 1


def _replace_by_ready_ones(names: NameTable) -> None:
    """Make the series prepared for a declaration current if it is stored; otherwise keep those they were made from."""
    gone, successors = find_replaced(*names.sections())
    states, flags = names.column("state"), names.column("flags")
    for number in gone:
        states[number] = REMOVED
    for number in successors:
        names.set_declaration(number, 0)
        flags[number] &= ~READY


def _columns(names: NameTable, *fields: str) -> list[tuple[int, ...]]:
    """Return the number of each record, and some fields of it."""
    columns = [names.column(field).tolist() for field in fields]
    return list(zip(range(names.count), *columns, strict=True))


def _end(names: NameTable, start: str, size: str) -> int:
    """Return the end of the last of some places in the records."""
    return max(map(add, names.column(start).tolist(), names.column(size).tolist()), default=0)


def _follow_families(names: NameTable, live: list[int]) -> None:
    """Put series under the declaration of the family that they were given to."""
    families, declarations = names.column("family").tolist(), names.column("declaration").tolist()
    for number in live:
        family = families[number]
        if family and declarations[number] != declarations[family - 1]:
            names.set_declaration(number, declarations[family - 1])


def number_of_ready(declared: Declaration) -> int:
    """Return the number under which series prepared for a declaration are hidden."""
    return digest(declared) ^ 0xFFFFFFFF or 1


def find_replaced(records: bytes, heap: bytes | memoryview) -> tuple[list[int], list[int]]:
    """Find out from the notes of families which prepared series are current.

    Args:
        records: of the block.
        heap: of the block.

    Returns:
        The records of series that are gone, because they were replaced or their declaration was not stored; and
        of those that have replaced others.
    """
    flags, states = (NAME.column(records, field).tobytes() for field in ("flags", "state"))
    if not flags.translate(_ARE_READY).strip(b"\0"):
        return [], []
    families, declarations = NAME.column(records, "family").tolist(), NAME.column(records, "declaration")
    live = [number for number, state in enumerate(states) if state == LIVE]
    ready = [number for number in live if flags[number] & READY]
    in_force = {}
    for family in {families[number] for number in ready}:
        note = note_in(records, heap, family - 1) if family and flags[family - 1] & DECLARED else b""
        in_force[family] = number_of_ready(decode_definition(note).declared) if note else 0
    # 0: it already has its place
    successors = [number for number in ready if declarations[number] in (0, in_force[families[number]])]
    unused = [number for number in ready if declarations[number] not in (0, in_force[families[number]])]
    replaced = {(families[number], key_in(records, heap, number)) for number in successors}
    others = [number for number in live if families[number] in in_force and not flags[number] & READY]
    former = [number for number in others if (families[number], key_in(records, heap, number)) in replaced]
    return former + unused, successors
