"""What an attached process reads from its block: values, timestamps, snapshots, the array."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..block import Record
from ..block.declarations import digest
from ..block.keys import encode_key
from ..block.outdated import counted_under
from ..reading.attached import AttachedBlock
from ..series import Kind, Labels, Snapshot, Value
from .attachment import Attachment
from .calls import question
from .own_metrics import note_held

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Reads(Attachment):
    """The calls that read the attached block. Each raises `BlockError` if it is damaged."""

    @question(0)
    def value(self, block: AttachedBlock, category: str, metric: str, labels: Labels = ()) -> Value:
        """Return the value of a name over all workers, 0 if there is none."""
        return _found(block, category, metric, labels)[1]

    @question(None)
    def moment(self, block: AttachedBlock, category: str, metric: str, labels: Labels = ()) -> int | None:
        """Return a timestamp in microseconds since 1970-01-01 UTC; None if there is none."""
        kind, value = _found(block, category, metric, labels)
        return value if kind is Kind.TIMESTAMP and isinstance(value, int) else None

    def find(self, block: AttachedBlock, category: str, metric: str, labels: Labels, kind: Kind) -> Record | None:
        """Return the record that this process counts a series into, whatever others have declared since.

        Args:
            block: the attached one.
            category: of the series.
            metric: of the series.
            labels: of the series.
            kind: as which the process uses it.
        """
        key = encode_key(category, metric, labels)
        outdated = counted_under(block, block.names.family_of(key), key, kind, self._mine(category, metric))
        return block.names.find(key, 0 if outdated is None else digest(outdated))

    @question(Snapshot((), ()))
    def read(self, block: AttachedBlock) -> Snapshot:
        """Return all names and values; none without a block."""
        if self._buffer is not None:
            note_held(block)
        return block.reader.read()

    @question(None)
    def array(self, block: AttachedBlock) -> npt.NDArray[np.void] | None:
        """Return all cells of the block, read-only: shape (rows, columns); None without a block."""
        return block.reader.columns.view()

    @question(Snapshot((), ()))
    def exposable(self, block: AttachedBlock) -> Snapshot:
        """Return all names and values to be shown to others; values that they have seen must not be lost.

        With ``stats.durable_exposition`` they are on the disk before this returns: the last saved values, if saving
        takes some seconds. If saving fails the current values are returned, and the age of the last save shows it.
        """
        if self._buffer is not None:
            note_held(block)
        saver = self._saver
        return block.reader.read() if saver is None else saver.exposed()

    @question(True)
    def admits(self, block: AttachedBlock, category: str, metric: str, labels: Labels) -> bool:
        """Tell whether a series exists, or its metric may have one more label set."""
        key = encode_key(category, metric, labels)
        family = block.names.family_of(key)
        if family is None or block.names.members(family) < self._settings.stats.max_series_per_metric:
            return True
        return block.names.find(key) is not None


def _found(block: AttachedBlock, category: str, metric: str, labels: Labels) -> tuple[Kind | None, Value]:
    """Return the kind and the value of a name; None and 0 if there is none."""
    key = encode_key(category, metric, labels)
    while True:
        generation = block.cells.generation
        record = block.find(key)
        found = (None, 0) if record is None else (record.kind, block.reader.value(record))
        if block.cells.generation == generation:  # else its cells may be another name's
            return found
