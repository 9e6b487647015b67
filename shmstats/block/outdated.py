"""Outdated series: processes of an earlier release still count into them, and nobody reads them.

They have their own family beside the metric's, which is found by the number of the outdated declaration. They
are removed when no process counts into them any more. If one counts later nevertheless, its series starts again,
which nobody can notice.
"""

from __future__ import annotations

import time
from itertools import compress

from ..layout import LIVE
from ..series import Declaration, Kind
from .declarations import Definition, describe, digest, encode_definition, fits
from .errors import BlockFullError, KindError
from .keys import decode_key, family_key, label_names
from .metrics import Metrics
from .records import DECLARED, FAMILY, INHERITED, WITHDRAWN, Record
from .workers import Worker

#: Seconds after which an outdated declaration is no longer kept for a process that has not counted under it.
GRACE_SECONDS = 10

#: By the flags of a record, whether it is a family.
_ARE_FAMILIES = bytes(bool(flags & FAMILY) for flags in range(256))


def counted_under(
    block: Metrics, family: Record | None, key: bytes, kind: Kind, mine: Declaration | None, whole: bool = True
) -> Declaration | None:
    """Return the outdated declaration under which this process counts a series; None for the current one.

    Args:
        block: the attached one.
        family: of the metric; None if it has none.
        key: of the series.
        kind: as which the process uses it.
        mine: the process's own declaration; None if there is none.
        whole: whether the value to count or set is an integer, as a counter needs it.

    Raises:
        KindError: the metric is an info or a state, and the process has not declared it.
    """
    current = None if family is None else block.definition(family)
    if family is None or current is None:
        return None
    withdrawn = bool(family.flags & WITHDRAWN)
    names = label_names(key)
    if mine is not None:
        used = mine if mine.labelnames is not None else mine._replace(labelnames=names)
        return mine if withdrawn or not fits(used, current.declared) else None
    fits_now = _can_be(kind, names, current.declared, whole)
    if current.moment <= block.worker.attached:
        refuse_shown(key, current.declared)
        if withdrawn or fits_now:
            return None
    mine = Declaration(kind, labelnames=names)
    if not withdrawn and fits(mine, current.declared):
        return None
    undeclared = Declaration(kind)
    used_before = block.names.find(family_key(key), digest(undeclared)) is not None
    return undeclared if withdrawn or used_before or not fits_now else None


def is_redefined(block: Metrics, key: bytes, kind: Kind, whole: bool) -> bool:
    """Tell whether a process's use of a metric that it has not declared contradicts only what was there before it.

    That is what ended processes have declared, or what any have used before this one attached.

    Args:
        block: the attached one.
        key: of the series.
        kind: as which the process uses it.
        whole: whether the value to count or set is an integer.
    """
    family = block.names.family_of(key)
    current = None if family is None else block.definition(family)
    if family is not None and current is not None:
        return bool(family.flags & INHERITED) and not _can_be(kind, label_names(key), current.declared, whole)
    record = block.names.find(key)
    if record is None or _is_like(kind, record.kind):
        return False
    attached = time.time_ns() - (time.monotonic_ns() - block.worker.attached)
    return bool(record.flags & INHERITED) or block.names.created(record.number) < attached


def _can_be(kind: Kind, labelnames: tuple[str, ...], declared: Declaration, whole: bool) -> bool:
    """Tell whether a process's use of a metric that it has not declared is possible with the declaration."""
    if declared.shown or not _is_like(kind, declared.kind) or (declared.kind is Kind.COUNTER and not whole):
        return False
    return declared.labelnames in (None, labelnames)


def _is_like(used: Kind, kind: Kind) -> bool:
    """Tell whether the calls for one kind of metric work on another one."""
    return used is kind or {used, kind} == {Kind.COUNTER, Kind.GAUGE}


def refuse_shown(key: bytes, declared: Declaration) -> None:
    """Refuse to count into an info or a state.

    Args:
        key: of the metric, or of one of its series.
        declared: its declaration.

    Raises:
        KindError: it is an info or a state.
    """
    if declared.shown:
        category, metric, _ = decode_key(key)
        raise KindError(
            f"metric {metric!r} of category {category!r} is declared with kind={declared.shown!r}:"
            f" stats.{declared.shown} is its only call"
        )


def family_for(block: Metrics, key: bytes, outdated: Declaration) -> Record:
    """Return the family of an outdated declaration, made if there is none. The table lock is held.

    Args:
        block: the attached one.
        key: of the metric, or of one of its series.
        outdated: the declaration.

    Raises:
        BlockFullError: there is no room for it.
    """
    number = digest(outdated)
    family = block.names.find(family_key(key), number)
    if family is None:
        wanted = Record(-1, outdated.kind, FAMILY | DECLARED, 0, 0, outdated.mode, declaration=number)
        family = block.names.add(family_key(key), wanted)
        _note(block, family, Definition(outdated, time.monotonic_ns()))
    return family


def note_user(block: Metrics, record: Record) -> None:
    """Store that this process counts into an outdated series, which keeps that series. The table lock is held."""
    family = block.names.record(record.family)
    definition = block.definition(family)
    if definition is not None and block.worker.signature not in definition.users:
        living = {worker.signature for worker in block.workers.live()}
        users = (*(user for user in definition.users if user in living), block.worker.signature)
        _note(block, family, definition._replace(users=users))


def set_aside(block: Metrics, key: bytes, records: list[Record], outdated: Declaration) -> None:
    """Take series off the page, and keep them for the processes that count into them. The table lock is held.

    If the block has no room for that, they are removed.
    """
    try:
        family = family_for(block, key, outdated)
    except BlockFullError:
        block.remove([record.number for record in records])
        return
    definition = block.definition(family) or Definition(outdated)
    _note(block, family, definition._replace(moment=time.monotonic_ns()))
    keys = [block.names.key(record.number) for record in records]
    former = [found for key in keys if (found := block.names.find(key, family.declaration)) is not None]
    block.names.remove(former)
    block.names.regroup(records, family)


def take_back(block: Metrics, key: bytes, family: Record, declared: Declaration) -> None:
    """Show the series of an outdated declaration again, when it is declared again. The table lock is held."""
    former = block.names.find(family_key(key), digest(declared))
    if former is None:
        return
    series = block.names.members_of(former)
    back = [record for record in series if block.names.find(block.names.key(record.number)) is None]
    block.names.regroup(back, family)
    block.names.remove([*block.names.members_of(former), former])


def withdraw(block: Metrics, category_metric_key: bytes, moment: int) -> str:
    """Take a whole metric off the page, because another one has its names there now. The table lock is held.

    Args:
        block: the attached one.
        category_metric_key: key of the metric without labels.
        moment: CLOCK_MONOTONIC in ns: when the other one was declared.

    Returns:
        Its declaration as text; empty if nothing had to be done.
    """
    names = block.names
    family = names.family_of(category_metric_key)
    current = None if family is None else block.definition(family)
    if family is None or current is None or family.flags & WITHDRAWN:
        return ""
    series = names.members_of(family)
    names.set_flags(family, family.flags | WITHDRAWN)
    if series:
        set_aside(block, category_metric_key, series, current.declared)
    _note(block, family, current._replace(moment=moment))
    return describe(current.declared)


def remove_outdated(block: Metrics) -> int:
    """Remove outdated series that no process counts into; returns their number."""
    if not _outdated_families(block):
        return 0
    with block.exclusive():
        live = block.workers.live()
        removed = 0
        numbers = _outdated_families(block)
        # Families of outdated series first: a withdrawn metric stays as long as it has any.
        for number in sorted(numbers, key=lambda number: not block.names.record(number).declaration):
            family = block.names.record(number)
            definition = block.definition(family)
            if definition is None or not _is_used(block, family, definition, live):
                series = block.names.members_of(family)
                block.names.remove([*series, family])
                removed += len(series)
        return removed


def _outdated_families(block: Metrics) -> list[int]:
    names = block.names
    if not names.families:
        return []
    flags, states, declarations = names.column("flags").tobytes(), names.column("state"), names.column("declaration")
    return [
        number
        for number in compress(range(len(flags)), flags.translate(_ARE_FAMILIES))
        if (declarations[number] or flags[number] & WITHDRAWN) and states[number] == LIVE
    ]


def _is_used(block: Metrics, family: Record, definition: Definition, live: list[Worker]) -> bool:
    """Tell whether a live process has counted under an outdated declaration, or may do so soon."""
    if any(worker.signature in definition.users for worker in live):
        return True
    key = block.names.key(family.number)
    if not family.declaration and block.names.find(key, digest(definition.declared)) is not None:
        return True
    others = [each for each in live if each.claim != block.worker.claim and each.attached <= definition.moment]
    return bool(others) and time.monotonic_ns() - definition.moment < GRACE_SECONDS * 10**9


def _note(block: Metrics, family: Record, definition: Definition) -> None:
    block.names.annotate(family.number, encode_definition(definition))
