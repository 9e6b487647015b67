"""The block: statistics in shared memory, and the processes that count into it.

`Block.attach` joins as a worker. From the bottom up: ``layout`` has the places of everything, ``identity`` the owner of
the block, ``segment`` the memory, ``lock`` its locks, ``names`` and ``workers`` the two tables, ``validate`` checks
whether a block is usable, ``stripes`` reserves memory for its cells, ``attaching`` and ``block`` tie them together.
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
