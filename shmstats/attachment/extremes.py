"""Values of dead workers of gauges of mode min and max: they are kept when a new worker takes over the row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..block import Record
from ..block.stripes import SHARED_ROW
from ..reading.attached import AttachedBlock
from ..series import Mode

if TYPE_CHECKING:
    from ..reading.gauges import Contribution

#: Signature of the merged value of all dead workers, in the shared row. No worker has it: its pid would be 0.
_DEAD = 1


def keep_of_dead(block: AttachedBlock, record: Record, row: int) -> None:
    """Move a dead worker's value of a gauge out of a row that this process will write to.

    Args:
        block: the attached one.
        record: of the gauge, of mode min or max.
        row: the one to write to.
    """
    if not any(found.row == row and found.signature != block.worker.signature for found in _found(block, record)):
        return
    with block.exclusive():
        living = {worker.signature for worker in block.workers.live()}
        kept = [found for found in _found(block, record) if found.row in (row, SHARED_ROW)]
        values = [found.value for found in kept if found.signature not in living and not math.isnan(found.value)]
        if values and block.stripes.reserve_cells(SHARED_ROW, record.cell, record.width):
            value = min(values) if record.mode is Mode.MIN else max(values)
            by = (_DEAD, False, False, True)
            block.cells.set_gauge(SHARED_ROW, record.cell, value, block.cells.generation, by)


def _found(block: AttachedBlock, record: Record) -> list[Contribution]:
    return block.reader.contributions(record)
