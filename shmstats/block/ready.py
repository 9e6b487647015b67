"""Series prepared, hidden, for a declaration that is about to be stored, and the series that they will replace.

Once the declaration is stored, they are the current ones: a repair puts them into their places, and readers
treat them as if it had.
"""

from __future__ import annotations

from collections.abc import Callable

from ..frozen import NamedTuple
from ..layout import LIVE
from ..series import Declaration
from .declarations import decode_definition, digest
from .records import DECLARED, READY


class Replacement(NamedTuple):
    """Numbers of records.

    Attributes:
        former: series that were replaced.
        successors: the series that replaced them.
        unused: series prepared for a declaration that was not stored.
    """

    former: list[int]
    successors: list[int]
    unused: list[int]


def number_of_ready(declared: Declaration) -> int:
    """Return the number under which series prepared for a declaration are hidden."""
    return digest(declared) ^ 0xFFFFFFFF or 1


def find_replaced(
    column: Callable[[str], memoryview], key_of: Callable[[int], bytes], note_of: Callable[[int], bytes]
) -> Replacement:
    """Find out from the notes of families which prepared series are current.

    Args:
        column: returns a field of all records, see `shmstats.layout.Structure.column`.
        key_of: returns the key of a record.
        note_of: returns its note.
    """
    found = Replacement([], [], [])
    flags, families, declarations = column("flags").tobytes(), column("family").tolist(), column("declaration")
    live = [number for number, state in enumerate(column("state").tobytes()) if state == LIVE]
    for family in sorted({families[number] for number in live if flags[number] & READY}):
        series = [number for number in live if families[number] == family]
        successors = [number for number in series if flags[number] & READY]
        note = note_of(family - 1) if family and flags[family - 1] & DECLARED else b""
        in_force = number_of_ready(decode_definition(note).declared) if note else 0
        if {declarations[number] for number in successors} <= {0, in_force}:  # 0: it already has its place
            keys = set(map(key_of, successors))
            found.former.extend(each for each in series if not flags[each] & READY and key_of(each) in keys)
            found.successors.extend(successors)
        else:
            found.unused.extend(successors)
    return found
