"""The statistics as one JSON document: ``{category: {metric: value}}``, with `system` as a further category.

A counter is an int, a gauge an int or a float (null if not finite), a timestamp a string in ISO 8601, a histogram an
object of its figures (`shmstats.export.figures`). The key of a series with labels is its metric with the labels, as
Prometheus writes it: ``requests{method="GET",status="200"}``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from shmstats.export.figures import iso_time, with_window
from shmstats.export.printable import json_lines
from shmstats.export.view import View
from shmstats.series import Distribution, Kind, Name, Recent, Snapshot, Value, by_category, items_at, keys_of, kinds_of


def to_document(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """Return the snapshot as a document for `json.dumps`.

    With a breakdown in ``snapshot.workers``, every value except those of ``system`` becomes
    ``{"total": value, "workers": {"<row>": value}}``, with the rows that have a value of that name.
    """
    shown: Iterable[Any] = _broken_down(snapshot) if snapshot.workers else _values(snapshot)
    document = by_category(zip(keys_of(snapshot.names), shown, strict=True))
    if snapshot.system:
        document["system"] = dict(snapshot.system)
    return document


def json_document(snapshot: Snapshot, view: View) -> bytes:
    """Return the document as indented JSON."""
    return (json_lines(to_document(snapshot)) + "\n").encode(errors="backslashreplace")


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
        rows = ((str(row), values[i]) for row, values in snapshot.workers.items())
        workers = {row: _shown(name, own, {}) for row, own in rows if own is not None}
        yield {"total": _shown(name, value, snapshot.recent), "workers": workers}


def _shown(name: Name, value: Value, recent: Recent) -> Any:
    if type(value) is int and name.kind is not Kind.TIMESTAMP:  # most are
        return value
    if isinstance(value, Distribution):
        return with_window(name, value, recent)
    if name.kind is Kind.TIMESTAMP:
        return iso_time(int(value))
    return value if math.isfinite(value) else None
