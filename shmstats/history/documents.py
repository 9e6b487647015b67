"""Values of the past as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import math
from datetime import UTC, datetime
from typing import Any

from ..export.tables import safe
from .past import Past


def to_json(past: Past) -> dict[str, Any]:
    """Return a document for `json.dumps`.

    Returns:
        ``step`` and ``times`` in seconds (since 1970), ``series`` as `Past` has them, null for a gap, each with its
        ``kind`` and ``unit`` (``ms`` of a histogram without another one), and ``events``.
    """
    return {
        "step": past.step,
        "times": past.times.tolist(),
        "series": {
            name: {
                "kind": past.tracks[name].kind.name.lower(),
                "unit": past.tracks[name].unit,
                **{figure: [_number(value) for value in values.tolist()] for figure, values in figures.items()},
            }
            for name, figures in past.series.items()
        },
        "events": [{"time": event.time / 1e9, "kind": event.kind, "text": event.text} for event in past.events],
    }


def to_csv(past: Past) -> str:
    """Return a table: ``time`` in ISO 8601 and a column for each figure of each series, empty for a gap.

    ``pandas.read_csv(file, index_col="time", parse_dates=True)`` reads it.
    """
    columns = [
        (safe(name) if len(figures) == 1 else safe(f"{name} {figure}"), values.tolist())
        for name, figures in past.series.items()
        for figure, values in figures.items()
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["time", *(name for name, _ in columns)])
    for i, moment in enumerate(past.times.tolist()):
        shown = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        writer.writerow([shown, *("" if (value := _number(values[i])) is None else value for _, values in columns)])
    return text.getvalue()


def _number(value: float) -> float | int | None:
    """Return a number with six digits, as short as JSON allows; None for NaN."""
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.6g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
