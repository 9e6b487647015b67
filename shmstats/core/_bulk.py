"""What only the C core has: functions for many series at once, mostly without the GIL.

The Python core has none of them: `shmstats.core.bulk` is None there, and the general code does the same, which C leaves
all hard cases to. Only type checkers import this module.
"""

from __future__ import annotations

from typing import Protocol

#: The cells of a block: the block, the offset of the cells, the bytes from one row to the next, the rows, the offset of
#: the bitmaps of pages with memory, and the bytes from one to the next.
Grid = tuple[memoryview, int, int, int, int, int]

#: Text before the category of each line, text after it, and text before the category of the line with the creation time
#: (empty: no such line). For a histogram these are for its buckets; then follow the text before the category in the
#: lines of sum and count, the divisor of the sum, and for each bucket line its number and the text after the labels.
GroupLines = tuple[bytes, bytes, bytes] | tuple[bytes, bytes, bytes, bytes, bytes, int, tuple[tuple[int, bytes], ...]]

#: A part of a text.
Text = bytes | memoryview


class Bulk(Protocol):
    """The functions. All arguments that state places in other ones are checked."""

    def sum_columns(self, *arguments: *tuple[*Grid, int]) -> bytearray:
        """Return the sums of the first columns over all rows, as 64-bit integers, saturated.

        Pages without memory are not read. Anything outside of the block raises BufferError.

        Args:
            arguments: the grid, and the number of columns.
        """

    def merge_histograms(self, *arguments: *tuple[*Grid, bytearray, bytes]) -> None:
        """Store the totals of histograms in a row of totals, over the sums of their columns.

        The values of each row are of one moment. A bucket is saturated, the sum and the maximum are finite. Anything
        outside of the block or the totals raises BufferError.

        Args:
            arguments: the grid, the result of `sum_columns`, and the first column and the width of each histogram
                (u32).
        """

    def sum_contributions(self, *arguments: *tuple[*Grid, int, bytes, bytes, bytes]) -> list[int | float]:
        """Return the sums of contributions to some gauges, an int if all contributions are ints.

        Anything outside of the block raises BufferError.

        Args:
            arguments: the grid, the number of columns, the first column of each gauge (u32), whether only the
                contributions of living workers count (u8), and the signatures of these, ascending (u64).
        """

    def add_counters(self, totals: bytes | bytearray, cells: bytes, groups: bytes, count: int) -> bytearray:
        """Return the sums (i64, saturated) of ``count`` groups of counters in totals.

        The counters are given by their first cells and the numbers of their groups (u32 each). A column that is not
        within the totals, or an invalid group number, raises ValueError.
        """

    def add_histograms(self, totals: bytes | bytearray, cells: bytes, width: int) -> bytearray:
        """Return the sum of histograms of the same bounds in totals, given by first cells (u32), as one histogram.

        A column that is not within the totals raises ValueError.
        """

    def text_buckets(self, totals: bytes | bytearray, cells: bytes, widths: bytes) -> list[tuple[int, str]]:
        """Return the buckets of histograms in totals: the number of the first non-empty one, and the counts as text.

        The text has the counts up to the last non-empty bucket, separated by blanks. The histograms are given by their
        first cells and widths (u32 each). A column that is not within the totals raises ValueError.
        """

    def group_series(self, records: bytes, heap: bytes, apart: bytes) -> tuple[bytes, bytes, list[tuple[str, ...]]]:
        """Put the shown series into groups: each has one metric, kind, mode and declaration.

        A metric called *total*, which is shown as its category, has a group for each category.

        Args:
            records: copies of a block's, `shmstats.block.layout.NAME`.
            heap: a copy of the block's.
            apart: a category whose series are in no group.

        Returns:
            The number of each record's group (u32; 2**32 - 1: it is not shown), three u32 for each group in the order
            of their first records, and the lists of label names. The three are the first record, the number + 1 of the
            label names (0: no series has labels; 2**32 - 1: they have different ones), and whether some label is empty.

        Raises:
            BufferError: a record has an invalid key or kind.
            ValueError: these are not whole records.
        """

    def plan_text(
        self,
        records: bytes,
        heap: bytes,
        group_of: bytes,
        rank_of: bytes,
        lines: tuple[GroupLines | None, ...],
        heads: tuple[bytes, ...],
    ) -> tuple[bytes, bytes, bytes]:
        """Write the lines of groups, with a place for each value.

        Args:
            records: as for `group_series`.
            heap: as for `group_series`.
            group_of: as `group_series` returns it.
            rank_of: the position on the page of each group's family (u32); beyond the last family: the group is left
                out.
            lines: the shared parts of the lines of each group.
            heads: the text before each family.

        Returns:
            The text, its places, and for each family the ends of its text and of its places (u64 each).

        Raises:
            ValueError: the groups are not those of the records.
        """

    def fill_text(self, pieces: tuple[tuple[Text, Text], ...], totals: bytes | bytearray) -> bytes:
        """Join pieces of text, with the values of one moment in their places.

        Args:
            pieces: text and places from `plan_text`, or those of some consecutive families; a text without places
                stays unchanged.
            totals: see `sum_columns` and `merge_histograms`.

        Raises:
            ValueError: they do not fit together.
        """

    def plan_save(self, records: bytes, heap: bytes, numbers: bytes) -> tuple[bytes, bytes, bytes, bytes, bytes]:
        """Write what a saved snapshot contains of some records; see `shmstats.snapshot.format`.

        Args:
            records: as for `group_series`.
            heap: as for `group_series`.
            numbers: of counters, gauges and histograms (u32).

        Returns:
            The items of the lists ``names``, ``kinds`` and ``created``, and those of ``values`` as text and places for
            `fill_text`.

        Raises:
            ValueError: the numbers are not those of records that can be saved.
        """

    def pack_series(
        self,
        keys: bytes | memoryview,
        kinds: bytes | memoryview,
        created: bytes | memoryview,
        values: bytes | memoryview,
        metrics: dict[str, int],
        buckets: list[int],
        carried: set[int],
        latest: int,
    ) -> tuple[bytes, bytes, bytes, bytes] | None:
        """Pack the series of a saved snapshot in the form of a block, as far as they are simple.

        A series is simple if it is as the current version saves it; others may be wrong, or need a closer look.

        Args:
            keys: a list in JSON, of UTF-8: category, metric, and label names and values, joined by NUL.
            kinds: likewise: as `shmstats.series.Kind`; negative: a counter that was decremented.
            created: likewise: ns since 1970.
            values: likewise: integers; of gauges also floats; of histograms sum, maximum, minimum, number of the first
                bucket, and a list of the buckets from there on.
            metrics: numbers of metrics, by category and metric joined by NUL. A new metric with labels gets the
                next number.
            buckets: number of buckets of a metric's histograms, by its number; 0: they are not simple, nor are those
                without a number; -1: no series of the metric is simple.
            carried: positions of histograms with observations from other buckets.
            latest: latest possible moment of creation; a later one becomes 0: unknown.

        Returns:
            Of the simple series the keys, concatenated, a record for each, with the number of its metric + 1 as
            family, and 1 as members if it has labels, and the cells of the shared row; and a JSON list of the others,
            each a list of its position and its items of the lists. It is empty if there are none.
            None if the lists differ in length, a key is there twice, or something is not a JSON list.
        """
