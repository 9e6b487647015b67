"""A block that a process has attached, with a reader of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..block import Block
from ..block.lock import late
from ..once import lazy_property

if TYPE_CHECKING:
    from .reader import BlockReader


class AttachedBlock(Block):
    """A block that this process counts into and reads."""

    @lazy_property
    def reader(self) -> BlockReader:
        """The reader, made at its first use; a process that only counts has none, and does not import it.

        Raises:
            ValueError: the process has left the block.
        """
        make = late("shmstats.reading.reader").BlockReader
        if self.is_left:
            raise ValueError("the block was left")
        reader: BlockReader = make(self._buf, self.layout, self.workers)
        return reader

    def abandon(self) -> None:
        """Release the memory without telling other processes."""
        self.is_left = True
        reader = self.__dict__.pop("reader", None)
        if reader is not None:
            reader.close()
        super().abandon()
