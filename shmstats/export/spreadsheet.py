r"""The statistics as CSV (RFC 4180), for spreadsheets and scripts.

The columns are category, metric, labels, kind, field and value; with a breakdown by worker also worker, before field:
``total`` or the number of the worker's row. A histogram has one line for each of its figures, named in field; other
series have one, with the field ``value``. Labels have the form ``method="GET",status="200"``. See `safe` for escapes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from shmstats.export.figures import histogram_figures, iso_time
from shmstats.export.printable import printable
from shmstats.export.rows import Row, label_columns, rows
from shmstats.export.view import View
from shmstats.series import Distribution, Kind, Snapshot

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_table(snapshot: Snapshot, view: View) -> bytes:
    """Return the snapshot as CSV in UTF-8."""
    return to_csv(snapshot, raw=view.raw, columns=view.columns).encode()


def to_csv(snapshot: Snapshot, *, raw: bool = False, columns: Sequence[str] = ()) -> str:
    """Return the snapshot as CSV, lines ended by CR LF (write it to a file opened with ``newline=""``)."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    worker_column = ["worker"] if snapshot.workers else []
    writer.writerow(["category", "metric", *columns, "labels", "kind", *worker_column, "field", "value"])
    for row in rows(snapshot):
        name = row.name
        worker = [row.worker] if snapshot.workers else []
        texts = [name.category, name.metric, *label_columns(name.labels, columns)]
        head = [*(texts if raw else map(safe, texts)), name.kind.name.lower(), *worker]
        writer.writerows([*head, field, value] for field, value in _fields(row))
    return text.getvalue()


def safe(text: str) -> str:
    """Return text that neither a spreadsheet takes for a formula (``'`` before it) nor a terminal interprets."""
    return printable(f"'{text}" if text.startswith(_FORMULA) else text)


def _fields(row: Row) -> Iterator[tuple[str, str | int | float | None]]:
    if isinstance(row.value, Distribution):
        yield from histogram_figures(row.value, row.name.bounds).items()
    elif row.name.kind is Kind.TIMESTAMP:
        yield "value", iso_time(int(row.value))
    else:
        yield "value", row.value
