"""The package's own metrics, in the category `OWN`."""

from __future__ import annotations

from collections.abc import Callable

from ..block import BlockFullError
from ..block.keys import encode_key
from ..block.registering import find_or_add
from ..reading.attached import AttachedBlock
from ..series import Kind

#: The category of the package's own metrics.
OWN = "shmstats"

#: Its counters: operations that could not be counted, cell locks taken over from dead workers.
OPERATIONS_DROPPED = "operations_dropped"
LOCKS_TAKEN_OVER = "locks_taken_over"

#: In buffered mode: operations held by all workers, flushes, and their durations.
OPERATIONS_HELD = "operations_held"
FLUSHES = "flushes"
FLUSH = "flush"

TAKEN_OVER = encode_key(OWN, LOCKS_TAKEN_OVER)


#: The own metrics of each process, and of one with a buffer: their kinds by their keys.
_PLAIN = dict.fromkeys((encode_key(OWN, OPERATIONS_DROPPED), TAKEN_OVER), Kind.COUNTER)
_BUFFERED = {
    encode_key(OWN, OPERATIONS_HELD): Kind.GAUGE,
    encode_key(OWN, FLUSHES): Kind.COUNTER,
    encode_key(OWN, FLUSH): Kind.HISTOGRAM,
}


def register_own(block: AttachedBlock, buffered: bool, tell: Callable[[str], object]) -> None:
    """Register the package's own metrics, while there is room.

    Args:
        block: the one that is being attached.
        buffered: whether this process has a buffer.
        tell: called with a line if there is no room.
    """
    for key, kind in (_PLAIN | _BUFFERED if buffered else _PLAIN).items():
        try:
            record = find_or_add(block, key, kind)
        except BlockFullError as error:
            tell(f"the package cannot update its own metrics: {error}")
            continue
        if key == TAKEN_OVER:
            block.cells.count_takeovers_at(block.row_for(record), record.cell)


def add_to_own(block: AttachedBlock, metric: str, n: int) -> None:
    """Add to one of the package's own counters, if it could be registered."""
    record = block.names.find(encode_key(OWN, metric))
    if record is not None:
        block.cells.add(block.row_for(record), record.cell, n, block.cells.generation)


def note_held(block: AttachedBlock) -> None:
    """Set the gauge of the operations that all workers hold, for readers that do not attach."""
    record = block.names.find(encode_key(OWN, OPERATIONS_HELD))
    if record is not None:
        held = sum(worker.held for worker in block.workers.live())
        block.cells.set_gauge(block.row_for(record), record.cell, held, block.cells.generation)
