"""Errors about a block, or about a use of it."""

from __future__ import annotations

import struct


class BlockError(Exception):
    """A block that cannot be used: another user's, damaged, or of another version. The message says why."""


class DamagedBlockError(BlockError):
    """A block whose contents are damaged."""


class BlockFullError(Exception):
    """There is no room for another name; the message says what ran out."""


def capacity_is_used(capacity: int) -> BlockFullError:
    """Return the error for a block whose cells or records are all in use."""
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
    """A metric has reached its limit of label sets; the message says so."""


class DeclarationError(ValueError):
    """A metric is declared in two ways, or used in another way than declared."""


class KindError(ValueError):
    """A name of one kind was used as another kind that it cannot become."""


#: Errors that invalid contents cause where they are used: numbers out of range, invalid texts.
OF_CONTENTS = (ArithmeticError, LookupError, ValueError, struct.error)

#: Errors that using a block causes after another thread has left it.
OF_LEAVING = (AttributeError, OSError, TypeError, ValueError)
