"""Filling a new block: from the saved snapshot, or from the block whose file was removed and whose place it takes.

The latter was filled from the saved snapshot too, into row 0: counts of the old block beyond that are added there. A
repetition adds nothing, so each process of the old block may do it when it leaves, and the last one completes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..block import BlockFullError, SeriesLimitError
from ..block.declaring import declare
from ..block.keys import decode_key, encode_key
from ..block.rebucketing import carry
from ..block.restoring import restore
from ..block.stripes import SHARED_ROW
from ..layout import INT64_MAX, INT64_MIN
from ..reading.attached import AttachedBlock
from ..series import Declaration, Distribution, Kind, Mode, Name, Snapshot, Value
from ..snapshot import store
from .own_metrics import note_held


def fill(block: AttachedBlock, tell: Callable[[str], object]) -> int:
    """Restore the newest snapshot; returns the number of statistics that could not be restored.

    Args:
        block: the new one, before any other process sees it.
        tell: called with a line about what cannot be restored.
    """
    newest = store.load_newest(store.stats_directory(block.identity.directory), tell)
    if newest is None:
        return 0
    file, saved = newest
    undeclared = _declare_saved(block, saved.declared, tell)
    series = saved.packed.without(undeclared) if undeclared else saved.packed
    failed = restore(block, series)
    note_held(block)  # the saved ones were those of the old processes
    if failed:
        (category, metric, _), reason = decode_key(failed[0][0]), failed[0][1]
        tell(
            f"{len(failed)} of {saved.packed.number} saved statistics were not restored, the first of them metric"
            f" {metric!r} of category {category!r}: {reason}; {store.keep(file)}"
        )
    return saved.packed.number - series.number + len(failed)


def _declare_saved(
    block: AttachedBlock, declared: Mapping[str, Declaration], tell: Callable[[str], object]
) -> set[str]:
    """Declare the metrics that were declared when a snapshot was saved; later declarations may change them.

    Returns the metrics without room.
    """
    undeclared = set(declared)
    for key, declaration in declared.items():
        category, metric = key.split("\0")
        try:
            declare(block, category, metric, declaration, inherited=True)
        except BlockFullError as error:
            tell(f"not all saved statistics were restored: {error}")
            return undeclared
        undeclared.discard(key)
    return undeclared


def move(snapshot: Snapshot, block: AttachedBlock) -> None:
    """Raise row 0 of a block to at least the values of a snapshot; existing gauges stay unchanged.

    Args:
        snapshot: of the old block.
        block: the one in its place, attached.
    """
    with block.exclusive():
        for name, value in zip(snapshot.names, snapshot.values, strict=True):
            if name.kind is Kind.TIMESTAMP or name.mode is not Mode.LAST or name.shown:
                continue
            record = block.names.find(encode_key(name.category, name.metric, name.labels))
            if record is None:
                add_value(block, name, value)
            elif record.kind is name.kind is Kind.COUNTER and isinstance(value, int):
                there = block.cells.load(SHARED_ROW, record.cell) if block.stripes.has(SHARED_ROW, record.cell) else 0
                if value > there or not name.monotonic:
                    add_value(block, name, value - there)
            elif record.kind is name.kind is Kind.HISTOGRAM and isinstance(value, Distribution):
                add_value(
                    block, name, _beyond(value, block.reader.histograms.one(record.cell, record.width, SHARED_ROW))
                )


def add_value(block: AttachedBlock, name: Name, value: Value) -> None:
    """Add a value to a series in row 0, registered if necessary; do nothing if there is no room for it.

    The table lock is held.
    """
    key = encode_key(name.category, name.metric, name.labels)
    try:
        record = block.find_or_add(key, name.kind)
    except (BlockFullError, SeriesLimitError):
        return
    if record.kind is not name.kind or not block.stripes.reserve_cells(SHARED_ROW, record.cell, record.width):
        return
    generation = block.cells.generation
    if isinstance(value, Distribution):
        carry(block, record, value, name.bounds, block.bounds_of(record), name.carried)
    elif name.kind is Kind.GAUGE:
        block.cells.set_gauge(SHARED_ROW, record.cell, value, generation)
    elif isinstance(value, int):
        block.cells.add(SHARED_ROW, record.cell, min(max(value, INT64_MIN), INT64_MAX), generation)
        if not name.monotonic:
            block.names.clear_monotonic(record)


def _beyond(value: Distribution, there: Distribution) -> Distribution:
    """Return the observations of a distribution that are not in another one, which is a part of it."""
    if len(value.buckets) != len(there.buckets):
        return value if not there.count else Distribution(0.0, 0.0, value.buckets and (0,) * len(value.buckets))
    buckets = tuple(max(mine - its, 0) for mine, its in zip(value.buckets, there.buckets, strict=True))
    if not any(buckets):
        return Distribution(0.0, 0.0, buckets)
    return Distribution(max(value.sum - there.sum, 0.0), value.max, buckets, value.min)
