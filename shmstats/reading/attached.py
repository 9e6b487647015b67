"""A block that a process has attached, with a reader of it."""

from __future__ import annotations

from ..block import Block, Identity
from ..block.layout import Layout
from ..block.segment import Segment
from .reader import BlockReader


class AttachedBlock(Block):
    """A block that this process counts into and reads.

    Attributes:
        reader: reads values.
    """

    def __init__(self, segment: Segment, layout: Layout, identity: Identity) -> None:
        super().__init__(segment, layout, identity)
        self.reader = BlockReader(self._buf, layout, self.workers)

    def abandon(self) -> None:
        """Let go of the memory without a word to the others."""
        self.reader.close()
        super().abandon()
