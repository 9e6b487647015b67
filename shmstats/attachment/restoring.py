"""Filling a new block from the saved snapshot."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..block import BlockFullError
from ..block.declaring import declare
from ..block.keys import decode_key
from ..block.restoring import restore
from ..reading.attached import AttachedBlock
from ..series import Declaration
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
    """Declare the metrics that were declared when a snapshot was saved; processes of today may change them.

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
