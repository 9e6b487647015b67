"""What can be wrong with a block, or with what is asked of it."""

from __future__ import annotations

import struct


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


class KindError(ValueError):
    """A name that is one kind of statistic was used as another that it cannot become."""


#: What contents that cannot be lead to where they are used: numbers out of range, texts that are none.
OF_CONTENTS = (ArithmeticError, LookupError, ValueError, struct.error)

#: What using a block that another thread has left leads to.
OF_LEAVING = (AttributeError, OSError, TypeError, ValueError)
