"""The statistics as structured JSON: ``?format=v2``, for programs.

Labels are objects, and each series has its kind, unit, help and creation time. ``schema`` is the version of the form,
and `SCHEMA_FILE` describes it as JSON Schema.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shmstats.bounds import Bounds, Exponential
from shmstats.export.figures import iso_time, with_window
from shmstats.export.printable import json_lines
from shmstats.export.view import View
from shmstats.series import Distribution, Kind, Mode, Name, Recent, Snapshot, Value

#: The version of the form; raised when something is changed, not when something is added.
SCHEMA = 2

SCHEMA_FILE = Path(__file__).with_name("stats-v2.schema.json")


def structured_json(snapshot: Snapshot, view: View) -> bytes:
    """Return the structured document as indented JSON."""
    return (json_lines(to_structured(snapshot)) + "\n").encode(errors="backslashreplace")


def to_structured(snapshot: Snapshot) -> dict[str, Any]:
    """Return the snapshot as a structured document for `json.dumps`."""
    return {"schema": SCHEMA, "series": list(_series(snapshot)), "system": dict(snapshot.system)}


def _series(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    for i, (name, value) in enumerate(zip(snapshot.names, snapshot.values, strict=True)):
        series = {**_described(name), "value": _shown(name, value, snapshot.recent)}
        if snapshot.workers:
            own = ((str(row), values[i]) for row, values in snapshot.workers.items())
            series["workers"] = {row: _shown(name, value, {}) for row, value in own if value is not None}
        yield series


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


def _shown(name: Name, value: Value, recent: Recent) -> Any:
    if isinstance(value, Distribution):
        smallest = value.min if value.count else None
        figures = with_window(name, value, recent)
        return {**figures, "min": smallest, "buckets": list(_buckets(name.bounds, value))}
    if name.kind is Kind.TIMESTAMP:
        return iso_time(int(value))
    return value if math.isfinite(value) else None
