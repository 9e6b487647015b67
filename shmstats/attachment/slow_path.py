"""The slow path: what a counting call does if the fast path could not do it at once.

A call with a bound handle never gets here. Here a name is looked up or registered, a handle bound, a kind
changed. Failures that are not the caller's mistake are counted and logged (`shmstats.attachment.calls`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..block import KindError, Record, SeriesLimitError
from ..block.declarations import Definition, describe
from ..block.keys import OVERFLOW, decode_key, encode_key, overflow_key
from ..block.lock import guards
from ..block.outdated import counted_under, is_redefined, refuse_shown
from ..block.rebucketing import mark_carried
from ..block.stripes import SHARED_ROW
from ..bounds import Bounds, buckets_of, rebucketed, scale_of, stay_exact
from ..core import Counter, Gauge, Histogram, Series
from ..layout import INT64_MAX, INT64_MIN
from ..reading.attached import AttachedBlock
from ..series import Declaration, Distribution, Kind, Mode
from .calls import operation, retried
from .changes import Changes
from .own_metrics import OWN, add_to_own
from .reads import Reads

#: The kind that the handles of each type are used as.
_KINDS = {Counter: Kind.COUNTER, Gauge: Kind.GAUGE, Histogram: Kind.HISTOGRAM}

#: Signature of the merged value of all dead workers, in the shared row. No worker has it: its pid would be 0.
_DEAD = 1


class SharedProvider(Reads, Changes):
    """The shared block as a provider of a registry: the counting calls. Its bases attach, read and change."""

    @operation
    def register(self, block: AttachedBlock, series: Series, kind: Kind) -> None:
        """Make sure that a series exists, at 0 if it is new.

        Args:
            block: the attached one.
            series: a handle of it.
            kind: of the series, if nothing is declared.
        """
        self._find_or_add(block, series, kind)

    @operation
    def annotate(self, block: AttachedBlock, series: Series, change: Callable[[bytes], bytes]) -> None:
        """Change the note of a series; do nothing if the series does not exist.

        Args:
            block: the attached one.
            series: a handle of it.
            change: returns the new note for the old one, which is empty if there is none.
        """
        kind = next(kind for handle, kind in _KINDS.items() if isinstance(series, handle))
        name = series.category, series.metric
        overflow = tuple((label, OVERFLOW) for label, _ in series.labels)
        with block.exclusive():
            record = self.find(block, *name, series.labels, kind) or self.find(block, *name, overflow, kind)
            if record is not None:
                block.names.annotate(record.number, change(block.names.note(record.number)))

    @operation
    def count(self, block: AttachedBlock, series: Series, n: int | float) -> None:
        """Add ``n`` to a counter (an integer) or gauge, and bind the handle.

        Raises:
            KindError: the name is neither.
        """
        while isinstance(n, int) and n > INT64_MAX:  # from subtracting the lowest integer
            self._count(block, series, INT64_MAX)
            n -= INT64_MAX
        self._count(block, series, n)

    @operation
    @retried
    def set(self, block: AttachedBlock, generation: int, series: Series, value: int | float) -> bool:
        """Set a gauge, or the total of a counter, and bind the handle.

        Raises:
            KindError: the name is neither.
        """
        key, record = self._find_or_add(block, series, Kind.GAUGE, isinstance(value, int))
        if record.kind is Kind.GAUGE:
            row, by = self._bind_gauge(block, series, record, generation)
            return block.cells.set_gauge(row, record.cell, value, generation, by)
        if record.kind is not Kind.COUNTER:
            raise _kind_error(series, record, "set")
        if isinstance(value, int):
            return self._set_total(block, key, record.declaration, value)
        self._make_gauge(block, key, record.declaration)
        return False

    @operation
    @retried
    def observe(self, block: AttachedBlock, generation: int, series: Series, value: float) -> bool:
        """Add one observation to a histogram, and bind the handle.

        Raises:
            KindError: the name is not a histogram.
        """
        key, record, bounds = self._histogram(block, series)
        if block.cells.generation != generation:
            return False  # they may be another metric's, which has replaced this one
        if isinstance(series, Histogram):
            self._bind_histogram(block, series, key, record, generation, scale_of(bounds))
        one = Distribution(value, value, buckets_of((value,), bounds), value)
        return self._add_distribution(block, record, one, generation)

    @operation
    @retried
    def add_distribution(
        self, block: AttachedBlock, generation: int, series: Series, distribution: Distribution, bounds: Bounds
    ) -> bool:
        """Add observations made elsewhere to a histogram.

        Args:
            block: the attached one.
            generation: of its names.
            series: a handle of the histogram.
            distribution: of the observations.
            bounds: of its buckets; if the histogram has others, each bucket goes to the one that contains its
                upper bound.

        Raises:
            KindError: the name is not a histogram.
        """
        _, record, its_bounds = self._histogram(block, series)
        if not stay_exact(distribution.buckets, bounds, its_bounds):
            with block.exclusive():
                if block.cells.generation != generation:
                    return False
                mark_carried(block, record)
        buckets = rebucketed(distribution.buckets, bounds, its_bounds)
        return self._add_distribution(block, record, distribution.replaced(buckets=buckets), generation)

    @operation
    @retried
    def note(self, block: AttachedBlock, generation: int, series: Series, microseconds: int) -> bool:
        """Set a timestamp, in microseconds since 1970-01-01 UTC, and bind the handle.

        Raises:
            KindError: the name is not a timestamp.
        """
        _, record = self._find_or_add(block, series, Kind.TIMESTAMP)
        if record.kind is not Kind.TIMESTAMP:
            raise _kind_error(series, record, "given a time")
        row = block.row_for(record)
        if type(series) is Series:
            series._bind(block.cells, row, record.cell, record.width, generation, False)
        return block.cells.set_gauge(row, record.cell, microseconds, generation)

    @operation
    def count_own(self, block: AttachedBlock, metric: str) -> None:
        """Count one of the package's own metrics."""
        block.find_or_add(encode_key(OWN, metric), Kind.COUNTER)
        add_to_own(block, metric, 1)

    def _find_or_add(
        self, block: AttachedBlock, series: Series, kind: Kind, whole: bool = True
    ) -> tuple[bytes, Record]:
        """Return the key and record that a handle counts into: its own, or that of the overflow set.

        Args:
            block: the attached one.
            series: the handle.
            kind: as which it is used.
            whole: whether the value to count or set is an integer.
        """
        key = encode_key(series.category, series.metric, series.labels)
        limit = self._settings.stats.max_series_per_metric
        definition = self._declared.get((series.category, series.metric))
        mine = None if definition is None else definition.declared
        if mine is not None:
            refuse_shown(key, mine)
        elif is_redefined(block, key, kind, whole):
            mine = Declaration(kind)
            self.declare(series.category, series.metric, mine)
        try:
            record = block.find_or_add(key, kind, limit, mine, whole)
            if block.has_lost_registrar():
                block.open_registrar(self._registrar, limit)
            self._learn(block, series, key, definition, record)
            return key, record
        except SeriesLimitError:
            self._log_once(
                f"metric {series.metric!r} of category {series.category!r} has {limit} label sets, as many as"
                " stats.max_series_per_metric allows: further ones are counted together"
            )
            key = overflow_key(key)
            return key, block.find_or_add(key, kind, limit, mine, whole)

    def _learn(self, block: AttachedBlock, series: Series, key: bytes, mine: Definition | None, record: Record) -> None:
        """Let series of a declared metric be bound at once from now on, if this process uses that declaration."""
        if record.family < 0:
            return
        if record.declaration:
            if mine is None:
                self._note_hidden(block, series, key)
            return
        revision = block.names.revision  # read before the declaration: a change meanwhile invalidates it
        family = block.names.record(record.family)
        current = block.definition(family)
        if current is None or (mine is None and current.moment > block.worker.attached):
            return
        if counted_under(block, family, key, record.kind, None if mine is None else mine.declared) is None:
            metric, (*_, mode, labelnames, _) = (series.category, series.metric), current.declared
            scale = block.scale_of(record) if record.kind is Kind.HISTOGRAM else b""
            found = family.number, record.kind, mode, _contributor(block, mode), labelnames, scale
            self._registrar.learn(revision, metric, mine, *found)

    def _note_hidden(self, block: AttachedBlock, series: Series, key: bytes) -> None:
        """Log, once, that the use of a metric does not fit what another process had declared before it."""
        family = block.names.family_of(key)
        current = None if family is None else block.definition(family)
        if current is not None and current.moment <= block.worker.attached:
            self._log_once(
                f"metric {series.metric!r} of category {series.category!r} is declared as {describe(current.declared)}"
                " by another process: what does not fit that is counted, but not shown. Use it as declared, or declare"
                " it as you use it: the newest declaration is shown"
            )

    def _histogram(self, block: AttachedBlock, series: Series) -> tuple[bytes, Record, Bounds]:
        """Return the key, record and bounds of a histogram that a handle counts into.

        Raises:
            KindError: the name is not a histogram.
        """
        key, record = self._find_or_add(block, series, Kind.HISTOGRAM)
        if record.kind is not Kind.HISTOGRAM:
            raise _kind_error(series, record, "timed")
        return key, record, block.bounds_of(record)

    @retried
    def _count(self, block: AttachedBlock, generation: int, series: Series, n: int | float) -> bool:
        kind = Kind.GAUGE if isinstance(series, Gauge) else Kind.COUNTER
        key, record = self._find_or_add(block, series, kind, isinstance(n, int))
        if record.kind is Kind.GAUGE:
            return self._add_to_gauge(block, series, record, n, generation)
        if record.kind is not Kind.COUNTER:
            raise _kind_error(series, record, "counted")
        if not isinstance(n, int):
            raise _kind_error(series, record, f"moved by {n}, which is no integer")
        return self._add(block, series, key, record, n, generation)

    def _add(self, block: AttachedBlock, series: Series, key: bytes, record: Record, n: int, generation: int) -> bool:
        if n < 0 and record.monotonic:
            with block.exclusive():
                block.names.clear_monotonic(record)
            record = block.names.record(record.number)
        if isinstance(series, Counter) and not self._settings.stats.no_buffer:
            with guards.current:
                if self._buffer is not None:
                    bound = self._buffer.bind(series, key, record, generation, b"")
                    return bound and self._buffer.cells.add(0, record.cell, n, generation)
        row = block.row_for(record)
        if isinstance(series, Counter):
            series._bind(block.cells, row, record.cell, record.width, generation, record.monotonic)
        return block.cells.add(row, record.cell, n, generation)

    def _add_to_gauge(
        self, block: AttachedBlock, series: Series, record: Record, n: int | float, generation: int
    ) -> bool:
        row, by = self._bind_gauge(block, series, record, generation)
        if record.mode in (Mode.LAST, Mode.SUM):  # a plain sum adds to the values of dead workers
            return block.cells.add_gauge(row, record.cell, n, generation, by)
        seen = block.cells.load(row, record.cell + 2)
        anew = not any(worker.signature == seen for worker in block.workers.live())
        return block.cells.add_gauge(row, record.cell, n, generation, by, seen, anew)

    def _bind_gauge(
        self, block: AttachedBlock, series: Series, record: Record, generation: int
    ) -> tuple[int, tuple[int, bool, bool, bool]]:
        """Bind the handle of a gauge; returns the row, and the contributor."""
        row = block.row_for(record)
        by = _contributor(block, record.mode)
        if record.mode in (Mode.MIN, Mode.MAX):
            _keep_of_dead(block, record, row)
        if isinstance(series, Gauge):
            series._bind(block.cells, row, record.cell, record.width, generation, False, b"", by)
        return row, by

    def _bind_histogram(
        self, block: AttachedBlock, series: Histogram, key: bytes, record: Record, generation: int, scale: bytes
    ) -> None:
        if not self._settings.stats.no_buffer:
            with guards.current:
                if self._buffer is not None:
                    self._buffer.bind(series, key, record, generation, scale)
                    return
        row = block.row_for(record)
        series._bind(block.cells, row, record.cell, record.width, generation, False, scale)

    def _add_distribution(self, block: AttachedBlock, record: Record, added: Distribution, generation: int) -> bool:
        figures = added.sum, added.max, added.min, added.buckets
        return block.cells.add_distribution(block.row_for(record), record.cell, *figures, generation)

    def _set_total(self, block: AttachedBlock, key: bytes, declaration: int, value: int) -> bool:
        """Give a counter the total ``value`` by adding the difference; False if it was removed."""
        with block.exclusive():
            if self._buffer is not None:
                self._buffer.flush()
            record = block.names.find(key, declaration)
            if record is None or record.kind is not Kind.COUNTER:
                return False
            difference = value - block.reader.total(record)
            if difference < 0:
                block.names.clear_monotonic(record)
            for row in block.stripes.rows_of(record.cell, record.width):
                difference = self._add_in_steps(block, row, record, difference)
        return True

    def _add_in_steps(self, block: AttachedBlock, row: int, record: Record, n: int) -> int:
        """Add a number that may exceed 64 bits to a cell; returns the part that did not fit."""
        while n:
            step = min(max(n, INT64_MIN), INT64_MAX)
            before = block.cells.load(row, record.cell)
            block.cells.add(row, record.cell, step, block.cells.generation)
            added = block.cells.load(row, record.cell) - before
            if not added:
                break
            n -= added
        return n

    def _make_gauge(self, block: AttachedBlock, key: bytes, declaration: int) -> None:
        """Remove a counter's name, so that it can be registered as a gauge.

        Raises:
            KindError: it is declared as a counter.
        """
        with block.exclusive():
            record = block.names.find(key, declaration)
            if record is not None and record.kind is Kind.COUNTER:
                if record.family >= 0 and block.names.record(record.family).declared:
                    category, metric, _ = decode_key(key)
                    raise KindError(
                        f"metric {metric!r} of category {category!r} is declared as a counter: it takes integers"
                    )
                block.names.remove([record])


def _contributor(block: AttachedBlock, mode: Mode) -> tuple[int, bool, bool, bool]:
    """Return the contributor to gauges of a mode: this worker, or for a shared gauge, none."""
    if mode is Mode.LAST:
        return 0, False, False, False
    return block.worker.signature, mode.live, mode.base is Mode.MOSTRECENT, mode is not Mode.SUM


def _keep_of_dead(block: AttachedBlock, record: Record, row: int) -> None:
    """Move a dead worker's value of a gauge of mode min or max out of a row that this process will write to."""
    found = block.reader.contributions(record)
    if not any(each.row == row and each.signature != block.worker.signature for each in found):
        return
    with block.exclusive():
        living = {worker.signature for worker in block.workers.live()}
        kept = [each for each in block.reader.contributions(record) if each.row in (row, SHARED_ROW)]
        values = [each.value for each in kept if each.signature not in living and not math.isnan(each.value)]
        if values and block.stripes.reserve_cells(SHARED_ROW, record.cell, record.width):
            value = min(values) if record.mode is Mode.MIN else max(values)
            by = (_DEAD, False, False, True)
            block.cells.set_gauge(SHARED_ROW, record.cell, value, block.cells.generation, by)


def _kind_error(series: Series, record: Record, verb: str) -> KindError:
    return KindError(
        f"metric {series.metric!r} of category {series.category!r} is a {record.kind.name.lower()} and cannot be {verb}"
    )
