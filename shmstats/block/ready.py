"""Series that are ready, hidden, for a declaration that is about to be noted, and those that they replace then.

From the note on they are the ones that count: whoever repairs the names has them in their places, and who only reads
takes it that they are.
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
        successors: those that came in their places.
        unused: those that were ready for a declaration which was not noted.
    """

    former: list[int]
    successors: list[int]
    unused: list[int]


def number_of_ready(declared: Declaration) -> int:
    """Return the number under which series are hidden that are ready for a declaration."""
    return digest(declared) ^ 0xFFFFFFFF or 1


def find_replaced(
    column: Callable[[str], memoryview], key_of: Callable[[int], bytes], note_of: Callable[[int], bytes]
) -> Replacement:
    """Find what the notes of families have decided about series that are ready.

    Args:
        column: gives a field of all records, see `shmstats.layout.Structure.column`.
        key_of: gives the key of a record.
        note_of: gives its note.
    """
    found = Replacement([], [], [])
    flags, families, declarations = column("flags").tobytes(), column("family").tolist(), column("declaration")
    live = [number for number, state in enumerate(column("state").tobytes()) if state == LIVE]
    for family in sorted({families[number] for number in live if flags[number] & READY}):
        series = [number for number in live if families[number] == family]
        successors = [number for number in series if flags[number] & READY]
        note = note_of(family - 1) if family and flags[family - 1] & DECLARED else b""
        in_force = number_of_ready(decode_definition(note).declared) if note else 0
        if {declarations[number] for number in successors} <= {0, in_force}:  # 0: it has its place already
            keys = set(map(key_of, successors))
            found.former.extend(each for each in series if not flags[each] & READY and key_of(each) in keys)
            found.successors.extend(successors)
        else:
            found.unused.extend(successors)
    return found
