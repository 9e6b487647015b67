"""Filling a block that was just made from the saved snapshot."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .. import snapshot as store
from ..block import BlockFullError
from ..block.declaring import declare
from ..block.keys import decode_key, encode_key
from ..block.restoring import restore
from ..reading.attached import AttachedBlock
from ..series import Declaration
from .own_metrics import OPERATIONS_HELD, OWN


def fill(block: AttachedBlock, own: set[str], tell: Callable[[str], object]) -> int:
    """Restore the newest snapshot; returns how many statistics could not be restored.

    Args:
        block: that was just made, before anyone else sees it.
        own: the keys that it has already.
        tell: called with a line about what cannot be restored.
    """
    held = encode_key(OWN, OPERATIONS_HELD).decode()
    newest = store.load_newest(store.stats_directory(block.identity.directory), tell, {*own, held})
    if newest is None:
        return 0
    file, saved = newest
    undeclared = _declare_saved(block, saved.declared, tell)
    series = saved.packed.without(undeclared) if undeclared else saved.packed
    # But for the operations held: it was true then.
    failed = restore(block, series, [each for each in saved.apart if each[0][:2] != (OWN, OPERATIONS_HELD)])
    if failed:
        (category, metric, _), reason = decode_key(failed[0][0]), failed[0][1]
        tell(
            f"{len(failed)} of {len(saved.snapshot.names)} saved statistics were not restored, the first of them metric"
            f" {metric!r} of category {category!r}: {reason}; {store.keep(file)}"
        )
    return saved.packed.number - series.number + len(failed)


def _declare_saved(
    block: AttachedBlock, declared: Mapping[str, Declaration], tell: Callable[[str], object]
) -> set[str]:
    """Declare again what was declared when a snapshot was saved; processes of today may change it.

    Returns the metrics for which there is no room.
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
