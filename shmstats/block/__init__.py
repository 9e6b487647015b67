"""The block: statistics in shared memory, and the processes that count into it.

`Block.attach` joins as a worker. From the bottom up: ``layout`` says where everything is, ``identity`` whose the block
is, ``segment`` gets the memory, ``lock`` guards it, ``names`` and ``workers`` keep the two tables, ``validate`` looks
whether a block can be used, ``stripes`` has memory behind its cells, ``attaching`` and ``block`` tie them together.
"""

from .block import Block
from .errors import BlockError, BlockFullError, DeclarationError, KindError, SeriesLimitError
from .identity import identify
from .records import Record
from .workers import Worker

__all__ = [
    "Block",
    "BlockError",
    "BlockFullError",
    "DeclarationError",
    "KindError",
    "Record",
    "SeriesLimitError",
    "Worker",
    "identify",
]
