r"""The statistics as rows: as CSV (RFC 4180) for spreadsheets and scripts, and as a table for people in a terminal.

The columns of CSV are category, metric, labels, kind, field and value; with a breakdown by worker also worker, before
field: ``total`` or the number of the worker's row. A histogram has one line for each of its figures, named in field;
other series have one, with the field ``value``. Labels have the form ``method="GET",status="200"``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from shmstats.export.figures import histogram_figures, iso_time
from shmstats.export.naming import is_time
from shmstats.export.people import milliseconds, size
from shmstats.export.printable import aligned, printable
from shmstats.export.view import View
from shmstats.frozen import NamedTuple
from shmstats.series import FOREIGN, Distribution, Kind, Labels, Name, Snapshot, Value, label_text

#: The worker of a row with the value over all workers.
_TOTAL = "total"

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_table(snapshot: Snapshot, view: View) -> bytes:
    """Return the snapshot as CSV in UTF-8, lines ended by CR LF.

    Texts are `safe`, unless ``view.raw`` is set. Labels in ``view.columns`` have a column of their own.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    worker_column = ["worker"] if snapshot.workers else []
    writer.writerow(["category", "metric", *view.columns, "labels", "kind", *worker_column, "field", "value"])
    for row in _rows(snapshot):
        name = row.name
        worker = [row.worker] if snapshot.workers else []
        texts = [name.category, name.metric, *label_columns(name.labels, view.columns)]
        head = [*(texts if view.raw else map(safe, texts)), name.kind.name.lower(), *worker]
        writer.writerows([*head, field, value] for field, value in _fields(row))
    return text.getvalue().encode()


def text_table(snapshot: Snapshot, view: View) -> bytes:
    """Return the snapshot as lines of text in UTF-8, sorted by name, the first one with the titles of the columns.

    Columns are aligned by the shown width. A histogram's value is its count, with the other figures beside it. Bytes
    and times are in suitable units; with ``view.raw`` they are in bytes, and in ms or the histogram's unit. Empty
    columns are left out. Labels in ``view.columns`` have a column of their own.
    """
    table = [_cells(row, view) for row in sorted(_rows(snapshot), key=_place)]
    titles = ["CATEGORY", "METRIC", *view.columns, "LABELS", "KIND", "WORKER", "VALUE", "DETAIL"]
    shown = [
        column
        for column, title in enumerate(titles)
        if (bool(snapshot.workers) if title == "WORKER" else column < 2 or any(cells[column] for cells in table))
    ]
    texts = [[titles[column], *(printable(cells[column]) for cells in table)] for column in shown]
    filled = [aligned(column, right=column[0] == "VALUE") for column in texts]
    return "".join(f"{'  '.join(line).rstrip()}\n" for line in zip(*filled, strict=True)).encode()


def safe(text: str) -> str:
    """Return text that neither a spreadsheet takes for a formula (``'`` before it) nor a terminal interprets."""
    return printable(f"'{text}" if text.startswith(_FORMULA) else text)


def label_columns(labels: Labels, columns: Sequence[str]) -> list[str]:
    """Return the values of labels with a column of their own, "" for a missing one, and the other labels as text."""
    values = dict(labels)
    others = label_text((name, value) for name, value in labels if name not in columns)
    return [*(values.get(name, "") for name in columns), others]


class _TableRow(NamedTuple):
    """One value of one series: that of a worker row, or the total."""

    name: Name
    worker: str
    value: Value


def _rows(snapshot: Snapshot) -> Iterator[_TableRow]:
    """Give every series' total, each followed by the workers' values, then the system's figures."""
    for i, (name, value) in enumerate(zip(snapshot.names, snapshot.values, strict=True)):
        yield _TableRow(name, _TOTAL, value)
        for worker, values in snapshot.workers.items():
            own = values[i]
            if own is not None:
                yield _TableRow(name, str(worker), own)
    for metric, figure in snapshot.system.items():
        yield _TableRow(Name("system", metric, Kind.GAUGE), _TOTAL, figure)


def _fields(row: _TableRow) -> Iterator[tuple[str, str | int | float | None]]:
    if isinstance(row.value, Distribution):
        yield from histogram_figures(row.value, row.name.bounds).items()
    elif row.name.kind is Kind.TIMESTAMP:
        yield "value", iso_time(int(row.value))
    else:
        yield "value", row.value


def _place(row: _TableRow) -> tuple[str, str, Labels, int]:
    return row.name.category, row.name.metric, row.name.labels, -1 if row.worker == _TOTAL else int(row.worker)


def _cells(row: _TableRow, view: View) -> tuple[str, ...]:
    name, worker, value = row
    detail = ""
    if isinstance(value, Distribution):
        figures = histogram_figures(value, name.bounds)
        unit = "ms" if is_time(name.unit) and name.category != FOREIGN else name.unit
        amounts = ((key, figure) for key, figure in figures.items() if key not in ("count", "sum"))
        detail = ", ".join(f"{key} {_amount(figure, unit, view.raw)}" for key, figure in amounts if figure is not None)
        shown = str(value.count)
    elif name.kind is Kind.TIMESTAMP:
        shown = iso_time(int(value))
    else:
        shown = size(value) if name.unit == "bytes" and not view.raw else str(value)
    labels = label_columns(name.labels, view.columns)
    return name.category, name.metric, *labels, name.kind.name.lower(), worker, shown, detail


def _amount(figure: float, unit: str, raw: bool) -> str:
    """Return a figure of a histogram with its unit."""
    if not raw and unit in ("ms", "bytes"):
        return milliseconds(figure) if unit == "ms" else size(figure)
    return f"{figure:.6g} {unit}".rstrip()
