r"""The statistics as a table for people in a terminal.

It is sorted by name, and its columns are aligned by the shown width. Characters that are not printable (control
characters, line breaks, changes of writing direction) are shown as escapes like ``\x1b``.
"""

from __future__ import annotations

from collections.abc import Sequence

from shmstats.export.figures import histogram_figures, iso_time
from shmstats.export.naming import is_time
from shmstats.export.people import milliseconds, size
from shmstats.export.printable import aligned, printable
from shmstats.export.rows import TOTAL, Row, label_columns, rows
from shmstats.export.view import View
from shmstats.series import FOREIGN, Distribution, Kind, Labels, Snapshot

_RIGHT_ALIGNED = "VALUE"


def text_table(snapshot: Snapshot, view: View) -> bytes:
    """Return the table in UTF-8."""
    return to_table(snapshot, view.columns, raw=view.raw).encode()


def to_table(snapshot: Snapshot, columns: Sequence[str] = (), *, raw: bool = False) -> str:
    """Return the snapshot as lines of text, the first one with the titles of the columns.

    A histogram's value is its count, with the other figures beside it. Bytes and times are in suitable units; with
    ``raw`` they are in bytes, and in ms or the histogram's unit. Empty columns are left out. Labels in
    ``columns`` have a column of their own.
    """
    table = [_cells(row, columns, raw) for row in sorted(rows(snapshot), key=_place)]
    titles = ["CATEGORY", "METRIC", *columns, "LABELS", "KIND", "WORKER", "VALUE", "DETAIL"]
    shown = [
        column
        for column, title in enumerate(titles)
        if (bool(snapshot.workers) if title == "WORKER" else column < 2 or _any(table, column))
    ]
    texts = [[titles[column], *(printable(cells[column]) for cells in table)] for column in shown]
    filled = [aligned(column, right=column[0] == _RIGHT_ALIGNED) for column in texts]
    return "".join(f"{'  '.join(line).rstrip()}\n" for line in zip(*filled, strict=True))


def _place(row: Row) -> tuple[str, str, Labels, int]:
    return row.name.category, row.name.metric, row.name.labels, -1 if row.worker == TOTAL else int(row.worker)


def _cells(row: Row, columns: Sequence[str], raw: bool) -> tuple[str, ...]:
    name, worker, value = row
    detail = ""
    if isinstance(value, Distribution):
        figures = histogram_figures(value, name.bounds)
        unit = "ms" if is_time(name.unit) and name.category != FOREIGN else name.unit
        amounts = ((key, figure) for key, figure in figures.items() if key not in ("count", "sum"))
        detail = ", ".join(f"{key} {_amount(figure, unit, raw)}" for key, figure in amounts if figure is not None)
        shown = str(value.count)
    elif name.kind is Kind.TIMESTAMP:
        shown = iso_time(int(value))
    else:
        shown = size(value) if name.unit == "bytes" and not raw else str(value)
    labels = label_columns(name.labels, columns)
    return name.category, name.metric, *labels, name.kind.name.lower(), worker, shown, detail


def _amount(figure: float, unit: str, raw: bool) -> str:
    """Return a figure of a histogram with its unit."""
    if not raw and unit in ("ms", "bytes"):
        return milliseconds(figure) if unit == "ms" else size(figure)
    return f"{figure:.6g} {unit}".rstrip()


def _any(table: list[tuple[str, ...]], column: int) -> bool:
    return any(cells[column] for cells in table)
