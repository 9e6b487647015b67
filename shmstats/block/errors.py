"""What can be wrong with a block, or with what is asked of it."""

from __future__ import annotations

import struct


class BlockError(Exception):
    """A block that cannot be used: not ours, damaged, or of another version. The message says why."""


class DamagedBlockError(BlockError):
    """A block whose contents are damaged."""


class BlockFullError(Exception):
    """There is no room for another name; the message says what ran out."""


def capacity_is_used(capacity: int) -> BlockFullError:
    """Return the error for a block of which all cells or records are used."""
    return BlockFullError(
        f"the capacity of the block, {capacity}, is in use: raise stats.capacity, which holds once all processes of the"
        " block have left"
    )


def memory_is_full(reason: str = "") -> BlockFullError:
    """Return the error for shared memory that has no room."""
    return BlockFullError(
        f"shared memory is full{reason and f' ({reason})'}: give /dev/shm more room (a container: --shm-size)"
    )


class SeriesLimitError(Exception):
    """A metric has as many label sets as it may have; the message says so."""


class DeclarationError(ValueError):
    """A metric is declared in two ways, or used in another way than it is declared."""


class KindError(ValueError):
    """A name that is one kind of statistic was used as another that it cannot become."""


#: What contents that cannot be lead to where they are used: numbers out of range, texts that are none.
OF_CONTENTS = (ArithmeticError, LookupError, ValueError, struct.error)

#: What using a block that another thread has left leads to.
OF_LEAVING = (AttributeError, OSError, TypeError, ValueError)
