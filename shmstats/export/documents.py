"""The statistics as JSON: by category for people and scripts, and structured (``?format=v2``) for programs.

By category it is ``{category: {metric: value}}``, with `system` as a further category. A counter is an int, a gauge an
int or a float (null if not finite), a timestamp a string in ISO 8601, a histogram an object of its figures
(`shmstats.export.figures`). The key of a series with labels is its metric with the labels, as Prometheus writes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from shmstats.bounds import Bounds, Exponential
from shmstats.export.figures import iso_time, with_window
from shmstats.export.printable import json_lines
from shmstats.export.view import View
from shmstats.series import (
    Distribution,
    Kind,
    Mode,
    Name,
    Recent,
    Snapshot,
    Value,
    by_category,
    items_at,
    keys_of,
    kinds_of,
)

#: The version of the structured form; raised when something is changed, not when something is added.
SCHEMA = 2

#: Describes the structured form as JSON Schema.
SCHEMA_FILE = Path(__file__).with_name("stats-v2.schema.json")


def json_document(snapshot: Snapshot, view: View) -> bytes:
    """Return the document by category as indented JSON."""
    return _encoded(to_document(snapshot))


def structured_json(snapshot: Snapshot, view: View) -> bytes:
    """Return the structured document as indented JSON."""
    return _encoded(to_structured(snapshot))


def to_document(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """Return the snapshot by category, as a document for `json.dumps`.

    With a breakdown in ``snapshot.workers``, every value except those of ``system`` becomes
    ``{"total": value, "workers": {"<row>": value}}``, with the rows that have a value of that name.
    """
    shown: Iterable[Any] = _broken_down(snapshot) if snapshot.workers else _values(snapshot)
    document = by_category(zip(keys_of(snapshot.names), shown, strict=True))
    if snapshot.system:
        document["system"] = dict(snapshot.system)
    return document


def to_structured(snapshot: Snapshot) -> dict[str, Any]:
    """Return the snapshot as a structured document for `json.dumps`.

    Labels are objects, and each series has its kind, unit, help and creation time.
    """
    return {"schema": SCHEMA, "series": list(_series(snapshot)), "system": dict(snapshot.system)}


def _encoded(document: dict[str, Any]) -> bytes:
    return (json_lines(document) + "\n").encode(errors="backslashreplace")


def _values(snapshot: Snapshot) -> list[Any]:
    """Return what is shown of each value. Plain numbers are most, and need no name."""
    shown: list[Any] = list(snapshot.values)
    kinds = enumerate(kinds_of(snapshot.names))
    others = [i for i, kind in kinds if type(shown[i]) is not int or kind == Kind.TIMESTAMP]
    for i, name in zip(others, items_at(snapshot.names, others), strict=True):
        shown[i] = _shown(name, shown[i], snapshot.recent)
    return shown


def _broken_down(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    for i, (name, value) in enumerate(zip(snapshot.names, snapshot.values, strict=True)):
        yield {
            "total": _shown(name, value, snapshot.recent),
            "workers": {row: _shown(name, own, {}) for row, own in _own_values(snapshot, i)},
        }


def _series(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    for i, (name, value) in enumerate(zip(snapshot.names, snapshot.values, strict=True)):
        series = {**_described(name), "value": _with_buckets(name, value, snapshot.recent)}
        if snapshot.workers:
            series["workers"] = {row: _with_buckets(name, own, {}) for row, own in _own_values(snapshot, i)}
        yield series


def _own_values(snapshot: Snapshot, place: int) -> Iterator[tuple[str, Value]]:
    """Give the workers' rows that have a value of a series, with it."""
    for row, values in snapshot.workers.items():
        value = values[place]
        if value is not None:
            yield str(row), value


def _shown(name: Name, value: Value, recent: Recent) -> Any:
    if isinstance(value, Distribution):
        return with_window(name, value, recent)
    if name.kind is Kind.TIMESTAMP:
        return iso_time(int(value))
    return value if math.isfinite(value) else None


def _with_buckets(name: Name, value: Value, recent: Recent) -> Any:
    """Return what is shown of a value, of a histogram also its smallest observation and its buckets."""
    shown = _shown(name, value, recent)
    if isinstance(value, Distribution):
        shown["min"] = value.min if value.count else None
        shown["buckets"] = list(_buckets(name.bounds, value))
    return shown


def _described(name: Name) -> dict[str, Any]:
    is_gauge = name.kind is Kind.GAUGE or (name.kind is Kind.COUNTER and not name.monotonic)
    described: dict[str, Any] = {
        "category": name.category,
        "metric": name.metric,
        "labels": dict(name.labels),
        "kind": name.shown or ("gauge" if is_gauge else name.kind.name.lower()),
        "unit": name.unit or ("ms" if name.kind is Kind.HISTOGRAM else ""),
        "help": name.help,
        "created": iso_time(name.created // 1000) if name.created else None,
    }
    if name.mode is not Mode.LAST:
        described["mode"] = name.mode.name.lower()
    return described


def _buckets(bounds: Bounds, value: Distribution) -> Iterator[dict[str, Any]]:
    """Give the buckets; of exponential bounds only those that are not empty."""
    limits = zip(bounds, value.buckets, strict=False)
    above = {"le": None, "count": value.buckets[-1]}
    if not isinstance(bounds, Exponential):
        yield from ({"le": limit, "count": count} for limit, count in limits)
        yield above
        return
    before = 0.0
    for limit, count in limits:
        if count:
            yield {"gt": before, "le": limit, "count": count}
        before = limit
    if value.buckets[-1]:
        yield {"gt": before, **above}
