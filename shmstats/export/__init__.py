"""The output formats: each module turns a `shmstats.series.Snapshot` into some of them, and does nothing else.

`formats` has their table, and chooses by an Accept header. `documents` is JSON, `tables` CSV and text for a terminal,
`renderer` Prometheus text and OpenMetrics (by `prometheus`), `protobuf` (all three use `page`, `naming`, `escaping`).
"""

from shmstats.export.documents import to_document, to_structured
from shmstats.export.escaping import ESCAPINGS
from shmstats.export.formats import FORMATS, Format, negotiate
from shmstats.export.renderer import Renderer, render
from shmstats.export.view import View

__all__ = ["ESCAPINGS", "FORMATS", "Format", "Renderer", "View", "negotiate", "render", "to_document", "to_structured"]
