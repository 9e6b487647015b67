"""Filling a block that was just made from the saved snapshot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .. import snapshot as store
from ..block import BlockFullError, declare, restore
from ..bounds import DEFAULT_BOUNDS, DEFAULT_BOUNDS_OF_UNIT, FORMER_DEFAULT_BOUNDS
from ..reading import AttachedBlock
from ..series import TIME_UNITS, Declaration, Snapshot
from .own_metrics import OPERATIONS_HELD, OWN


def fill(block: AttachedBlock, directory: Path, tell: Callable[[str], object]) -> int:
    """Restore the newest snapshot; returns how many statistics could not be restored.

    Args:
        block: that was just made, before anyone else sees it.
        directory: the data directory.
        tell: called with a line about what cannot be restored.
    """
    newest = store.load_newest(store.stats_directory(directory), tell)
    if newest is None:
        return 0
    file, restored = newest
    _declare_saved(block, restored, tell)
    # But for the operations held: it was true then.
    kept = [i for i, name in enumerate(restored.names) if name[:2] != (OWN, OPERATIONS_HELD)]
    names, values = [restored.names[i] for i in kept], [restored.values[i] for i in kept]
    failed = restore(block, names, values)
    if failed:
        (category, metric, *_), reason = failed[0]
        tell(
            f"{len(failed)} of {len(names)} saved statistics were not restored, the first of them metric"
            f" {metric!r} of category {category!r}: {reason}. As for the snapshot, {store.keep(file)}"
        )
    return len(failed)


def _declare_saved(block: AttachedBlock, restored: Snapshot, tell: Callable[[str], object]) -> None:
    """Declare again what was declared when a snapshot was saved; processes of today may change it."""
    declared: dict[tuple[str, str], Declaration] = {}
    for name in restored.names:
        bounds = name.bounds
        if bounds == FORMER_DEFAULT_BOUNDS:
            bounds = DEFAULT_BOUNDS if name.unit in TIME_UNITS else DEFAULT_BOUNDS_OF_UNIT
        if name.help or name.unit or (bounds and bounds != DEFAULT_BOUNDS):
            declared[name.category, name.metric] = Declaration(name.kind, name.help, name.unit, bounds)
    for (category, metric), declaration in declared.items():
        try:
            declare(block, category, metric, declaration, inherited=True)
        except BlockFullError as error:
            tell(f"not all saved statistics were restored: {error}")
            return
