"""The block: statistics in shared memory, and the processes that count into it.

`Block.attach` joins as a worker, `read_only` only looks. The modules, from the bottom up: ``layout`` says
where everything is, ``segment`` gets the memory, ``lock`` the locks, ``cells`` counts (in C, or in its
Python twin), ``names`` and ``workers`` keep the two tables, ``soundness`` looks through what a dead block says,
``reader`` reads, ``block`` ties them together.
"""

from .block import Block, DeclarationError, SeriesLimitError, damage_named, read_only
from .names import BlockFullError, Record
from .reader import BlockReader, Usage
from .segment import BlockError, segment_name
from .workers import Worker

__all__ = [
    "Block",
    "BlockError",
    "BlockFullError",
    "BlockReader",
    "DeclarationError",
    "Record",
    "SeriesLimitError",
    "Usage",
    "Worker",
    "damage_named",
    "read_only",
    "segment_name",
]
