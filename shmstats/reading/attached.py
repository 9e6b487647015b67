"""A block that a process has attached, with a reader of it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ..block import Block
from ..block.lock import importing
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
        make = _reader_type()
        if self.is_left:
            raise ValueError("the block was left")
        return make(self._buf, self.layout, self.workers)

    def abandon(self) -> None:
        """Release the memory without telling other processes."""
        self.is_left = True
        reader = self.__dict__.pop("reader", None)
        if reader is not None:
            reader.close()
        super().abandon()


@cache
def _reader_type() -> type[BlockReader]:
    with importing():
        from .reader import BlockReader
    return BlockReader
