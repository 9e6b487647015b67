"""The shared block as a provider: attaches on first use, and does what the quick path could not.

A counting call that finds its handle bound never comes here. This module is where a name is looked up
or registered, a handle bound, a kind changed, and where everything ends that is not the caller's mistake:
a block that cannot be attached, or is full, is counted, logged once and survived.
"""

from __future__ import annotations

import logging
import multiprocessing.util
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from .. import snapshot as saved
from ..block import Block, BlockError, BlockFullError, Record, segment_name
from ..block.cells import Counter, Gauge, Series
from ..block.lock import lock_file
from ..block.names import WIDTHS, encode_key
from ..block.segment import segment_path
from ..config import Settings
from ..series import Kind, Snapshot, Value

log = logging.getLogger("shmstats")

#: The category of what the library counts about itself.
OWN = "shmstats"

#: Its counters: operations that could not be counted, and cell locks taken over from dead workers.
OPERATIONS_DROPPED = "operations_dropped"
LOCKS_TAKEN_OVER = "locks_taken_over"

_RETRY_SECONDS = 1.0


class KindError(ValueError):
    """A name that is one kind of statistic was used as another that it cannot become."""


class SharedProvider:
    """Counts into the shared block of a data directory.

    Args:
        settings: where the block is and how large it is made.

    Attributes:
        directory: the data directory.
        direct: whether handles may count without coming here.
    """

    def __init__(self, settings: Settings) -> None:
        self.directory: Path = settings.path.data
        self._settings = settings
        self._locks = lock_file(segment_path(segment_name(self.directory)) + ".lock")
        self._block: Block | None = None
        self._retry_at = 0.0
        self._dropped = 0
        self._logged: set[str] = set()
        self._direct = True
        _providers.add(self)

    @property
    def direct(self) -> bool:
        """Whether bound handles count at once; otherwise every operation goes to the recorder."""
        return self._direct

    @direct.setter
    def direct(self, direct: bool) -> None:
        self._direct = direct
        if self._block is not None:
            self._block.cells.direct = direct

    def attach(self) -> Block:
        """Return the attached block; attach it if it is not.

        Raises:
            BlockError: there is a block that must not be used.
            OSError: shared memory is full or not usable.
        """
        block = self._block
        if block is None:
            with self._locks.guard:
                block = self._block or self._attach()
        return block

    def close(self) -> None:
        """Leave the block; the last one saves it. What cannot be saved stays in shared memory."""
        if self._locks.guard.held:
            self._locks.guard.defer(self.close)
            return
        with self._locks.guard:
            block, self._block = self._block, None
            if block is None:
                return
            try:
                block.leave(self._save)
            except OSError as error:
                log.error("statistics could not be saved, and stay in shared memory: %s", error)

    def count(self, series: Series, n: int) -> None:
        """Add ``n`` to a counter or gauge, and bind the handle.

        Raises:
            KindError: the name is neither.
        """
        self._operate(lambda block: self._count(block, series, n))

    def set(self, series: Series, value: int | float) -> None:
        """Set a gauge, or the total of a counter, and bind the handle.

        Raises:
            KindError: the name is neither.
        """
        self._operate(lambda block: self._set(block, series, value))

    def value(self, category: str, metric: str, labels: tuple[tuple[str, str], ...] = ()) -> Value:
        """Return the value of a name over all workers, 0 where there is none."""
        block = self._attached()
        record = None if block is None else block.names.find(encode_key(category, metric, labels))
        return 0 if block is None or record is None else block.reader.value(record)

    def read(self) -> Snapshot:
        """Return all names and values; none where there is no block."""
        block = self._attached()
        return Snapshot((), ()) if block is None else block.reader.read()

    def remove(self, category: str, metric: str | None) -> int:
        """Remove a metric, or a whole category, with all label sets; returns how many names that were."""

        def remove(block: Block, records: list[Record]) -> None:
            block.names.remove(records, block.cells)
            for record in records:
                block.clear(record)

        return self._change(category, metric, remove)

    def reset(self, category: str, metric: str | None) -> int:
        """Set a metric, or a whole category, to 0; returns how many names that were."""

        def reset(block: Block, records: list[Record]) -> None:
            for record in records:
                block.clear(record)

        return self._change(category, metric, reset)

    def forget(self) -> None:
        """Drop what the child of a fork inherited; it attaches by itself when it counts."""
        block, self._block = self._block, None
        self._dropped = 0
        if block is not None:
            block.abandon()

    def _attach(self) -> Block:
        stats = self._settings.stats
        block = Block.attach(self.directory, stats.capacity, stats.max_workers, self._fill)
        for metric in (OPERATIONS_DROPPED, LOCKS_TAKEN_OVER):
            block.find_or_add(encode_key(OWN, metric), Kind.COUNTER, 1)
        takeovers = block.find_or_add(encode_key(OWN, LOCKS_TAKEN_OVER), Kind.COUNTER, 1)
        block.cells.count_takeovers_at(block.row_for(takeovers), takeovers.cell)
        block.cells.direct = self._direct
        if multiprocessing.parent_process() is not None:
            # Such a process ends without the atexit functions.
            multiprocessing.util.Finalize(None, self.close, exitpriority=0)
        self._block = block
        return block

    def _attached(self) -> Block | None:
        """Return the block, or None where it cannot be attached now; that was logged."""
        if self._block is None and (self._locks.guard.held or time.monotonic() < self._retry_at):
            return None
        try:
            return self.attach()
        except (BlockError, OSError) as error:
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            self._log_once("nothing is counted: %s", error)
            return None

    def _change(
        self, category: str, metric: str | None, change: Callable[[Block, list[Record]], None]
    ) -> int:
        """Change all names of a metric or category under the table lock; returns how many there are."""
        if self._locks.guard.held:
            self._locks.guard.defer(lambda: self._change(category, metric, change))
            return 0
        block = self._attached()
        if block is None:
            return 0
        with block.exclusive():
            records = _matching(block, category, metric)
            change(block, records)
        return len(records)

    def _operate(self, operation: Callable[[Block], None]) -> None:
        """Do an operation on the attached block, now or as soon as this thread can, and never fail."""
        if self._locks.guard.held:
            self._locks.guard.defer(lambda: self._operate(operation))
            return
        block = self._attached()
        if block is None:
            self._dropped += 1
            return
        try:
            operation(block)
        except KindError:
            raise
        except BlockFullError as error:
            self._drop(block, "a new name is not counted: %s", error)
        except Exception as error:
            self._drop(block, "an operation was not counted: %s", error)
        if self._dropped:
            self._count_dropped(block)

    def _count(self, block: Block, series: Series, n: int) -> None:
        key = encode_key(series.category, series.metric, series.labels)
        done = False
        while not done:
            generation = block.cells.generation
            record = block.find_or_add(key, Kind.COUNTER, WIDTHS[Kind.COUNTER])
            if record.kind is Kind.COUNTER:
                done = self._add(block, series, record, n, generation)
            elif record.kind is Kind.GAUGE:
                done = block.cells.add_gauge(block.row_for(record), record.cell, n, generation)
            else:
                raise _kind_error(series, record, "counted")

    def _add(self, block: Block, series: Series, record: Record, n: int, generation: int) -> bool:
        if n < 0 and record.monotonic:
            with block.exclusive():
                block.names.clear_monotonic(record)
            record = record._replace(monotonic=False)
        row = block.row_for(record)
        if isinstance(series, Counter):
            series._bind(block.cells, row, record.cell, record.width, generation, record.monotonic)
        return block.cells.add(row, record.cell, n, generation)

    def _set(self, block: Block, series: Series, value: int | float) -> None:
        key = encode_key(series.category, series.metric, series.labels)
        done = False
        while not done:
            generation = block.cells.generation
            record = block.find_or_add(key, Kind.GAUGE, WIDTHS[Kind.GAUGE])
            if record.kind is Kind.GAUGE:
                row = block.row_for(record)
                if isinstance(series, Gauge):
                    series._bind(block.cells, row, record.cell, record.width, generation, False)
                done = block.cells.set_gauge(row, record.cell, value, generation)
            elif record.kind is not Kind.COUNTER:
                raise _kind_error(series, record, "set")
            elif isinstance(value, int):
                done = self._set_total(block, key, value)
            else:
                self._make_gauge(block, key)

    def _set_total(self, block: Block, key: bytes, value: int) -> bool:
        """Give a counter the total ``value`` by adding the difference; False where it is gone."""
        with block.exclusive():
            record = block.names.find(key)
            if record is None or record.kind is not Kind.COUNTER:
                return False
            difference = value - block.reader.total(record)
            if difference < 0:
                block.names.clear_monotonic(record)
            for row in block.rows_of(record):
                step = min(max(difference, -(2**63)), 2**63 - 1)
                before = block.cells.load(row, record.cell)
                block.cells.add(row, record.cell, step, block.cells.generation)
                difference -= min(max(before + step, -(2**63)), 2**63 - 1) - before
                if not difference:
                    break
        return True

    def _make_gauge(self, block: Block, key: bytes) -> None:
        """Give a counter's name up, so that it can be registered as a gauge."""
        with block.exclusive():
            record = block.names.find(key)
            if record is not None and record.kind is Kind.COUNTER:
                block.names.remove([record], block.cells)

    def _drop(self, block: Block, message: str, error: Exception) -> None:
        self._log_once(message, error)
        self._dropped += 1

    def _count_dropped(self, block: Block) -> None:
        """Count the dropped operations in the block; its counter was registered with the block."""
        dropped, self._dropped = self._dropped, 0
        record = block.names.find(encode_key(OWN, OPERATIONS_DROPPED))
        if record is not None:
            block.cells.add(block.row_for(record), record.cell, dropped, block.cells.generation)

    def _log_once(self, message: str, error: Exception) -> None:
        text = message % error
        if text not in self._logged:
            self._logged.add(text)
            log.error(text)

    def _fill(self, block: Block) -> None:
        """Fill a block that was just made from the saved snapshot."""
        if not self._settings.stats.persist:
            return
        restored = saved.load_newest(saved.stats_directory(self.directory))
        if restored is None:
            return
        for name, value in zip(restored.names, restored.values, strict=True):
            try:
                block.restore(name, value)
            except BlockFullError as error:
                self._drop(block, "not all saved statistics were restored: %s", error)

    def _save(self, block: Block) -> None:
        if self._settings.stats.persist:
            saved.save(saved.stats_directory(self.directory), block.reader.read())


def _matching(block: Block, category: str, metric: str | None) -> list[Record]:
    wanted = [category] if metric is None else [category, metric]
    return [
        record
        for record in block.names.records()
        if block.names.key(record.number).decode().split("\0")[: len(wanted)] == wanted
    ]


def _kind_error(series: Series, record: Record, verb: str) -> KindError:
    return KindError(
        f"metric {series.metric!r} of category {series.category!r} is a {record.kind.name.lower()}"
        f" and cannot be {verb}; only a counter or a gauge can"
    )


_providers: weakref.WeakSet[SharedProvider] = weakref.WeakSet()


def _forget_all() -> None:
    for provider in _providers:
        provider.forget()


os.register_at_fork(after_in_child=_forget_all)
