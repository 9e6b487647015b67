"""FORMATS: the table of all output formats, which the commands and the endpoints read.

To add one, write a module with a function that turns a `Snapshot` and a `View` into bytes, and add a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shmstats.export import prometheus, protobuf, renderer
from shmstats.export.documents import json_document
from shmstats.export.spreadsheet import csv_table
from shmstats.export.structured import structured_json
from shmstats.export.table import text_table
from shmstats.export.view import View
from shmstats.frozen import NamedTuple
from shmstats.series import Snapshot


class Format(NamedTuple):
    """One output format.

    Attributes:
        content_type: of an HTTP answer.
        suffix: of a file's name, with its dot.
        render: makes it from a snapshot.
        by_worker: whether it can show the values of single workers.
        binary: whether it is not text.
        asked_by: the parameters of a media range by which a scraper requests it, and their allowed values; "" among
            them: the parameter may be left out. Empty: it is not negotiated.
    """

    content_type: str
    suffix: str
    render: Callable[[Snapshot, View], bytes]
    by_worker: bool = False
    binary: bool = False
    asked_by: Mapping[str, tuple[str, ...]] = {}

    @property
    def media_type(self) -> str:
        """The content type without parameters."""
        return self.content_type.partition(";")[0]


#: The format for a scraper that requests none in particular.
DEFAULT = "prometheus"

#: By the names in ``--format`` and ``?format=``. Of two that a scraper prefers equally it gets the later one.
FORMATS = {
    "json": Format("application/json", ".json", json_document, by_worker=True),
    "v2": Format("application/json", ".json", structured_json, by_worker=True),
    "csv": Format("text/csv; charset=utf-8", ".csv", csv_table, by_worker=True),
    "table": Format("text/plain; charset=utf-8", ".txt", text_table, by_worker=True),
    "prometheus": Format(prometheus.TEXT_TYPE, ".prom", renderer.shared.text, asked_by={"version": ("0.0.4", "")}),
    "prometheus-utf8": Format(
        prometheus.TEXT_1_TYPE, ".prom", renderer.shared.text_utf8, asked_by={"version": ("1.0.0",)}
    ),
    "openmetrics": Format(
        prometheus.OPENMETRICS_TYPE, ".om", renderer.shared.openmetrics, asked_by={"version": ("1.0.0", "0.0.1", "")}
    ),
    "protobuf": Format(
        protobuf.CONTENT_TYPE,
        ".pb",
        protobuf.render,
        binary=True,
        asked_by={"proto": ("io.prometheus.client.MetricFamily",), "encoding": ("delimited",)},
    ),
}
