"""Declaring a metric in a block, for all its series. The newest declaration wins.

A declaration holds for every process that uses the block. Series of another declaration that do not fit are set
aside (`shmstats.block.outdated`), so no declaration can stop a process or a page.
"""

from __future__ import annotations

import time

from ..frozen import NamedTuple
from ..series import Declaration
from .block import Block
from .declarations import Definition, describe, encode_definition, fits
from .keys import decode_key, encode_key, family_key, label_names
from .outdated import remove_outdated, set_aside, take_back, withdraw
from .rebucketing import can_go_on, carried_over
from .records import DECLARED, FAMILY, INHERITED, WITHDRAWN, Record


class Change(NamedTuple):
    """The effect of a declaration.

    Attributes:
        before: the previous declaration, or use without one, as text.
        now: the new declaration, as text.
        outdated: number of series that were counted under the previous one and are no longer shown.
    """

    before: str
    now: str
    outdated: int


def declare(
    block: Block, category: str, metric: str, declared: Declaration, moment: int | None = None, inherited: bool = False
) -> Change | None:
    """Declare a metric, for all its series.

    Args:
        block: to declare it in.
        category: of the metric.
        metric: of the category.
        declared: the declaration.
        moment: CLOCK_MONOTONIC in ns: when the process declared it first; None for now. A later declaration of another
            process stays.
        inherited: whether it comes from ended processes, so that any other declaration replaces it.

    Returns:
        The change; None if people would see none.

    Raises:
        BlockFullError: there is no room for the declaration.
    """
    names, key = block.names, encode_key(category, metric)
    moment = 0 if inherited else time.monotonic_ns() if moment is None else moment
    with block.exclusive():
        family = names.family_of(key)
        current = None if family is None or not family.declared else block.definition(family)
        flags = FAMILY | DECLARED | (INHERITED if inherited else 0)
        if family is not None and current is not None and not family.flags & INHERITED:
            if moment < current.moment and (current.declared != declared or family.flags & WITHDRAWN):
                return None
            if current.declared == declared and not family.flags & WITHDRAWN:
                take_back(block, key, family, declared)
                return None
        unfit, going_on = _part_with_unfit(block, key, family, current, declared)
        if family is None:
            family = names.add(family_key(key), Record(-1, declared.kind, FAMILY, 0, 0, declared.mode))
        plain = names.find(key)
        if plain is not None and plain.family < 0:
            names.set_family(plain, family)
        with carried_over(block, going_on, family, declared):
            names.annotate(family.number, encode_definition(Definition(declared, moment)))
            names.redeclare(family, declared.kind, declared.mode, flags)  # last: from now on it is the declaration
        take_back(block, key, names.record(family.number), declared)
        remove_outdated(block)
    used = unfit or [Declaration(record.kind) for record in going_on]
    return _change(current, used, len(unfit), declared)


def _change(current: Definition | None, used: list[Declaration], unfit: int, declared: Declaration) -> Change | None:
    """Return the effect of a declaration as text; None if people would see no difference."""
    now = describe(declared)
    if current is None:
        return Change(f"used as {describe(used[0])}", now, unfit) if used else None
    former = current.declared
    if not unfit and former.labelnames is None:
        former = former._replace(labelnames=declared.labelnames)  # they were not specified, or not saved
    return Change(describe(former), now, unfit) if unfit or describe(former) != now else None


def give_way(block: Block, category: str, metric: str, definition: Definition, rivals: list[str]) -> Change | None:
    """Withdraw other metrics that share names on the page with a metric, so that only the newest one is shown.

    Args:
        block: of the metrics.
        category: of the metrics.
        metric: the declared one.
        definition: its declaration, and when the process declared it first.
        rivals: metrics of the category that share names with it.

    Returns:
        The change; None for none.
    """
    declared, moment, _ = definition
    with block.exclusive():
        keys = [encode_key(category, rival) for rival in rivals]
        families = [family for key in keys if (family := block.names.family_of(key)) is not None]
        shown = [family for family in families if family.declared and not family.flags & WITHDRAWN]
        newest = max(((block.definition(family) or Definition(declared)).moment for family in shown), default=-1)
        if newest > moment:
            withdraw(block, encode_key(category, metric), newest)
            return None
        outdated = sum(len(block.names.members_of(family)) for family in shown)
        before = [
            f"metric {decode_key(block.names.key(family.number)[:-1])[1]!r}, {words}"
            for family in shown
            if (words := withdraw(block, block.names.key(family.number)[:-1], moment))
        ]
        remove_outdated(block)
    return Change(", ".join(before), describe(declared), outdated) if before else None


def _part_with_unfit(
    block: Block, key: bytes, family: Record | None, current: Definition | None, declared: Declaration
) -> tuple[list[Declaration], list[Record]]:
    """Set aside the series of a metric that do not fit a declaration.

    Returns the declarations of those set aside, and the series that continue with other buckets.
    """
    series = [] if family is None else block.names.members_of(family)
    plain = block.names.find(key)
    if plain is not None and plain not in series:
        series.append(plain)
    unfit: dict[Declaration, list[Record]] = {}
    used = []
    going_on = []
    for record in series:
        under = Declaration(record.kind) if current is None else current.declared
        labelnames = label_names(block.names.key(record.number))
        found = under._replace(kind=record.kind, mode=record.mode, labelnames=labelnames)
        if can_go_on(record, found, declared) and not fits(found, declared):
            going_on.append(record)
        elif not fits(found, declared):
            unfit.setdefault(under, []).append(record)
            used.append(found)
    for under, records in unfit.items():
        # Without a declaration there is one key for each kind, because `counted_under` knows only the kind.
        set_aside(block, key, records, Declaration(under.kind) if current is None else under)
    return used, going_on
