"""The formats: each module makes one of a `shmstats.series.Snapshot`, and does nothing else.

`documents` JSON, `prometheus` text 0.0.4 and OpenMetrics (names: `families`), `spreadsheet` CSV, `table` text
for a terminal.
"""

from shmstats.export.documents import to_document
from shmstats.export.formats import FORMATS, Format
from shmstats.export.prometheus import Exposition, Renderer, negotiate, render
from shmstats.export.spreadsheet import to_csv
from shmstats.export.table import to_table

__all__ = ["FORMATS", "Exposition", "Format", "Renderer", "negotiate", "render", "to_csv", "to_document", "to_table"]
