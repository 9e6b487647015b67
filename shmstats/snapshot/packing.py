"""Packing the series of a saved snapshot for a block: C reads most from their text, Python packs checked ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from ..block.keys import OVERFLOW, encode_key
from ..block.records import CARRIED, MEMBER, MONOTONIC
from ..block.restoring import Packed
from ..bounds import (
    DEFAULT_BOUNDS,
    DEFAULT_BOUNDS_OF_UNIT,
    FORMER_DEFAULT_BOUNDS,
    Bounds,
    from_json,
    rebucketed,
    stay_exact,
)
from ..core import bulk
from ..frozen import NamedTuple
from ..layout import CELL, NAME, kept_minimum
from ..series import TIME_UNITS, Declaration, Distribution, Kind, Name, Value

MAX_HELP, MAX_UNIT = 1000, 100

#: Latest moment at which a file may have been made, in ns since 1970: the year 2255.
LAST_MOMENT = 9_000_000_000 * 10**9

#: Errors that an invalid series, or file, causes.
SENSELESS = (ValueError, TypeError, KeyError, AttributeError, OverflowError)

#: Help, unit and bounds of metrics as in a file, by category and metric.
Declared = Mapping[tuple[Any, Any], tuple[Any, Any, Any]]

#: Lists in JSON of keys, kinds, moments of creation and values, as `shmstats.core.bulk` takes them.
Columns = tuple[bytes | memoryview, bytes | memoryview, bytes | memoryview, bytes | memoryview]


class _Defined(NamedTuple):
    """The declaration of a metric, with former default bounds replaced by the current ones.

    Attributes:
        help: as in `Declaration`.
        unit: likewise.
        bounds: likewise; empty if they are invalid.
        buckets: as for `shmstats.core._bulk.Bulk.pack_series`.
    """

    help: str
    unit: str
    bounds: Bounds
    buckets: int

    @classmethod
    def of(cls, help_: Any, unit: Any, bounds: Any) -> _Defined:
        """Return the declaration in a file."""
        try:
            declared_text("help", help_, MAX_HELP)
            declared_text("unit", unit, MAX_UNIT)
        except ValueError:
            return cls("", "", (), -1)
        try:
            found = from_json(bounds)
        except SENSELESS:
            found = ()
        current = _current(found, unit)
        return cls(help_, unit, current, len(found) + 1 if found and current is found else 0)


def _current(bounds: Bounds, unit: str) -> Bounds:
    """Return bounds; a former default is replaced by the current one."""
    if bounds != FORMER_DEFAULT_BOUNDS:
        return bounds
    return DEFAULT_BOUNDS if unit in TIME_UNITS else DEFAULT_BOUNDS_OF_UNIT


class Packing:
    """Series packed for a block, with the current buckets.

    Args:
        declared: of their metrics.
    """

    def __init__(self, declared: Declared) -> None:
        self._defined = {"\0".join(metric): _Defined.of(*what) for metric, what in declared.items()}
        self._numbers = {metric: number for number, metric in enumerate(self._defined)}
        self._parts: list[tuple[bytes, bytes, bytes]] = []

    def add(self, columns: Columns, carried: set[int]) -> bytes | None:
        """Add the simple ones of some series; returns the others, or None, as `Bulk.pack_series` does.

        Args:
            columns: JSON of their keys, kinds, moments of creation and values.
            carried: positions of histograms with observations from other buckets.
        """
        if bulk is None:
            return None
        buckets = [what.buckets for what in self._defined.values()]
        found = bulk.pack_series(*columns, self._numbers, buckets, carried, LAST_MOMENT)
        if found is None:
            return None
        *part, odd = found
        self._parts.append((part[0], part[1], part[2]))
        return odd

    def add_checked(self, series: Sequence[tuple[Name, Value]]) -> None:
        """Add allowed series, whatever their form in the file."""
        for name, _ in series:
            if name.kind is Kind.HISTOGRAM:
                bounds = _current(name.bounds, name.unit) or DEFAULT_BOUNDS
                metric = f"{name.category}\0{name.metric}"
                self._defined[metric] = _Defined(name.help, name.unit, bounds, len(bounds) + 1)
                self._numbers.setdefault(metric, len(self._numbers))
        self._parts += [self._packed(*self._with_current_buckets(*each)) for each in series]

    def _packed(self, name: Name, value: Value) -> tuple[bytes, bytes, bytes]:
        """Return the key, the record and the cells of a series, as `Packed` has them."""
        key, cells = encode_key(*name.key), _cells_of(name.kind, value)
        metric = f"{name.category}\0{name.metric}"
        number = self._numbers.setdefault(metric, len(self._numbers)) if name.labels else self._numbers.get(metric, -1)
        is_member = any(text != OVERFLOW for _, text in name.labels)
        is_carried = name.carried and isinstance(value, Distribution) and value.count > 0
        flags = MONOTONIC * name.monotonic | MEMBER * is_member | CARRIED * is_carried
        places = len(cells) // CELL.size, 0, number + 1, 0, 0, 0, 0, len(key), 0, 0, bool(name.labels)
        return key, NAME.struct.pack(0, name.kind, 0, flags, *places, name.created), cells

    def _with_current_buckets(self, name: Name, value: Value) -> tuple[Name, Value]:
        if not isinstance(value, Distribution):
            return name, value
        bounds = self._defined[f"{name.category}\0{name.metric}"].bounds
        is_carried = name.carried or not stay_exact(value.buckets, name.bounds, bounds)
        buckets = tuple(rebucketed(value.buckets, name.bounds, bounds))
        return name._replace(carried=is_carried), Distribution(value.sum, value.max, buckets, value.min)

    def packed(self) -> Packed:
        """Return the packed series."""
        keys, records, cells = map(b"".join, zip(*self._parts, strict=True)) if self._parts else (b"",) * 3
        return Packed(keys, records, cells, list(self._numbers))

    def declarations(self) -> dict[str, Declaration]:
        """Return the declarations of their metrics."""
        kinds = self.packed().families() if self._defined else {}
        declared = {}
        for metric, what in self._defined.items():
            kind = kinds.get(self._numbers[metric] + 1)
            bounds = what.bounds if kind is Kind.HISTOGRAM and what.bounds != DEFAULT_BOUNDS else ()
            if kind is not None and (what.help or what.unit or bounds):
                declared[metric] = Declaration(kind, what.help, what.unit, bounds)
        return declared


def _cells_of(kind: Kind, value: Value) -> bytes:
    """Return the cells of a series in the shared row."""
    if isinstance(value, Distribution):
        least = kept_minimum(max(value.min, 0.0)) if value.count else 0
        form = f"<qddq{len(value.buckets)}q"
        return struct.pack(form, 0, value.sum + 0.0, max(value.max, 0.0), least, *value.buckets)
    if kind is Kind.GAUGE:
        is_real = isinstance(value, float)
        return struct.pack("<IIqd", 0, is_real, 0 if is_real else value, value if is_real else 0.0)
    return struct.pack("<qq", 0, value)


def columns_of(series: Sequence[tuple[Name, Value]]) -> tuple[bytes, bytes, bytes, bytes]:
    """Return keys, kinds, creation times and values of series as a file has them now, each a list in JSON."""
    names = [name for name, _ in series]
    return (
        json.dumps([key_of(name) for name in names]).encode(),
        json.dumps([int(_kind_of(name)) for name in names]).encode(),
        json.dumps([name.created for name in names]).encode(),
        json.dumps([_listed(value) for _, value in series]).encode(),
    )


def _kind_of(name: Name) -> int:
    return -name.kind if name.kind is Kind.COUNTER and not name.monotonic else name.kind


def _listed(value: Value) -> Any:
    """Return a value as JSON has it: of a histogram the buckets from the first non-empty one to the last."""
    if not isinstance(value, Distribution):
        return value
    used = [i for i, count in enumerate(value.buckets) if count] or [0, -1]
    return [value.sum, value.max, value.min, used[0], value.buckets[used[0] : used[-1] + 1]]


def key_of(name: Name) -> str:
    """Return category, metric, and label names and values, joined by NUL."""
    return encode_key(name.category, name.metric, name.labels).decode()


def declared_text(what: str, text: Any, most: int) -> str:
    """Return a help or a unit; ValueError unless it is a text of at most so many characters."""
    if not isinstance(text, str) or len(text) > most:
        raise ValueError(f"{what} must be a text of at most {most} characters, not {text!r:.80}")
    text.encode()
    return text
