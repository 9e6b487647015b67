# What finds and registers the names of a block: a part of what _cells.c and its pure Python twin both are.

from collections.abc import Sequence
from typing import Any

from ._cells import Cells

class NameIndex:
    """The index of a block's names: finds records by key, and appends to them.

    What it finds may be found without a lock; for all else the table lock is held, and memory is there. A `BufferError`
    says that the block is damaged, or that there is no room.

    Args:
        block: the block. With a read-only one nothing can be changed.
        sections: offset of the index and its slots at most; offset of the records and how many there can be; offset of
            the heap and its bytes; columns of a row.
        header: offsets of the numbers of the header: records in use, those removed, families, columns in use, slots of
            the index in use, whether the names are changing; in 8 bytes the heap in use and the revision; the salt; the
            generation, in 8 bytes.
        record: the class of what is found.
        kinds: what stands for a number of a kind; None for one that is none.
        modes: likewise of modes.
    """

    def __init__(
        self,
        block: memoryview,
        sections: tuple[int, ...],
        header: tuple[int, ...],
        record: type[tuple[Any, ...]],
        kinds: tuple[Any, ...],
        modes: tuple[Any, ...],
    ) -> None: ...
    def hash(self, key: bytes, /) -> int:
        """Return the hash of a key."""

    def find(self, key: bytes, declaration: int = 0, /) -> Any:
        """Look a name up.

        Returns:
            Its record: number, kind, flags, first cell, width, mode, family (-1: none) and declaration; None where it
            was not there.
        """

    def usage(self) -> tuple[int, ...]:
        """Return how many records are in use, and removed, columns in use, slots of the index, whether the names are
        changing, and bytes of the heap in use.
        """

    def append(self, keys: bytes, records: bytes, /) -> int:
        """Add names that are not there behind all others, in one step; returns the number of the first.

        Args:
            keys: of the names, one behind the other.
            records: a record for each, with the length of its key. State, cell, hash and place are filled in.
        """

    def free_for(self, length: int, width: int, /) -> int:
        """Return the number of a removed record that a new name can have the place of; -1 where there is none.

        Args:
            length: of the name's key.
            width: cells of the name.
        """

    def replace(self, number: int, key: bytes, record: bytes, /) -> None:
        """Give the record of a removed name, with its cells and its place in the heap, to another.

        Args:
            number: of the record.
            key: of the name; there is room for it.
            record: as for `append`, of the same width.
        """

    def discard(self, numbers: Sequence[int], /) -> None:
        """Remove names by the numbers of their records, which stay, with what they have a place for.

        Whoever has them bound is told by the generation.
        """

    def enter(self, number: int, hashed: int, /) -> None:
        """Have a record in the index."""

    def leave(self, number: int, hashed: int, /) -> None:
        """Have a record in the index no more."""

    def rebuild(self) -> None:
        """Make the index anew from the records."""

    def close(self) -> None:
        """Let go of the block."""

class Registrar:
    """Binds handles at once, as far as that is plain: finds a name, or adds it under the table lock.

    It is what a handle finds as the attribute ``_registrar`` of its recorder.

    What is not plain is left to the Python methods of the recorder: a lock that is not free in this process, memory
    that is to be had first, a full table, a damaged one, or one to be put in order, a metric whose declaration was not
    learned, and gauges of which each worker has its own.

    Args:
        declared: what the process has declared, by category and metric; it is kept.
        reserved: categories that nobody may count into.
        labels: label names that are reserved.
        plain: of a histogram that is not declared: see `shmstats.bounds.scale_of`.
    """

    def __init__(
        self, declared: dict[tuple[str, str], Any], reserved: tuple[str, ...], labels: tuple[str, ...], plain: bytes, /
    ) -> None: ...
    def open(
        self, index: NameIndex, cells: Cells, row: int, limit: int, lock: Any, descriptor: int, position: int, /
    ) -> None:
        """Register names in a block from now on, as long as its cells are open and direct.

        Args:
            index: of its names.
            cells: of the block.
            row: of this process.
            limit: label sets that a metric may have; 0: any number.
            lock: an RLock that keeps the threads of this process apart.
            descriptor: of the file of the block.
            position: of the table lock in that.
        """

    def learn(
        self,
        revision: int,
        metric: tuple[str, str],
        mine: Any,
        family: int,
        kind: int,
        labelnames: tuple[str, ...] | None,
        scale: bytes,
        /,
    ) -> None:
        """Know what is declared of a metric, and that this process counts under it.

        Args:
            revision: of the names before that was looked at.
            metric: category and metric.
            mine: what ``declared`` has of it; None for nothing.
            family: number of the record of the metric.
            kind: of its series.
            labelnames: that each has; None for any.
            scale: of a histogram, as ``plain``; else empty.
        """
