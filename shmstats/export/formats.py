"""FORMATS: every form in which the statistics are written. The commands and the endpoints read this table.

To add one, write a module with a function that makes bytes of a `Snapshot`, and give it a row here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

from shmstats.export.documents import to_document
from shmstats.export.prometheus import Exposition, render
from shmstats.export.spreadsheet import to_csv
from shmstats.export.table import to_table
from shmstats.series import Snapshot


class Format(NamedTuple):
    """One form of the statistics.

    Attributes:
        content_type: of an HTTP answer.
        suffix: of a file's name, with its dot.
        render: makes it of a snapshot.
        by_worker: whether it has a place for the values of single workers.
    """

    content_type: str
    suffix: str
    render: Callable[[Snapshot], bytes]
    by_worker: bool = False


def _json(snapshot: Snapshot) -> bytes:
    return (json.dumps(to_document(snapshot), ensure_ascii=False, indent=2) + "\n").encode()


def _text(snapshot: Snapshot) -> bytes:
    return render(snapshot, Exposition.TEXT)


def _openmetrics(snapshot: Snapshot) -> bytes:
    return render(snapshot, Exposition.OPENMETRICS)


def _csv(snapshot: Snapshot) -> bytes:
    return to_csv(snapshot).encode()


def _table(snapshot: Snapshot) -> bytes:
    return to_table(snapshot).encode()


#: By the name that ``--format`` and ``?format=`` call it.
FORMATS = {
    "json": Format("application/json", ".json", _json, by_worker=True),
    "prometheus": Format(Exposition.TEXT.content_type, ".prom", _text),
    "openmetrics": Format(Exposition.OPENMETRICS.content_type, ".om", _openmetrics),
    "csv": Format("text/csv; charset=utf-8", ".csv", _csv, by_worker=True),
    "table": Format("text/plain; charset=utf-8", ".txt", _table, by_worker=True),
}
