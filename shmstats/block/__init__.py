"""The block: statistics in shared memory, and the processes that count into it.

`Block.attach` joins as a worker, `read_only` only looks. The modules, from the bottom up: ``layout`` says
where everything is, ``segment`` gets the memory, ``cells`` counts (in C, or in its Python twin), ``lock`` has
the locks for the rest, ``names`` and ``workers`` keep the two tables, ``header`` and ``soundness`` look whether a
block can be used, ``space`` has memory behind it, ``reader`` reads, ``block`` ties them together, and
``declaring``, ``restoring`` and ``buffer`` work on it.
"""

from ..reading.reader import BlockReader, Usage, read_only
from .block import Block, DeclarationError, SeriesLimitError, damage_named
from .declaring import Change, declare, give_way
from .names import BlockFullError, Record
from .outdated import remove_outdated
from .restoring import restore
from .segment import BlockError, segment_name
from .workers import Worker

__all__ = [
    "Block",
    "BlockError",
    "BlockFullError",
    "BlockReader",
    "Change",
    "DeclarationError",
    "Record",
    "SeriesLimitError",
    "Usage",
    "Worker",
    "damage_named",
    "declare",
    "give_way",
    "read_only",
    "remove_outdated",
    "restore",
    "segment_name",
]
