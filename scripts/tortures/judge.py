"""What a block, or a saved snapshot, says was counted; and whether a block is in order.

The judge only reads: it is no worker of the block that it judges.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shmstats import snapshot as saved
from shmstats.block.block import check_layout, read_header, read_only
from shmstats.block.layout import DELETED, NAME
from shmstats.block.names import NameTable
from shmstats.block.segment import ReadOnlySegment, segment_name
from shmstats.series import Distribution, Snapshot

from .ledger import STREAMS, Notes

Values = dict[tuple[str, str], Any]


class Verdict(NamedTuple):
    """What became of the operations of one stream of one worker.

    Attributes:
        place: of the worker.
        stream: of its operations.
        after: operations known to be done.
        counted: how many the block says.
        before: operations that were begun.
    """

    place: int
    stream: str
    after: int
    counted: int
    before: int

    @property
    def lost(self) -> int:
        """Operations that were done and are not there."""
        return max(0, self.after - self.counted)

    @property
    def doubled(self) -> int:
        """Operations that are there and were never begun."""
        return max(0, self.counted - self.before)


def values(directory: Path) -> Values:
    """Return what the block of a data directory says; where there is none, what was saved."""
    while True:
        try:
            with read_only(directory) as reader:
                return _values(reader.read())
        except FileNotFoundError:
            found = _saved_values(saved.stats_directory(directory))
        if not _is_there(directory):
            return found


def _saved_values(directory: Path) -> Values:
    """Return what the newest valid snapshot says, and leave damaged ones where they are."""
    for name in (saved.FILE, saved.PREVIOUS):
        try:
            return _values(saved.load(directory / name))
        except (FileNotFoundError, saved.SnapshotError):
            continue
    return {}


def _values(snapshot: Snapshot) -> Values:
    found: Values = {}
    for name, value in zip(snapshot.names, snapshot.values, strict=True):
        key = (name.category, name.metric)
        if not name.labels:
            assert key not in found, f"{key} is there twice"
            found[key] = value
    return found


def _is_there(directory: Path) -> bool:
    try:
        with read_only(directory):
            return True
    except FileNotFoundError:
        return False


def counted(found: Values, stream: str, place: int) -> int:
    """Return how many operations of a stream of a worker are there; ``shared`` is that of all workers."""
    if stream == "shared":
        return int(found.get(("all", "together"), 0))
    category = {"timing": "took"}.get(stream, stream)
    value = found.get((category, f"worker {place}"), 0)
    if isinstance(value, Distribution):
        return sum(value.buckets)
    return -int(value) if stream == "down" else int(value)


def verdicts(found: Values, notes: Notes, place: int) -> Iterator[Verdict]:
    """Judge the streams that are a worker's own."""
    for stream in STREAMS:
        if stream != "shared":
            yield Verdict(place, stream, notes.after(stream), counted(found, stream, place), notes.before(stream))


def check_structure(directory: Path) -> int:
    """Check all that must hold of the names and workers of a block, while nobody changes it.

    Returns:
        How many names there are.
    """
    name = segment_name(directory)
    with ReadOnlySegment(name) as buf:
        layout = check_layout(name, read_header(buf), len(buf))
        table = NameTable(buf, layout)
        try:
            return _check_names(table, np.frombuffer(bytes(buf[layout.names : layout.heap]), NAME))
        finally:
            table.close()


def _check_names(table: NameTable, records: Any) -> int:
    assert table._changing == 0, "a change of the names was broken off, and nobody has put it right"
    records = records[: table.count]
    names = {}
    for record in table.records():
        key = table.key(record.number)
        assert key not in names, f"{key!r} is there twice"
        names[key] = record
        assert table.find(key) == record, f"{key!r} is not found"
    assert table.removed == int((records["state"] == 2).sum())
    entries = sorted(entry for entry in table._index.tolist() if entry not in (0, DELETED))
    assert entries == [record.number + 1 for record in names.values()], "the index and the names differ"
    for start, size, used in (("cell", "width", table.cells_used), ("key", "room", table.heap_used)):
        ranges = sorted(zip(records[start].tolist(), records[size].tolist(), strict=True))
        ends = [first + length for first, length in ranges]
        following = [first for first, _ in ranges[1:]] + [used]
        assert all(map(int.__le__, ends, following)), f"two names share a {start}"
    assert (records["length"] <= records["room"]).all(), "a key is longer than its place"
    return len(names)
