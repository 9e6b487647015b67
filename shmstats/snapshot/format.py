"""What is in the file of a saved snapshot: one JSON object, in this form since version 3::

    {"version": 3, "checksum": "<BLAKE2b of the bytes of data>", "data": {
        "saved": <seconds since 1970>, "values": [...], "declared": [[category, metric, help, unit, bounds], ...],
        "names": [...], "kinds": [...], "created": [...]}}

A name is category, metric, and label names and values, joined by NUL. A kind is the number of the kind, negative for a
counter that was decremented. What is declared about a metric is there once, not with each of its series. ``created``
is in ns since 1970, 0 where that is not known. ``carried``, if it is there, has the positions among the names of
histograms that have observations of other buckets (`shmstats.series.Name`).

The bounds of a histogram are a list, or of exponential ones an object of ``schema``, ``first``, ``octaves`` and
``factor`` (`shmstats.bounds`). Its value is ``[sum, maximum, minimum, number, [...]]``: the buckets from the one of
that number on, up to the last that has an observation.

Version 2 had ``[sum, maximum, [...]]`` for it, with all buckets, lists of bounds only, and at first no ``created``.
Version 1 had a list for each column: category, metric, labels, kind, monotonic, bounds, value.

What a file says is checked like what a caller says. A series that is not allowed is left out, and told of.
"""

from __future__ import annotations

import itertools
import json
import math
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..block.keys import check_text
from ..block.records import CARRIED
from ..bounds import Bounds, from_json, to_json
from ..core import fill_text, plan_save
from ..hashing import blake2b
from ..layout import INT64_MAX, INT64_MIN, NAME
from ..reading import BlockSnapshot
from ..reading.catalog import Catalog
from ..reading.totals import Totals
from ..series import Distribution, Kind, Labels, Mode, Name, Snapshot, Value

VERSION = 3
_VERSIONS = (1, 2, 3)
_BEGINNING = b'{"version": '
_COLUMNS_OF_1 = ("category", "metric", "labels", "kind", "monotonic", "bounds", "value")

#: ns since 1970 of the first moment that a file may have been made at, and of the last: the year 2255.
_LAST_MOMENT = 9_000_000_000 * 10**9

_KINDS = {int(kind): kind for kind in Kind}
_MAX_HELP, _MAX_UNIT = 1000, 100


class SnapshotError(Exception):
    """A snapshot file that cannot be read: damaged, or of a later version. The message says why."""


class LeftOut(NamedTuple):
    """A series of a file that is not allowed.

    Attributes:
        series: category, metric and labels, as far as they are there.
        reason: why.
    """

    series: str
    reason: str


# Writing ------------------------------------------------------------------------------------------------


class _Header(NamedTuple):
    """What is written of names; as long as they stay the same it is made only once.

    Attributes:
        names: of the snapshot.
        saved: positions of those that are saved; None: all.
        histograms: positions of histograms among those.
        text: the JSON of all but the values.
    """

    names: Sequence[Name]
    saved: list[int] | None
    histograms: list[int]
    text: bytes

    @classmethod
    def of(cls, names: Sequence[Name]) -> _Header:
        """Return that of some names."""
        saved = [i for i, name in enumerate(names) if _is_saved(name)]
        chosen = names if len(saved) == len(names) else [names[i] for i in saved]
        declared: dict[tuple[str, str], tuple[str, str, Bounds]] = {}
        keys: list[str] = []
        kinds: list[int] = []
        histograms: list[int] = []
        for category, metric, kind, labels, monotonic, bounds, help_, unit, *_ in chosen:
            if bounds or help_ or unit:
                declared[category, metric] = help_, unit, bounds
            if kind is Kind.HISTOGRAM:
                histograms.append(len(keys))
            kinds.append(-kind if kind is Kind.COUNTER and not monotonic else int(kind))
            key = f"{category}\0{metric}"
            keys.append("\0".join((key, *(part for pair in labels for part in pair))) if labels else key)
        head: dict[str, Any] = {
            "declared": [(*metric, *what, to_json(bounds)) for metric, (*what, bounds) in declared.items()],
            "names": keys,
            "kinds": kinds,
            "created": [name.created for name in chosen],
        }
        carried = [i for i, name in enumerate(chosen) if name.carried]
        if carried:
            head["carried"] = carried
        return cls(names, None if chosen is names else saved, histograms, json.dumps(head).encode())


def _is_saved(name: Name) -> bool:
    """Tell whether a series is saved: what its processes say of a moment, or of themselves, is not."""
    return name.kind is not Kind.TIMESTAMP and name.mode is Mode.LAST and not name.shown


_header: _Header | None = None


class _BlockHeader(NamedTuple):
    """What is written of the names of a block, made by C; as long as they stay the same it is made only once.

    Attributes:
        catalog: of the block.
        text: of the values, without them.
        places: of the values.
        behind: the JSON behind the values.
    """

    catalog: Catalog
    text: bytes
    places: bytes
    behind: bytes

    @classmethod
    def of(cls, catalog: Catalog) -> _BlockHeader:
        """Return that of a catalog."""
        saved = catalog.saved
        keys, kinds, created, text, places = plan_save(catalog.records, catalog.heap, saved.tobytes())
        declared = {name[:2]: (name.help, name.unit, to_json(name.bounds)) for name in catalog.described}
        head = json.dumps([(*metric, *what) for metric, what in declared.items()]).encode()
        flags = NAME.column(catalog.records, "flags")
        carried = [i for i, number in enumerate(saved) if flags[number] & CARRIED]
        more = b', "carried": %s' % json.dumps(carried).encode() if carried else b""
        behind = b'], "declared": %s, "names": [%s], "kinds": [%s], "created": [%s]%s}'
        behind %= head, keys, kinds, created, more
        return cls(catalog, text, places, behind)


_block_header: _BlockHeader | None = None


def encode(snapshot: Snapshot) -> list[bytes]:
    """Return the content of a file, in parts; timestamps and gauges by worker are left out."""
    data = _block_data(snapshot.totals) if isinstance(snapshot, BlockSnapshot) else [_data(snapshot)]
    saved = b'{"saved": %s, "values": ' % repr(time.time()).encode()
    return [_prefix(VERSION, saved, *data), saved, *data, b"}\n"]


def _block_data(totals: Totals) -> list[bytes]:
    """Return the values of a block, and what is written of its names; mostly made without the GIL."""
    global _block_header
    header = _block_header
    if header is None or header.catalog is not totals.catalog:
        header = _block_header = _BlockHeader.of(totals.catalog)
    return [b"[", fill_text(((header.text, header.places),), totals.cells), header.behind]


def _data(snapshot: Snapshot) -> bytes:
    """Return the values of a snapshot, and what is written of its names."""
    global _header
    header = _header
    if header is None or header.names is not snapshot.names:
        header = _header = _Header.of(snapshot.names)
    values: list[Any] = list(snapshot.values)
    if header.saved is not None:
        values = [values[i] for i in header.saved]
    for i in header.histograms:
        value = values[i]
        if isinstance(value, Distribution):
            values[i] = [value.sum, value.max, value.min, *_in_use(value.buckets)]
    return b"%s, %s" % (json.dumps(values).encode(), header.text[1:])


def _in_use(buckets: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Return the number of the first bucket that has an observation, and the buckets from there to the last such."""
    used = [i for i, count in enumerate(buckets) if count]
    return (used[0], buckets[used[0] : used[-1] + 1]) if used else (0, ())


def _prefix(version: int, *data: bytes) -> bytes:
    checksum = blake2b(digest_size=16)
    for part in data:
        checksum.update(part)
    return b'%s%d, "checksum": "%s", "data": ' % (_BEGINNING, version, checksum.hexdigest().encode())


# Reading ------------------------------------------------------------------------------------------------


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


def decode(file: Path, content: bytes) -> tuple[Snapshot, list[LeftOut]]:
    """Return what a file of any version has, and the series that are left out.

    Raises:
        SnapshotError: it is no snapshot, damaged, or of a later version.
    """
    version, data = _checked(file, content)
    try:
        rows = list(_ROWS[version](json.loads(data)))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise SnapshotError(f"snapshot {file} has content that cannot be understood: {error!r}") from error
    names: list[Name] = []
    values: list[Value] = []
    left_out: list[LeftOut] = []
    there: set[tuple[str, str, Labels]] = set()
    for row in rows:
        try:
            name = _name(row)
            value = _value(row, name.bounds)
            if (*name[:2], name.labels) in there:
                raise ValueError("it is there twice")
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            left_out.append(LeftOut(f"{row.category!r:.80} {row.metric!r:.80} {row.labels!r:.200}", str(error)))
            continue
        there.add((name.category, name.metric, name.labels))
        names.append(name)
        values.append(value)
    return Snapshot(names, values), left_out


def _checked(file: Path, content: bytes) -> tuple[int, bytes]:
    """Return the version and the data of a file.

    Raises:
        SnapshotError: it is no snapshot, of a later version, or the checksum does not fit.
    """
    if content and not content.startswith(_BEGINNING):
        raise SnapshotError(f"{file} is not a snapshot of shmstats")
    for version in _VERSIONS:
        data = content[len(_prefix(version, b"")) : -2]
        if content == _prefix(version, data) + data + b"}\n":
            return version, data
    if content and not any(content.startswith(b"%s%d," % (_BEGINNING, version)) for version in _VERSIONS):
        raise SnapshotError(
            f"snapshot {file} has another version than {' and '.join(map(str, _VERSIONS))}:"
            " a later version of shmstats has saved it"
        )
    raise SnapshotError(f"snapshot {file} is damaged: its checksum does not fit")


def _rows_of_1(data: Mapping[str, Any]) -> Iterator[_Row]:
    columns = [data[column] for column in _COLUMNS_OF_1]
    return itertools.starmap(_row_of_1, list(zip(*columns, strict=True)))


def _row_of_1(category: Any, metric: Any, labels: Any, kind: Any, monotonic: Any, bounds: Any, value: Any) -> _Row:
    return _Row(category, metric, labels, kind, bool(monotonic), bounds, "", "", 0, value)


def _rows_of_2(data: Mapping[str, Any]) -> Iterator[_Row]:
    declared = _declared(data["declared"])
    names, nothing = data["names"], ("", "", ())
    created = data.get("created", itertools.repeat(0, len(names)))
    carried = {position for position in data.get("carried", ()) if type(position) is int}
    columns = zip(names, data["kinds"], created, data["values"], strict=True)
    for position, (key, kind, moment, value) in enumerate(columns):
        parts = key.split("\0") if isinstance(key, str) else []
        category, metric, *rest = parts if len(parts) > 1 else (key, None)
        help_, unit, bounds = declared.get((category, metric), nothing)
        labels = [rest[i : i + 2] for i in range(0, len(rest), 2)]
        number = abs(kind) if type(kind) is int else kind
        yield _Row(category, metric, labels, number, kind == 1, bounds, help_, unit, moment, value, position in carried)


def _declared(entries: Iterable[Any]) -> dict[tuple[Any, Any], tuple[Any, Any, Any]]:
    """Return what is declared about metrics; an entry that is none is as if it were not there."""
    declared: dict[tuple[Any, Any], tuple[Any, Any, Any]] = {}
    for entry in entries:
        if isinstance(entry, list) and len(entry) == 5 and all(isinstance(part, str) for part in entry[:2]):
            category, metric, help_, unit, bounds = entry
            declared[category, metric] = help_, unit, bounds
    return declared


_ROWS: dict[int, Callable[[Mapping[str, Any]], Iterable[_Row]]] = {1: _rows_of_1, 2: _rows_of_2, 3: _rows_of_2}


def _name(row: _Row) -> Name:
    """Return the name of a series.

    Raises:
        TypeError: a part of it is of the wrong type.
        ValueError: a part of it is not allowed.
    """
    kind = _KINDS.get(row.kind) if type(row.kind) is int else None
    if kind is None or kind is Kind.TIMESTAMP:
        raise ValueError(f"{row.kind!r:.40} is no kind that is saved")
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
