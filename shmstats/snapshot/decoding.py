"""Reading what is in the file of a saved snapshot: see `shmstats.snapshot.format`.

What a file says is checked like what a caller says. A series that is not allowed is left out, and told of. Most are
plain: C checks them and makes them ready for a block, in columns (`shmstats.core.pack_series`).
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..block.keys import check_text, encode_key
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
from ..core import pack_series
from ..frozen import NamedTuple
from ..layout import INT64_MAX, INT64_MIN
from ..series import TIME_UNITS, Declaration, Deferred, Distribution, Kind, Labels, Name, Snapshot, Value
from .format import SnapshotError, checked

_COLUMNS_OF_1 = ("category", "metric", "labels", "kind", "monotonic", "bounds", "value")

#: ns since 1970 of the first moment that a file may have been made at, and of the last: the year 2255.
_LAST_MOMENT = 9_000_000_000 * 10**9

_KINDS = {int(kind): kind for kind in Kind}
_MAX_HELP, _MAX_UNIT = 1000, 100

#: What leads to a series, or a file, that makes no sense.
_SENSELESS = (ValueError, TypeError, KeyError, AttributeError, OverflowError)


_NOTHING = Packed(b"", b"", b"", ())

#: Columns of series, as `pack_series` takes them: keys, kinds, moments of creation and values.
_Columns = tuple[list[Any], list[Any], list[Any], list[Any]]


class LeftOut(NamedTuple):
    """A series of a file that is not allowed.

    Attributes:
        series: category, metric and labels, as far as they are there.
        reason: why.
    """

    series: str
    reason: str


class Saved(NamedTuple):
    """What a file has.

    Attributes:
        snapshot: the series that are allowed; names and values are made when somebody looks at them.
        left_out: the others.
        packed: those that are allowed, ready for a block, in the buckets of today; but for those that were to be apart.
        declared: what is declared of their metrics, by category and metric, joined by NUL.
        apart: names and values of those others.
    """

    snapshot: Snapshot
    left_out: list[LeftOut]
    packed: Packed
    declared: Mapping[str, Declaration]
    apart: Sequence[tuple[Name, Value]]


def decode(file: Path, content: bytes, apart: Collection[str] = ()) -> Saved:
    """Return what a file of any version has.

    Args:
        file: where it is, for errors.
        content: of it.
        apart: series that are not to be packed: category, metric, and label names and values, joined by NUL.

    Raises:
        SnapshotError: it is no snapshot, damaged, or of a later version.
    """
    version, data = checked(file, content)
    try:
        rows = _ROWS[version](json.loads(data))
    except (*_SENSELESS, RecursionError) as error:
        raise SnapshotError(f"snapshot {file} has content that cannot be understood: {error!r}") from error
    return _read(rows, set(apart))


class _Row(NamedTuple):
    """A series as a file has it, not yet checked."""

    category: Any
    metric: Any
    labels: Any
    kind: Any
    monotonic: bool
    bounds: Any
    help: Any
    unit: Any
    created: Any
    value: Any
    carried: bool = False


class _Listed(Sequence[_Row]):
    """The series that a file lists, in columns, not yet checked.

    Args:
        keys: category, metric, and label names and values, joined by NUL.
        kinds: as a file has them.
        created: ns since 1970.
        values: as a file has them.
        declared: help, unit and bounds, by category and metric.
        carried: positions of histograms that have observations of other buckets.
    """

    def __init__(
        self,
        keys: list[Any],
        kinds: list[Any],
        created: list[Any],
        values: list[Any],
        declared: Mapping[tuple[Any, Any], tuple[Any, Any, Any]],
        carried: Collection[int],
    ) -> None:
        self.keys, self.kinds, self.created, self.values = keys, kinds, created, values
        self.declared, self.carried = declared, carried

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> _Listed:
        """Return what version 2 or 3 lists.

        Raises:
            ValueError: the columns are not as long as each other.
        """
        keys, kinds, values = (list(data[column]) for column in ("names", "kinds", "values"))
        created = list(data["created"]) if "created" in data else [0] * len(keys)
        if not len(keys) == len(kinds) == len(created) == len(values):
            raise ValueError("the columns are not as long as each other")
        carried = {position for position in data.get("carried", ()) if type(position) is int and position >= 0}
        return cls(keys, kinds, created, values, _declared(data["declared"]), carried)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, position: Any) -> Any:
        key, kind = self.keys[position], self.kinds[position]
        parts = key.split("\0") if isinstance(key, str) else []
        category, metric, *rest = parts if len(parts) > 1 else (key, None)
        help_, unit, bounds = self.declared.get((category, metric), ("", "", ())) if parts else ("", "", ())
        labels = [rest[i : i + 2] for i in range(0, len(rest), 2)]
        return _Row(
            *(category, metric, labels, abs(kind) if type(kind) is int else kind, kind == 1, bounds, help_, unit),
            *(self.created[position], self.values[position], position in self.carried),
        )

    def columns(self) -> _Columns | None:
        """Return the columns, which `pack_series` takes; None where two series have one key, or a key is none."""
        try:
            if len(set(self.keys)) < len(self.keys):
                return None
        except TypeError:
            return None
        kinds = self.kinds.copy() if self.carried else self.kinds
        for position in self.carried:
            if position < len(kinds) and type(kinds[position]) is int and abs(kinds[position]) == Kind.HISTOGRAM:
                kinds[position] = -Kind.HISTOGRAM.value
        return self.keys, kinds, self.created, self.values


def _declared(entries: Iterable[Any]) -> dict[tuple[str, str], tuple[Any, Any, Any]]:
    """Return what is declared about metrics; an entry that is none is as if it were not there."""
    return {
        (entry[0], entry[1]): (entry[2], entry[3], entry[4])
        for entry in entries
        if isinstance(entry, list) and len(entry) == 5 and all(isinstance(part, str) for part in entry[:2])
    }


def _rows_of_1(data: Mapping[str, Any]) -> list[_Row]:
    return [
        _Row(category, metric, labels, kind, bool(monotonic), bounds, "", "", 0, value)
        for category, metric, labels, kind, monotonic, bounds, value in zip(
            *(data[column] for column in _COLUMNS_OF_1), strict=True
        )
    ]


_ROWS: dict[int, Callable[[Mapping[str, Any]], Sequence[_Row]]] = {1: _rows_of_1, 2: _Listed.of, 3: _Listed.of}


class _Names(Deferred[Name]):
    """The names of the rows at some positions, which are allowed."""

    __slots__ = ("_kept", "_rows")

    def __init__(self, rows: Sequence[_Row], kept: Sequence[int]) -> None:
        super().__init__(len(kept))
        self._rows, self._kept = rows, kept

    def _make(self) -> Sequence[Name]:
        return [_name(self._rows[position]) for position in self._kept]


class _Values(Deferred[Value]):
    """The values of the rows at some positions, which are allowed."""

    __slots__ = ("_kept", "_names", "_rows")

    def __init__(self, rows: Sequence[_Row], kept: Sequence[int], names: Sequence[Name]) -> None:
        super().__init__(len(kept))
        self._rows, self._kept, self._names = rows, kept, names

    def _make(self) -> Sequence[Value]:
        pairs = zip(self._kept, self._names, strict=True)
        return [_value(self._rows[position], name.bounds) for position, name in pairs]


class _Defined(NamedTuple):
    """What is declared about a metric, as it is today: what was the default is what it is now.

    Attributes:
        help: as in `Declaration`.
        unit: likewise.
        bounds: likewise; empty where they make no sense.
        buckets: as `pack_series` takes them.
    """

    help: str
    unit: str
    bounds: Bounds
    buckets: int

    @classmethod
    def of(cls, help_: Any, unit: Any, bounds: Any) -> _Defined:
        """Return what a file says is declared."""
        try:
            _declared_text("help", help_, _MAX_HELP)
            _declared_text("unit", unit, _MAX_UNIT)
        except ValueError:
            return cls("", "", (), -1)
        try:
            found = from_json(bounds)
        except _SENSELESS:
            found = ()
        today = _of_today(found, unit)
        return cls(help_, unit, today, len(found) + 1 if found and today is found else 0)


def _of_today(bounds: Bounds, unit: str) -> Bounds:
    """Return bounds, or those that are the default now if they were it."""
    if bounds != FORMER_DEFAULT_BOUNDS:
        return bounds
    return DEFAULT_BOUNDS if unit in TIME_UNITS else DEFAULT_BOUNDS_OF_UNIT


def _read(rows: Sequence[_Row], apart: set[str]) -> Saved:
    """Return the series of a file that are allowed, and the others."""
    columns = rows.columns() if isinstance(rows, _Listed) else None
    declared = rows.declared if isinstance(rows, _Listed) else {}
    defined = {"\0".join(metric): _Defined.of(*what) for metric, what in declared.items()}
    packed, positions = _pack(columns, defined, apart) if columns else (_NOTHING, range(len(rows)))
    allowed, left_out = _check(rows, positions)
    gone = set(positions) - set(allowed)
    kept = [position for position in range(len(rows)) if position not in gone] if gone else range(len(rows))
    others = [pair for pair in allowed.values() if _key(pair[0]) in apart]
    if len(others) < len(allowed):
        packed, _ = _pack(_made_plain(columns, kept, allowed, defined), defined, apart)
    names = _Names(rows, kept)
    values = _Values(rows, kept, names)
    return Saved(Snapshot(names, values), left_out, packed, _declarations(packed, defined), others)


def _pack(columns: _Columns, defined: Mapping[str, _Defined], apart: set[str]) -> tuple[Packed, Sequence[int]]:
    """Return the plain ones of some series, and the positions of the others."""
    metrics = {metric: number for number, metric in enumerate(defined)}
    buckets = [what.buckets for what in defined.values()]
    keys, records, cells, aside = pack_series(*columns, metrics, buckets, apart, _LAST_MOMENT)
    return Packed(keys, records, cells, list(metrics)), memoryview(aside).cast("I")


def _check(rows: Sequence[_Row], positions: Iterable[int]) -> tuple[dict[int, tuple[Name, Value]], list[LeftOut]]:
    """Return the names and values at some positions that are allowed, and the series that are not."""
    allowed: dict[int, tuple[Name, Value]] = {}
    left_out: list[LeftOut] = []
    there: set[str] = set()
    for position in positions:
        row = rows[position]
        try:
            name = _name(row)
            value = _value(row, name.bounds)
            if _key(name) in there:
                raise ValueError("it is there twice")
        except _SENSELESS as error:
            left_out.append(LeftOut(f"{row.category!r:.80} {row.metric!r:.80} {row.labels!r:.200}", str(error)))
            continue
        there.add(_key(name))
        allowed[position] = name, value
    return allowed, left_out


def _made_plain(
    columns: _Columns | None, kept: Iterable[int], odd: Mapping[int, tuple[Name, Value]], defined: dict[str, _Defined]
) -> _Columns:
    """Return the series at some positions; those that are odd as a file of today has them, in the buckets of today."""
    for name, _ in odd.values():
        if name.kind is Kind.HISTOGRAM:
            bounds = _of_today(name.bounds, name.unit) or DEFAULT_BOUNDS
            defined[f"{name.category}\0{name.metric}"] = _Defined(name.help, name.unit, bounds, len(bounds) + 1)
    made: list[Any] = []
    for position in kept:
        if position in odd:
            name, value = odd[position]
            made.append(_plain(name, value, defined))
        elif columns:
            made.append([column[position] for column in columns])
    keys, kinds, created, values = map(list, zip(*made, strict=True))
    return keys, kinds, created, values


def _plain(name: Name, value: Value, defined: Mapping[str, _Defined]) -> tuple[str, int, int, Any]:
    """Return key, kind, moment of creation and value of a series as a file of today has them."""
    if isinstance(value, Distribution):
        bounds = defined[f"{name.category}\0{name.metric}"].bounds
        is_carried = name.carried or not stay_exact(value.buckets, name.bounds, bounds)
        buckets = list(rebucketed(value.buckets, name.bounds, bounds))
        listed = [value.sum, value.max, value.min, 0, buckets]
        return _key(name), -name.kind if is_carried else int(name.kind), name.created, listed
    is_down = name.kind is Kind.COUNTER and not name.monotonic
    return _key(name), -name.kind if is_down else int(name.kind), name.created, value


def _key(name: Name) -> str:
    return encode_key(name.category, name.metric, name.labels).decode()


def _declarations(packed: Packed, defined: Mapping[str, _Defined]) -> dict[str, Declaration]:
    """Return what is declared of the metrics of some series."""
    metrics = packed.families() if defined else {}
    declared = {}
    for number, (metric, what) in enumerate(defined.items(), 1):
        kind = metrics.get(number)
        bounds = what.bounds if kind is Kind.HISTOGRAM and what.bounds != DEFAULT_BOUNDS else ()
        if kind is not None and (what.help or what.unit or bounds):
            declared[metric] = Declaration(kind, what.help, what.unit, bounds)
    return declared


def _name(row: _Row) -> Name:
    """Return the name of a series.

    Raises:
        TypeError: a part of it is of the wrong type.
        ValueError: a part of it is not allowed.
    """
    kind = _KINDS.get(row.kind) if type(row.kind) is int else None
    if kind is None or kind is Kind.TIMESTAMP:
        raise ValueError(f"{row.kind!r:.40} is not a kind that is saved")
    created = row.created if type(row.created) is int and 0 <= row.created <= _LAST_MOMENT else 0
    return Name(
        check_text("category", row.category),
        check_text("metric", row.metric),
        kind,
        _labels(row.labels),
        row.monotonic and kind is Kind.COUNTER,
        from_json(row.bounds) if kind is Kind.HISTOGRAM else (),
        _declared_text("help", row.help, _MAX_HELP),
        _declared_text("unit", row.unit, _MAX_UNIT),
        created=created,
        carried=row.carried and kind is Kind.HISTOGRAM,
    )


def _labels(pairs: Any) -> Labels:
    if not pairs:
        return ()
    labels = tuple((check_text("label name", name), _label_value(value)) for name, value in pairs)
    found = [name for name, _ in labels]
    if found != sorted(set(found)):
        raise ValueError(f"label names must be sorted, and each there once, not {found!r:.80}")
    return labels


def _label_value(value: Any) -> str:
    return check_text("label value", value) if value != "" else ""


def _declared_text(what: str, text: Any, most: int) -> str:
    if not isinstance(text, str) or len(text) > most:
        raise ValueError(f"{what} must be a text of at most {most} characters, not {text!r:.80}")
    text.encode()
    return text


def _value(row: _Row, bounds: Bounds) -> Value:
    """Return the value of a series.

    Raises:
        TypeError: it is none.
        ValueError: it is not one of its kind.
    """
    value = row.value
    if row.kind == Kind.HISTOGRAM:
        return _distribution(value, len(bounds) + 1)
    if type(value) is int:
        if not INT64_MIN <= value <= INT64_MAX:
            raise ValueError(f"{value!r:.40} does not fit 64 bits")
        return value
    if type(value) is not float or row.kind != Kind.GAUGE or not math.isfinite(value):
        raise ValueError(f"{value!r:.80} is no value of a {_KINDS[row.kind].name.lower()}")
    return value


def _distribution(value: Any, n_buckets: int) -> Distribution:
    """Return the value of a histogram, as any version has it.

    Raises:
        TypeError: it is none.
        ValueError: a part of it is not allowed.
    """
    if len(value) == 3:
        total, maximum, counts = value
        minimum, first = 0.0, n_buckets - len(counts)
        if first:
            raise ValueError(f"there are {n_buckets} buckets, not {len(counts)}")
    else:
        total, maximum, minimum, first, counts = value
        if not 0 <= first <= first + len(counts) <= n_buckets:
            raise ValueError(f"there are {n_buckets} buckets, not {len(counts)} from number {first!r:.40} on")
    buckets = [0] * first + list(map(operator.index, counts))
    buckets += [0] * (n_buckets - len(buckets))
    distribution = Distribution(float(total), float(maximum), tuple(buckets), float(minimum))
    if not all(map(math.isfinite, (distribution.sum, distribution.max, distribution.min))):
        raise ValueError("the sum, the maximum and the minimum must be finite")
    if not all(0 <= bucket <= INT64_MAX for bucket in buckets):
        raise ValueError("a bucket must be an integer of 64 bits, not negative")
    return distribution
