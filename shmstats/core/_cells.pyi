# The counting path: what _cells.c and its pure Python twin _cells_py.py both are.

from collections.abc import Callable, Mapping
from threading import RLock
from types import TracebackType
from typing import Any

from ..series import Labels
from ._names import NameIndex as NameIndex
from ._names import Registrar as Registrar

CORE: str
PROTOCOL: int
CELL_LAYOUT: dict[str, Any]
RECORD_LAYOUT: dict[str, Any]

#: Who writes to a gauge of which each worker has its own: a number that tells it from all others (0: the gauge is
#: shared by all), whether what it wrote is to go with it, whether the time is to be noted, and whether it must not
#: add to what somebody has left who is gone.
Contributor = tuple[int, bool, bool, bool]

def sum_columns(
    block: memoryview, cells: int, row_bytes: int, rows: int, pages: int, bitmap_bytes: int, columns: int
) -> bytearray:
    """Return the sums of the first ``columns`` columns over all rows, as 64-bit integers, saturated; without the GIL.

    Where the cells and the bitmaps of reserved pages are in the block is told by the offset of each and the bytes from
    one row to the next: what is not reserved is not looked at. What is more than the block has raises BufferError.
    """

def merge_histograms(
    block: memoryview,
    cells: int,
    row_bytes: int,
    rows: int,
    pages: int,
    bitmap_bytes: int,
    totals: bytearray,
    spans: bytes,
) -> None:
    """Put the totals of histograms into a row of totals, in the place of the sums of their columns; without the GIL.

    Of each row the values are of one moment. A bucket is saturated, the sum and the maximum are finite. The block and
    where things are in it are as for `sum_columns`; ``totals`` is what that returns; ``spans`` are the first column and
    the width of each histogram (u32). What is more than the block or the totals have raises BufferError.
    """

def sum_contributions(
    block: memoryview,
    cells: int,
    row_bytes: int,
    rows: int,
    pages: int,
    bitmap_bytes: int,
    columns: int,
    gauges: bytes,
    of_live: bytes,
    living: bytes,
) -> list[int | float]:
    """Return the sums of contributions to some gauges, an int where all of them are.

    The block and where things are in it are as for `sum_columns`; then the first column of each gauge (u32), whether
    the contributions of living workers alone count (u8), and the signatures of these, ascending (u64). What is more
    than the block has raises BufferError.
    """

def clear_locks(totals: bytearray, cells: bytes | memoryview, kinds: bytes) -> None:
    """Take the locks off the first cells (u32) of series of some kinds (u8) in totals.

    What is left is whether a gauge is a double. A column that is not within the totals raises ValueError.
    """

def add_counters(totals: bytes | bytearray, cells: bytes, groups: bytes, count: int) -> bytearray:
    """Return the sums (i64, saturated) of ``count`` groups of counters in totals.

    The counters are given by their first cells and the number of each one's group (u32 each). A column that is not
    within the totals, and a group that is not among these, raises ValueError.
    """

def add_histograms(totals: bytes | bytearray, cells: bytes, width: int) -> bytearray:
    """Return the sum of histograms of the same bounds in totals, by their first cells (u32), as the columns of one.

    A column that is not within the totals raises ValueError.
    """

def text_buckets(totals: bytes | bytearray, cells: bytes, widths: bytes) -> list[tuple[int, str]]:
    """Return the buckets of histograms in totals: the number of the first that is not empty, and what is in them.

    That is the counts up to the last one that is not empty, with blanks between them. The histograms are given by their
    first cells and widths (u32 each). A column that is not within the totals raises ValueError.
    """

def list_series(records: bytes, modes: bytes, columns: int) -> tuple[bytes, bytes, bytes, bytes, bytes, bytes]:
    """Return the series that some records show, in columns; one that cannot be raises BufferError.

    ``modes`` says what each of 256 modes is: 0 for none, 1 for one whose gauges have a value of their own, 2 for one
    whose gauges are combined, and stand apart. Of all but those come the numbers of the records, first columns, widths
    (u32 each), kinds and modes (u8 each); and last the numbers of those that stand apart (u32).
    """

#: Text before the category of each line, text behind it, and before the category of a line with the time of creation
#: (empty: there is no such line). Of a histogram that is for its buckets; then text before the category in the lines of
#: sum and count, what the sum is divided by, and for each line of a bucket its number and the text behind the labels.
Lines = tuple[bytes, bytes, bytes] | tuple[bytes, bytes, bytes, bytes, bytes, int, tuple[tuple[int, bytes], ...]]

def group_series(records: bytes, heap: bytes, apart: bytes) -> tuple[bytes, bytes, list[tuple[str, ...]]]:
    """Put the series that are shown into groups: of one metric, kind, mode and declaration.

    A metric called *total*, which is shown as its category, has a group for each category.

    Args:
        records: copies of a block's, `shmstats.block.layout.NAME`.
        heap: a copy of the block's.
        apart: a category whose series are in no group.

    Returns:
        The number of each record's group (u32; 2**32 - 1: it is not shown), three u32 for each group in the order of
        their first records, and the label names that there are. The three are the first record, the number + 1 of the
        label names (0: no series has labels; 2**32 - 1: they have different ones), and whether some label is empty.

    Raises:
        ValueError: a record has a key or a kind that cannot be.
    """

def plan_text(
    records: bytes,
    heap: bytes,
    group_of: bytes,
    rank_of: bytes,
    lines: tuple[Lines | None, ...],
    heads: tuple[bytes, ...],
) -> tuple[bytes, bytes, bytes]:
    """Write the lines of groups, with a place for each value.

    Args:
        records: as for `group_series`.
        heap: as for `group_series`.
        group_of: as `group_series` returns it.
        rank_of: the place on the page of each group's family (u32); one beyond the families: the group is left out.
        lines: what the lines of each group have in common.
        heads: what stands before each family.

    Returns:
        The text, its places, and for each family the ends of its text and of its places (u64 each).

    Raises:
        ValueError: the groups are not those of the records.
    """

def plan_save(records: bytes, heap: bytes, numbers: bytes) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """Write what a saved snapshot has of some records; see `shmstats.snapshot.format`.

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

def fill_text(text: bytes, places: bytes, totals: bytes | bytearray) -> bytes:
    """Put the values of one moment into their places, mostly without the GIL.

    Args:
        text: as `plan_text` returns it, or the part of some families in a row.
        places: likewise.
        totals: see `sum_columns` and `merge_histograms`.

    Raises:
        ValueError: they do not fit together.
    """

def fence() -> None:
    """Have all loads before it be done before any load after it: for who reads a histogram that may be written."""

class Cells:
    """The cells of one attached block, seen by one worker.

    Args:
        buffer: the whole block, writable.
        offset: of the first cell of row 0, in bytes.
        rows: rows of cells.
        capacity: cells of a row.
        row_bytes: from one row to the next.
        generation_offset: of the names generation (8 bytes) in the block.
        owner: the word that a lock holds while it is this worker's, not 0.
        is_live: tells of such a word whether its owner lives; asked when a lock stays taken.
        locks: the record locks, for the core that locks by them.
        limit: 0 for the block's cells. Otherwise these are one row of this process's own, a buffer
            without locks, and ``flush`` is called when it holds that many operations.
        held_offset: of a buffer: where in the block the operations held are noted (8 bytes).
        flush: of a buffer: called without arguments, when it is full and `flush` returns False.
        target: of a buffer: the block's cells.
        pages: offset of the bitmaps of pages that have memory, from one to the next ``bitmap_bytes``.
        bitmap_bytes: 0 where that is not known: then a handle's value is the recorder's to tell.

    A generation is that of the names when a column was looked up. An operation that is given one does
    nothing and returns False where the names have moved on, for the column may be another's by now.
    Where a method takes row and column, IndexError is raised when there is no such cell, and ValueError
    when the cells are closed, or were inherited by fork.
    """

    def __init__(
        self,
        buffer: memoryview,
        offset: int,
        rows: int,
        capacity: int,
        row_bytes: int,
        generation_offset: int,
        owner: int,
        is_live: Callable[[int], bool],
        locks: Any,
        limit: int = 0,
        held_offset: int = 0,
        flush: Callable[[], object] | None = None,
        target: Cells | None = None,
        pages: int = 0,
        bitmap_bytes: int = 0,
    ) -> None: ...
    direct: bool  # whether handles may use their binding; False sends all of them to the recorder
    @property
    def generation(self) -> int: ...  # the names generation now; 0 when closed
    def add(self, row: int, column: int, n: int, generation: int) -> bool: ...  # saturating at 64 bits
    def load(self, row: int, column: int) -> int: ...
    def clear(
        self, row: int, column: int, width: int, is_histogram: bool = ...
    ) -> bool: ...  # to 0, under the first cell's lock
    def load_gauge(self, row: int, column: int) -> int | float: ...
    def set_gauge(
        self, row: int, column: int, value: object, generation: int, by: Contributor = ...
    ) -> bool: ...  # False too where it is not an int or float that fits
    # Likewise. By a contributor that must not add to what somebody has left: to 0 where ``anew``, and False where the
    # contribution that is there is neither its own nor of ``seen``.
    def add_gauge(
        self,
        row: int,
        column: int,
        n: object,
        generation: int,
        by: Contributor = ...,
        seen: int = ...,
        anew: bool = ...,
    ) -> bool: ...
    def add_distribution(
        self,
        row: int,
        column: int,
        total: float,
        maximum: float,
        minimum: float,  # of none it says nothing; 0 where it is not known
        buckets: tuple[int, ...],
        generation: int,
    ) -> bool: ...
    def take(self, column: int, width: int) -> tuple[int, ...]: ...  # of a buffer: values, then 0
    def route(self, column: int, width: int, row: int) -> None: ...  # of a buffer: to this row
    def flush(self, generation: int) -> bool: ...  # of a buffer: False if not all could be moved
    def note_flushes(self, flushes: int, durations: int, scale: bytes) -> None: ...  # columns of statistics
    def publish(self, offset: int, value: int) -> None: ...  # store 4 bytes, after all stores before it
    def raise_generation(self) -> int: ...
    def count_takeovers_at(self, row: int, column: int) -> None: ...  # of locks, from dead owners
    def close(self) -> None: ...

class Section:
    """A lock with something to be done at its outermost level, for ``with``.

    Whatever a signal handler raises, and wherever, the section is entered, and left by ``with``, or it is not entered.
    A handler may also enter the section itself, even while it is being entered or left.

    Args:
        lock: an RLock, or another section.
        first: called with the lock held, at the outermost level, on the way in. If it raises, the section is not
            entered, and left as always.
        last: called before the lock is let go, at the outermost level, again and again until it does not raise: to
            do it twice must be the same as once. After a number of times it is given up. The first error is raised
            when everything has been let go.
        after: called when a level was left and the calling thread has the lock no more.
    """

    def __init__(
        self,
        lock: RLock | Section,
        first: Callable[[], object] | None = None,
        last: Callable[[], object] | None = None,
        after: Callable[[], object] | None = None,
    ) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def _is_owned(self) -> bool: ...  # whether the calling thread has the lock, as threading.Condition asks of any

class Series:
    """A handle: one statistic, bound to its cell."""

    def __init__(self, recorder: Any, category: str, metric: str, labels: Labels = ()) -> None: ...
    @property
    def recorder(self) -> Any: ...
    @property
    def category(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def labels(self) -> Labels: ...
    @property
    def value(self) -> Any: ...
    @property
    def _bound(self) -> bool: ...
    def _bind_at_once(self, *others: Series) -> bool:
        """Bind it by the `Registrar` of its recorder, and one other handle with it, in one step.

        Returns:
            Whether both are bound: each to its own name, never to the overflow set.
        """

    def _bind(
        self,
        cells: Cells,
        row: int,
        column: int,
        width: int,
        generation: int,
        monotonic: bool,
        scale: bytes = ...,  # of a histogram, see shmstats.bounds.scale_of
        by: Contributor = ...,
    ) -> None: ...

class Counter(Series):
    """A handle of a counter: the quickest way to count."""

    def incr(self, n: int = 1, *, exemplar: Mapping[str, Any] | None = None) -> None: ...
    def decr(self, n: int = 1) -> None: ...

class Gauge(Series):
    """A handle of a gauge."""

    def set(self, value: int | float) -> None: ...
    def incr(self, n: int | float = 1) -> None: ...
    def decr(self, n: int | float = 1) -> None: ...

class Histogram(Series):
    """A handle of a histogram."""

    def observe(self, value: int | float, /, *, exemplar: Mapping[str, Any] | None = None) -> None: ...

class Children:
    """The handles of a metric with labels, found by the label values.

    A subclass has ``_labels``, which takes what cannot be found.
    """

    labelnames: tuple[str, ...]
    def labels(self, /, *values: Any, **named: Any) -> Any: ...  # the handle of one label set
    def _find_child(self, values: tuple[str, ...]) -> Series | None: ...
    def _keep_child(self, values: tuple[str, ...], handle: Series) -> None: ...  # exact strs
    def _drop_child(self, values: tuple[str, ...] = ...) -> None: ...  # without values: all

class Stopwatch:
    """Times a block of code, and reports the duration in ms.

    A subclass has ``_enter_again`` and ``_exit_again``, which keep apart what begins while another block is timed.

    Args:
        report: a handle of a histogram, or what is called with the duration.
    """

    def __init__(self, report: Histogram | Callable[[float], object]) -> None: ...
    def __enter__(self) -> Any: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    @property
    def _report(self) -> Any: ...
    @property
    def _others(self) -> list[Any]: ...  # what began while another block was timed, and still runs
    @property
    def _first_is_here(self) -> bool: ...  # whether a block is timed that began in this thread and context
    def _take_first(self) -> int: ...  # end that block; returns when it began, 0 where there is none
    def _report_since(self, start: int) -> None: ...  # in ns of time.monotonic_ns

class Recorder:
    """The calls of user code: finds the handle of a name or of a label set, and uses it.

    A subclass has the Python methods that take what cannot be done at once: one for each call, with all its
    arguments (``_incr`` of ``incr``), and for handles ``_count_series(sign, series, n)``,
    ``_set_series(series, value)``, ``_observe_series(series, value)``, ``_value(series)`` and
    ``_reduce_handle(series)``.
    """

    def incr(
        self,
        category: str,
        metric: str,
        n: int = 1,
        *,
        labels: Mapping[str, Any] | None = None,
        exemplar: Mapping[str, Any] | None = None,
    ) -> None: ...
    def decr(self, category: str, metric: str, n: int = 1, *, labels: Mapping[str, Any] | None = None) -> None: ...
    # With a value these do something, without one they return a handle; `Registry` has the overloads.
    gauge: Any
    timing: Any
    def absolute(self, category: str, metric: str, value: int, *, labels: Mapping[str, Any] | None = None) -> None: ...
    counter: Any
    histogram: Any
    def timer(self, category: str, metric: str, *, labels: Mapping[str, Any] | None = None) -> Any: ...
    def get(self, category: str, metric: str, *, labels: Mapping[str, Any] | None = None) -> Any: ...
    # Texts are category, metric, and label names and values in turn, as they are given, all exact strs.
    def _find_set(self, kind: type[Series], texts: tuple[str, ...]) -> Series | None: ...
    def _keep_set(self, texts: tuple[str, ...], series: Series) -> None: ...
    def _drop_sets(self) -> None: ...
    def _use_timers(self, kind: type[Stopwatch]) -> None: ...  # the class of what `timer` returns
    def _handle(self, category: object, metric: object) -> Series | None: ...
    def _keep(self, series: Series) -> None: ...  # be the one that _handle finds
    def _drop(self, category: str, metric: str | None) -> None: ...  # no longer; None: all

def hash_key(key: bytes, salt: bytes) -> int:
    """Return the hash of a name's key, by which the index has it: BLAKE2b of 4 bytes, with a salt of 16."""

class Requests:
    """What this process serves, for others to see: its entries in the table of requests.

    Args:
        block: the block, writable, with memory behind the entries.
        entries: offset of those of this process's slot; they are freed.
        further: offset of the number of requests that have no entry.

    Raises:
        ValueError: that is more than the block has.
    """

    def __init__(self, block: memoryview, entries: int, further: int) -> None: ...
    def begin(self, method: str, path: str) -> int:
        """Note that a request is being served; return its entry for `end`: -1 once closed."""

    def end(self, entry: int) -> None:
        """Note that it is over."""

    def close(self) -> None:
        """Let go of the block; what is begun or ended afterwards does nothing."""
