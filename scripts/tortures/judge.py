"""The counts in a block, or in a saved snapshot; and whether a block is valid.

The judge only reads: it is not a worker of the block that it judges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shmstats.block import identify
from shmstats.block.header import read_header
from shmstats.block.names import make_index
from shmstats.block.records import FAMILY, MEMBER, Records
from shmstats.block.segment import opened_to_read
from shmstats.block.validate import check_layout
from shmstats.core import NameIndex
from shmstats.layout import DELETED, LIVE, NAME, REMOVED
from shmstats.reading.reader import read_only
from shmstats.series import Distribution, Snapshot
from shmstats.snapshot import store as saved
from shmstats.snapshot.format import SnapshotError

from .ledger import STREAMS, Notes

Values = dict[tuple[str, ...], Any]


class Verdict(NamedTuple):
    """The judgement of the operations of one stream of one worker.

    Attributes:
        place: of the worker.
        stream: of its operations.
        after: number of operations known to be done.
        counted: number of operations in the block.
        before: number of operations that were begun.
    """

    place: int
    stream: str
    after: int
    counted: int
    before: int

    @property
    def lost(self) -> int:
        """Operations that were done and are missing."""
        return max(0, self.after - self.counted)

    @property
    def doubled(self) -> int:
        """Operations that are counted and were never begun."""
        return max(0, self.counted - self.before)


def values(directory: Path) -> Values:
    """Return the values in the block of a data directory; if there is none, those of the snapshot."""
    while True:
        try:
            with read_only(directory) as reader:
                return _values(reader.read())
        except FileNotFoundError:
            found = _saved_values(saved.stats_directory(directory))
        if not _is_there(directory):
            return found


def _saved_values(directory: Path) -> Values:
    """Return the values in the newest valid snapshot, and leave damaged ones where they are."""
    for name in (saved.FILE, saved.PREVIOUS):
        try:
            return _values(saved.load(directory / name))
        except (FileNotFoundError, SnapshotError):
            continue
    return {}


def _values(snapshot: Snapshot) -> Values:
    found: Values = {}
    for name, value in zip(snapshot.names, snapshot.values, strict=True):
        key = (name.category, name.metric, *(value for _, value in name.labels))
        assert key not in found, f"{key} occurs twice"
        found[key] = value
    return found


def _is_there(directory: Path) -> bool:
    try:
        with read_only(directory):
            return True
    except FileNotFoundError:
        return False


def counted(found: Values, stream: str, place: int) -> int:
    """Return the number of counted operations of a stream of a worker; ``shared`` is that of all workers."""
    if stream == "shared":
        return int(found.get(("all", "together"), 0))
    if stream == "labelled":
        return int(found.get(("labelled", "requests", str(place)), 0))
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
    """Check everything that must hold of the names and workers of a block that no process changes.

    Returns:
        The number of names.
    """
    identity = identify(directory)
    with opened_to_read(identity) as (buf, _):
        layout = check_layout(identity.name, read_header(buf), len(buf))
        table, index = Records(buf, layout), make_index(buf, layout)
        try:
            entries = np.frombuffer(bytes(buf[layout.index : layout.names]), "<u4")[: layout.index_slots]
            records = np.frombuffer(bytes(buf[layout.names : layout.heap]), NAME.dtype)
            return _check_names(table, index, entries.tolist(), records)
        finally:
            index.close()
            table.close()


def _check_names(table: Records, index: NameIndex, entries: list[int], records: Any) -> int:
    assert table.broken_off == 0, "a change of the names was interrupted and not repaired"
    records = records[: table.count]
    states = records["state"].tolist()
    live = [number for number, state in enumerate(states) if state == LIVE]
    assert set(states) <= {LIVE, REMOVED}, states
    assert table.removed == states.count(REMOVED)
    seen = set()
    for number in live:
        key = table.key(number)
        declaration = table.record(number).declaration
        found = index.find(key, declaration)
        assert (key, declaration) not in seen, f"{key!r} occurs twice"
        assert found is not None, f"{key!r} is not found"
        assert found.number == number, f"{key!r} is found elsewhere"
        seen.add((key, declaration))
    entered = sorted(entry for entry in entries if entry not in (0, DELETED))
    assert entered == [number + 1 for number in live], "the index and the names differ"
    cells = zip(records["cell"].tolist(), records["width"].tolist(), strict=True)
    _check_apart("cells", cells, table.cells_used)
    heap = [*zip(records["key"].tolist(), records["room"].tolist(), strict=True)]
    heap += zip(records["note"].tolist(), records["note_room"].tolist(), strict=True)
    _check_apart("places in the heap", heap, table.heap_used)
    assert (records["length"] <= records["room"]).all(), "a key is longer than its place"
    _check_families(table, records, live)
    return len(live)


def _check_apart(what: str, ranges: Iterable[tuple[int, int]], used: int) -> None:
    """Check that (start, size) ranges do not overlap, and end within the used part."""
    ranges = sorted((start, size) for start, size in ranges if size)
    ends = [start + size for start, size in ranges]
    following = [start for start, _ in ranges[1:]] + [used]
    assert all(map(int.__le__, ends, following)), f"two names share {what}"


def _check_families(table: Records, records: Any, live: list[int]) -> None:
    """Check that each series has an existing family, and that families count their members."""
    families = [number for number in live if records["flags"][number] & FAMILY]
    assert table.families == len(families), "the number of families is wrong"
    counted = [number for number in live if records["flags"][number] & MEMBER and records["family"][number]]
    members = Counter(int(records["family"][number]) - 1 for number in counted)
    assert set(members) <= set(families), "a series has a family that does not exist"
    for number in families:
        assert records["members"][number] == members[number], "the number of a family's members is wrong"
