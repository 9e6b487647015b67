"""Everything that only reads a block: it writes nothing to it, and waits for no lock."""

from .attached import AttachedBlock
from .reader import BlockReader, Usage, read_only
from .totals import BlockSnapshot

__all__ = ["AttachedBlock", "BlockReader", "BlockSnapshot", "Usage", "read_only"]
