"""Declarations in the block: the note of a metric's family, and which differences between two of them matter."""

from __future__ import annotations

import json
import time

from ..bounds import DEFAULT_BOUNDS, Exponential, from_json, to_json
from ..frozen import NamedTuple
from ..hashing import blake2b
from ..series import TIME_UNITS, Declaration, Kind, Mode

#: Text after it in a help text belongs to an integration, and is not shown.
INTERNAL = "\x1f"


class Definition(NamedTuple):
    """A current or former declaration.

    Attributes:
        declared: the declaration.
        moment: CLOCK_MONOTONIC in ns: when it was declared; for an outdated one, when it was replaced.
        users: signatures of the workers that have counted under an outdated one since.
    """

    declared: Declaration
    moment: int = 0
    users: tuple[int, ...] = ()

    @classmethod
    def now(cls, declared: Declaration) -> Definition:
        """Return a definition declared now."""
        return cls(declared, time.monotonic_ns())


def encode_definition(definition: Definition) -> bytes:
    """Return a definition as the bytes of a note: one JSON array."""
    declared, moment, users = definition
    stored = declared._replace(bounds=to_json(declared.bounds))  # type: ignore[arg-type]
    return json.dumps((*stored, moment, users), separators=(",", ":")).encode()


def decode_definition(text: bytes) -> Definition:
    """Return the definition in the bytes from `encode_definition`.

    Raises:
        ValueError: they contain none.
    """
    try:
        kind, help_, unit, bounds, mode, labelnames, shown, moment, users = json.loads(text)
        names = None if labelnames is None else tuple(map(str, labelnames))
        declared = Declaration(Kind(kind), str(help_), str(unit), from_json(bounds), Mode(mode), names, str(shown))
        return Definition(declared, int(moment), tuple(map(int, users)))
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{text!r:.80} is no declaration: {error}") from error


def fits(used: Declaration, declared: Declaration) -> bool:
    """Tell whether series that were counted under one declaration may be shown under another.

    Kind, gauge mode, buckets and label names must be the same, or not specified by the later one. A unit may be added
    or dropped, but not replaced by another; a histogram without a unit has times.
    """
    if (used.kind, used.mode, used.shown) != (declared.kind, declared.mode, declared.shown):
        return False
    if declared.labelnames is not None and used.labelnames not in (None, declared.labelnames):
        return False
    if declared.kind is Kind.HISTOGRAM:
        if (used.bounds or DEFAULT_BOUNDS) != (declared.bounds or DEFAULT_BOUNDS):
            return False
        return used.unit == declared.unit or (used.unit in TIME_UNITS and declared.unit in TIME_UNITS)
    return used.unit == declared.unit or not used.unit or not declared.unit


def digest(declared: Declaration) -> int:
    """Return the number that identifies an outdated declaration in its records: 1 to 2**32 - 1."""
    unit = "" if declared.kind is Kind.HISTOGRAM and declared.unit in TIME_UNITS else declared.unit
    bounds = declared.bounds or (DEFAULT_BOUNDS if declared.kind is Kind.HISTOGRAM else ())
    what = declared.kind, unit, to_json(bounds), declared.mode, declared.labelnames, declared.shown
    text = json.dumps(what, separators=(",", ":"))
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "little") or 1


def describe(declared: Declaration) -> str:
    """Return a declaration as text for a message."""
    parts = [declared.shown or declared.kind.name.lower()]
    if declared.kind is Kind.GAUGE and not declared.shown:
        parts.append(f"mode {declared.mode.name.lower()}")
    if declared.unit:
        parts.append(f"unit {declared.unit!r}")
    bounds = declared.bounds or (DEFAULT_BOUNDS if declared.kind is Kind.HISTOGRAM else ())
    if bounds:
        parts.append(f"buckets {bounds.description if isinstance(bounds, Exponential) else bounds}")
    if declared.labelnames is not None:
        parts.append(f"labelnames {declared.labelnames}")
    help_ = declared.help.partition(INTERNAL)[0]
    if help_:
        parts.append(f"help {help_!r}")
    return ", ".join(parts)
