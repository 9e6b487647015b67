"""Declaring a metric in a block: what all its series are, and what becomes of those that are otherwise.

A declaration holds for every process that uses the block. What processes that are gone have left gives way.
"""

from __future__ import annotations

from ..series import Declaration, Kind
from .block import Block, DeclarationError
from .declarations import describe, encode_declaration
from .names import DECLARED, DEFAULT_BOUNDS, FAMILY, INHERITED, Record, decode_key, encode_key, family_key


def declare(block: Block, category: str, metric: str, declared: Declaration, inherited: bool = False) -> int:
    """Declare a metric, all its series.

    Args:
        block: to declare it in.
        category: of the metric.
        metric: of the category.
        declared: what is declared.
        inherited: it was declared by processes that are gone: others may declare it otherwise.

    Returns:
        How many series were removed because they were left by processes that are gone, and do not fit.

    Raises:
        DeclarationError: it is declared otherwise, or used otherwise already. The message shows both.
        BlockFullError: there is no room for it.
    """
    names, key = block.names, encode_key(category, metric)
    with block.exclusive():
        flags = FAMILY | DECLARED | (INHERITED if inherited else 0)
        family = names.family_of(key)
        text = encode_declaration(declared)
        if family is not None and family.declared and not _may_replace(block, family, text, declared):
            if family.flags & INHERITED and not inherited:
                names.set_flags(family, flags)
            return 0
        removed = _make_way(block, key, family, declared)
        if family is None:
            family = block.add(family_key(key), Record(-1, declared.kind, FAMILY, 0, 0, declared.mode))
        plain = names.find(key)
        if plain is not None and plain.family < 0:
            names.set_family(plain, family)
        names.annotate(family.number, text, block.space.reserve)
        names.redeclare(family, declared.kind, declared.mode, flags)  # last: from now on it is declared
    return removed


def _may_replace(block: Block, family: Record, text: bytes, declared: Declaration) -> bool:
    """Tell whether a declaration has to be, and may be, replaced by another.

    Raises:
        DeclarationError: it has to be and may not.
    """
    if block.names.note(family.number) == text:
        return False
    if not family.flags & INHERITED:
        category, metric, _ = decode_key(block.names.key(family.number)[:-1])
        found = block.declared(family)
        raise DeclarationError(
            f"metric {metric!r} of category {category!r} is declared as {describe(found) if found else '?'};"
            f" it cannot be declared as {describe(declared)} while processes use it"
        )
    return True


def _make_way(block: Block, key: bytes, family: Record | None, declared: Declaration) -> int:
    """Remove series of processes that are gone that do not fit a declaration.

    Raises:
        DeclarationError: there are others that do not fit.
    """
    plain = block.names.find(key)
    series = [] if family is None else block.names.members_of(family)
    if plain is not None and plain not in series:
        series.append(plain)
    old = (family and block.declared(family)) or Declaration(declared.kind)
    used = [_as_used(block, record, old) for record in series]
    unfit = [record for record, found in zip(series, used, strict=True) if not _fits(found, declared)]
    for record, found in zip(series, used, strict=True):
        if record in unfit and not record.flags & INHERITED:
            category, metric, _ = decode_key(key)
            if declared.labelnames is None:
                found = found._replace(labelnames=None)  # that is not what is wrong
            raise DeclarationError(
                f"metric {metric!r} of category {category!r} is used as {describe(found)} already;"
                f" it cannot be declared as {describe(declared)}"
            )
    if unfit:
        block.names.remove(unfit, block.cells)
        for record in unfit:
            block.clear(record)
    return len(unfit)


def _as_used(block: Block, record: Record, declared: Declaration) -> Declaration:
    """Return what would have to be declared for a series to be as it is."""
    _, _, labels = decode_key(block.names.key(record.number))
    bounds = (declared.bounds or DEFAULT_BOUNDS) if record.kind is Kind.HISTOGRAM else ()
    return declared._replace(
        kind=record.kind, mode=record.mode, bounds=bounds, labelnames=tuple(name for name, _ in labels)
    )


def _fits(used: Declaration, declared: Declaration) -> bool:
    """Tell whether a series that is used so is one of a metric that is declared so."""
    return (
        (used.kind, used.mode) == (declared.kind, declared.mode)
        and used.bounds == (declared.bounds or (DEFAULT_BOUNDS if declared.kind is Kind.HISTOGRAM else ()))
        and declared.labelnames in (None, used.labelnames)
    )
