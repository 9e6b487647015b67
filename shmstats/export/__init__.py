"""The output formats: each module turns a `shmstats.series.Snapshot` into one format, and does nothing else.

`formats` has their table, `negotiation` chooses by an Accept header. `documents` and `structured` are JSON,
`renderer` text and OpenMetrics (by `prometheus`), `protobuf` (all three use `page`, `naming`, `escaping`),
`spreadsheet` CSV, `table` text for a terminal.
"""

from shmstats.export.documents import to_document
from shmstats.export.escaping import ESCAPINGS
from shmstats.export.formats import FORMATS, Format
from shmstats.export.negotiation import negotiate
from shmstats.export.renderer import Renderer, render
from shmstats.export.spreadsheet import to_csv
from shmstats.export.structured import to_structured
from shmstats.export.table import to_table
from shmstats.export.view import View

__all__ = [
    "ESCAPINGS",
    "FORMATS",
    "Format",
    "Renderer",
    "View",
    "negotiate",
    "render",
    "to_csv",
    "to_document",
    "to_structured",
    "to_table",
]
