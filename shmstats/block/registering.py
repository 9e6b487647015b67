"""Registering a name: it is found, or added under its metric's declaration, in one pass under the table lock."""

from __future__ import annotations

from ..series import Declaration, Kind
from .declarations import digest
from .errors import DeclarationError, SeriesLimitError
from .keys import decode_key, family_key, is_labelled, is_overflow, label_names
from .metrics import Metrics
from .outdated import counted_under, family_for, note_user
from .records import FAMILY, MEMBER, MONOTONIC, PLAIN, Record, width_of

#: Most overflow sets of a metric: one for each choice of label names, of which there should be one.
MAX_OVERFLOW_SETS = 16


def find_or_add(
    block: Metrics, key: bytes, kind: Kind, limit: int = 0, mine: Declaration | None = None, whole: bool = True
) -> Record:
    """Return the record of a name, registered if it is new.

    Args:
        block: the attached one.
        key: of the name.
        kind: of the statistic, if it is registered; the metric's declaration takes precedence.
        limit: most label sets of the metric; 0: any number.
        mine: this process's declaration of the metric; None if there is none. If a later declaration
            differs, the record is an outdated one.
        whole: whether the value to count or set is an integer, as a counter needs it.

    Raises:
        BlockFullError: there is no room for it.
        SeriesLimitError: the metric has reached its limit of label sets.
        DeclarationError: its label names are not the declared ones.
    """
    names = block.names
    record = names.find(key)
    if record is not None and (
        (record.family < 0 and record.kind is kind)
        or counted_under(block, names.family_of(key), key, kind, mine, whole) is None
    ):
        return record
    with block.exclusive():
        family = names.find(family_key(key))
        outdated = None if family is None else counted_under(block, family, key, kind, mine, whole)
        # Another process may have added it before we got the lock.
        record = names.find(key, 0 if outdated is None else digest(outdated))
        if record is None:
            if outdated is not None:
                family = family_for(block, key, outdated)
            record = _register(block, key, kind, limit, family)
        if outdated is not None:
            note_user(block, record)
    return record


def _register(block: Metrics, key: bytes, kind: Kind, limit: int, family: Record | None) -> Record:
    """Register a new name, in the family of its metric if it has one. The table lock is held."""
    names, labelled = block.names, is_labelled(key)
    if family is None and not labelled:
        return names.add(key, PLAIN[kind])
    if family is None:
        family = names.add(family_key(key), Record(-1, kind, FAMILY, 0, 0))
    declared = block.declared(family) or Declaration(kind)
    _check_label_names(key, declared)
    counted = labelled and not is_overflow(key)
    if limit and counted and names.members(family) >= limit:
        raise SeriesLimitError(f"it has {limit} label sets already")
    if limit and labelled and not counted and names.overflow_sets(family) >= MAX_OVERFLOW_SETS:
        raise SeriesLimitError(f"its label sets have different label names, {MAX_OVERFLOW_SETS} of them already")
    flags = (MONOTONIC if declared.kind is Kind.COUNTER else 0) | (MEMBER if counted else 0)
    place = 0, width_of(declared), declared.mode, family.number, family.declaration
    return names.add(key, Record(-1, declared.kind, flags, *place))


def _check_label_names(key: bytes, declared: Declaration) -> None:
    """Check the label names of a series against a declaration.

    Raises:
        DeclarationError: they differ.
    """
    found = label_names(key)
    if declared.labelnames not in (None, found):
        category, metric, _ = decode_key(key)
        raise DeclarationError(
            f"metric {metric!r} of category {category!r} is declared with the label names"
            f" {declared.labelnames}, not {found}"
        )
