"""Series that are ready, hidden, for a declaration that is about to be noted, and those that they replace then.

From the note on they are the ones that count: whoever repairs the names has them in their places, and who only reads
takes it that they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

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
    records: np.ndarray[Any, Any], key_of: Callable[[int], bytes], note_of: Callable[[int], bytes]
) -> Replacement:
    """Find what the notes of families have decided about series that are ready.

    Args:
        records: all, as an array of `NAME`.
        key_of: gives the key of a record.
        note_of: gives its note.
    """
    found = Replacement([], [], [])
    ready = (records["state"] == LIVE) & (records["flags"] & READY != 0)
    for family in np.unique(records["family"][ready]).tolist():
        series = (records["state"] == LIVE) & (records["family"] == family)
        successors = np.flatnonzero(series & ready).tolist()
        note = note_of(family - 1) if family and records["flags"][family - 1] & DECLARED else b""
        in_force = number_of_ready(decode_definition(note).declared) if note else 0
        if set(records["declaration"][successors].tolist()) <= {0, in_force}:  # 0: it has its place already
            keys = set(map(key_of, successors))
            found.former.extend(each for each in np.flatnonzero(series & ~ready).tolist() if key_of(each) in keys)
            found.successors.extend(successors)
        else:
            found.unused.extend(successors)
    return found
