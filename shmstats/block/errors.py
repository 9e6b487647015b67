"""What can be wrong with a block, or with what is asked of it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from ..interruption import came_from_handler


class BlockError(Exception):
    """A block that cannot be used: not ours, damaged, or of another version. The message says why."""


class DamagedBlockError(BlockError):
    """A block whose contents are damaged."""


class BlockFullError(Exception):
    """There is no room for another name; the message says what ran out."""


class SeriesLimitError(Exception):
    """A metric has as many label sets as it may have; the message says so."""


class DeclarationError(ValueError):
    """A metric is declared in two ways, or used in another way than it is declared."""


@contextmanager
def damage_named(name: str) -> Iterator[None]:
    """Say of a block that it is damaged, where its contents turn out not to be what they can be.

    Args:
        name: of the block.

    Raises:
        DamagedBlockError: instead of what numbers and texts raise that are none.
    """
    try:
        yield
    except DeclarationError:
        raise
    except (ArithmeticError, LookupError, ValueError, struct.error) as error:
        if came_from_handler(error):
            raise
        raise DamagedBlockError(f"block {name} is damaged: {error!r}") from error
