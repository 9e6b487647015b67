"""Reading the file of a saved snapshot: see `shmstats.snapshot.format`.

The content is checked like arguments of a call. A series that is not allowed is left out, and reported. Most are
simple: C reads them from the text of the file, and packs them for a block (`shmstats.core.bulk`).
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..block.keys import check_text
from ..bounds import Bounds, from_json
from ..frozen import NamedTuple
from ..layout import INT64_MAX, INT64_MIN
from ..once import lazy_property
from ..series import Distribution, Kind, Labels, Name, Snapshot, Value
from .format import SnapshotError, checked
from .packing import LAST_MOMENT, MAX_HELP, MAX_UNIT, SENSELESS, Declared, Packing, declared_text, key_of

_COLUMNS_OF_1 = ("category", "metric", "labels", "kind", "monotonic", "bounds", "value")

_KINDS = {int(kind): kind for kind in Kind}

#: The text before each of the first members of an object that `shmstats.snapshot.format` has written, and before the
#: last one, which is optional.
_MEMBERS = [b'{"saved": ', *(b', "%s": ' % name for name in (b"values", b"declared", b"names", b"kinds", b"created"))]
_CARRIED = b', "carried": '


class LeftOut(NamedTuple):
    """A series of a file that is not allowed.

    Attributes:
        series: category, metric and labels, as far as the file has them.
        reason: why it is not allowed.
    """

    series: str
    reason: str


def decode(file: Path, content: bytes) -> Saved:
    """Return the content of a file of any version.

    Args:
        file: its path, for errors.
        content: its bytes.

    Raises:
        SnapshotError: it is not a snapshot, damaged, or of a later version.
    """
    version, place = checked(file, content)
    try:
        return Saved(version, content, place)
    except (*SENSELESS, RecursionError) as error:
        raise SnapshotError(f"snapshot {file} has content that cannot be understood: {error!r}") from error


class _Row(NamedTuple):
    """A series as in a file, not yet checked."""

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


def _rows_of_1(data: Mapping[str, Any]) -> tuple[list[_Row], Declared]:
    return [
        _Row(category, metric, labels, kind, bool(monotonic), bounds, "", "", 0, value)
        for category, metric, labels, kind, monotonic, bounds, value in zip(
            *(data[column] for column in _COLUMNS_OF_1), strict=True
        )
    ], {}


def _rows(data: Mapping[str, Any]) -> tuple[list[_Row], Declared]:
    """Return the series and the declarations of version 2 or 3.

    Raises:
        ValueError: the columns differ in length.
    """
    keys, kinds, values = (list(data[column]) for column in ("names", "kinds", "values"))
    created = list(data["created"]) if "created" in data else [0] * len(keys)
    declared = _declared(data["declared"])
    carried = _carried(data.get("carried", ()))
    listed = zip(keys, kinds, created, values, strict=True)
    return [_row(declared, position in carried, *each) for position, each in enumerate(listed)], declared


_ROWS: dict[int, Callable[[Mapping[str, Any]], tuple[list[_Row], Declared]]] = {1: _rows_of_1, 2: _rows, 3: _rows}


def _carried(positions: Iterable[Any]) -> set[int]:
    return {position for position in positions if type(position) is int}


def _row(declared: Declared, is_carried: bool, key: Any, kind: Any, created: Any, value: Any) -> _Row:
    """Return a series of version 2 or 3."""
    parts = key.split("\0") if isinstance(key, str) else []
    category, metric, *rest = parts if len(parts) > 1 else (key, None)
    help_, unit, bounds = declared.get((category, metric), ("", "", ())) if parts else ("", "", ())
    labels = [rest[i : i + 2] for i in range(0, len(rest), 2)]
    kind_of = abs(kind) if type(kind) is int else kind
    return _Row(category, metric, labels, kind_of, kind == 1, bounds, help_, unit, created, value, is_carried)


def _declared(entries: Iterable[Any]) -> dict[tuple[Any, Any], tuple[Any, Any, Any]]:
    """Return the declarations of metrics; invalid entries are ignored."""
    found = {}
    for entry in entries:
        with suppress(ValueError, TypeError):
            category, metric, help_, unit, bounds = entry
            found[check_text("category", category), check_text("metric", metric)] = help_, unit, bounds
    return found


class Saved:
    """The content of a file.

    Args:
        version: of the file.
        content: of the file.
        place: of the data in the content.

    Attributes:
        left_out: the series that are not allowed.
        packed: the others, packed for a block with the current buckets.
        declared: the declarations of their metrics, by category and metric, joined by NUL.
    """

    def __init__(self, version: int, content: bytes, place: slice) -> None:
        self._version, self._content, self._place = version, content, place
        packed = self._pack()
        if packed is None:
            rows, declared = self._read
            packed = Packing(declared), dict(enumerate(rows))
        packing, odd = packed
        allowed, self.left_out = _check(odd, {key.decode() for key, _, _ in packing.packed().rows()} if odd else set())
        if allowed:
            packing.add_checked(list(allowed.values()))
        self._gone = odd.keys() - allowed.keys()
        self.packed, self.declared = packing.packed(), packing.declarations()

    @lazy_property
    def snapshot(self) -> Snapshot:
        """The allowed series, made at the first use."""
        rows = [row for position, row in enumerate(self._read[0]) if position not in self._gone]
        names = [_name(row) for row in rows]
        return Snapshot(names, [_value(row, name.bounds) for row, name in zip(rows, names, strict=True)])

    @lazy_property
    def _read(self) -> tuple[Sequence[_Row], Declared]:
        """The series and the declarations of their metrics, read at the first use."""
        return _ROWS[self._version](json.loads(self._content[self._place]))

    def _pack(self) -> tuple[Packing, Mapping[int, _Row]] | None:
        """Pack the simple series.

        Returns:
            The packed series, and by position the others; None for a file that is not exactly as we write it.
        """
        found = None if self._version == 1 else self._members()
        if found is None:
            return None
        saved, values, entries, names, kinds, created, positions = found
        try:
            json.loads(bytes(saved))
            declared = _declared(json.loads(bytes(entries)))
            carried = _carried(json.loads(bytes(positions or b"[]")))
            packing = Packing(declared)
            odd = packing.add((names, kinds, created, values), carried)
            rows = None if odd is None else json.loads(odd or b"[]")
        except (*SENSELESS, RecursionError):
            return None  # reading all of it will find the error
        if rows is None:
            return None
        return packing, {place: _row(declared, place in carried, *listed) for place, *listed in rows}

    def _members(self) -> list[memoryview] | None:
        """Return the JSON of each member, all of which are lists except the first; None if there are other ones.

        They are not parsed yet. If each of them is JSON, then so is the whole, because the text between them is right.
        """
        content, (at, end, _) = self._content, self._place.indices(len(self._content))
        places: list[int] = []
        for member in _MEMBERS:
            begin = content.find(member, at, end)
            if begin < 0 or (not places and begin != at):
                return None
            at = begin + len(member)
            places += [begin, at]
        begin = content.rfind(_CARRIED, at, end)
        places += [begin, begin + len(_CARRIED)] if begin >= 0 else [end - 1, end - 1]
        try:
            if content[end - 1] != ord("}") or not (content.isascii() or content.decode()):
                return None
        except UnicodeDecodeError:
            return None
        view = memoryview(content)
        return [view[start:stop] for start, stop in zip(places[1::2], [*places[2::2], end - 1], strict=True)]


def _check(rows: Mapping[int, _Row], there: set[str]) -> tuple[dict[int, tuple[Name, Value]], list[LeftOut]]:
    """Return the names and values of the allowed series by position, and the series that are not allowed.

    Args:
        rows: some series of a file.
        there: the keys of the others; those of the allowed series are added.
    """
    allowed: dict[int, tuple[Name, Value]] = {}
    left_out: list[LeftOut] = []
    for position, row in rows.items():
        try:
            name = _name(row)
            value = _value(row, name.bounds)
            if key_of(name) in there:
                raise ValueError("it is there twice")
        except SENSELESS as error:
            left_out.append(LeftOut(f"{row.category!r:.80} {row.metric!r:.80} {row.labels!r:.200}", str(error)))
            continue
        there.add(key_of(name))
        allowed[position] = name, value
    return allowed, left_out


def _name(row: _Row) -> Name:
    """Return the name of a series.

    Raises:
        TypeError: a part of it is of the wrong type.
        ValueError: a part of it is not allowed.
    """
    kind = _KINDS.get(row.kind) if type(row.kind) is int else None
    if kind is None or kind is Kind.TIMESTAMP:
        raise ValueError(f"{row.kind!r:.40} is not a kind that is saved")
    created = row.created if type(row.created) is int and 0 <= row.created <= LAST_MOMENT else 0
    return Name(
        check_text("category", row.category),
        check_text("metric", row.metric),
        kind,
        _labels(row.labels),
        row.monotonic and kind is Kind.COUNTER,
        from_json(row.bounds) if kind is Kind.HISTOGRAM else (),
        declared_text("help", row.help, MAX_HELP),
        declared_text("unit", row.unit, MAX_UNIT),
        created=created,
        carried=row.carried and kind is Kind.HISTOGRAM,
    )


def _labels(pairs: Any) -> Labels:
    if not pairs:
        return ()
    labels = tuple(
        (check_text("label name", name), "" if value == "" else check_text("label value", value))
        for name, value in pairs
    )
    found = [name for name, _ in labels]
    if found != sorted(set(found)):
        raise ValueError(f"label names must be sorted, and each there once, not {found!r:.80}")
    return labels


def _value(row: _Row, bounds: Bounds) -> Value:
    """Return the value of a series.

    Raises:
        TypeError: it is not a value.
        ValueError: it is not a value of its kind.
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
    """Return the value of a histogram of any version.

    Raises:
        TypeError: it is not one.
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
