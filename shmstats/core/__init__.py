"""The one place that decides between the C core and its pure Python twin.

``SHMSTATS_PURE=1`` in the environment asks for the twin; it is also what is left where the extension
was not built. Everyone else imports from here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..layout import CELL

__all__ = ["CORE", "PROTOCOL", "Cells", "Counter", "Gauge", "Histogram", "Recorder", "Section", "Series", "sum_columns"]

if TYPE_CHECKING:
    from . import _cells as core
elif os.environ.get("SHMSTATS_PURE", "") not in ("", "0"):
    from . import _cells_py as core
else:
    try:
        from . import _cells as core
    except ImportError:
        from . import _cells_py as core

CORE, PROTOCOL = core.CORE, core.PROTOCOL
Cells = core.Cells
Counter = core.Counter
Gauge = core.Gauge
Histogram = core.Histogram
Recorder = core.Recorder
Section = core.Section
Series = core.Series
sum_columns = core.sum_columns

_expected = {name: (offset, dtype.itemsize) for name, (dtype, offset) in CELL.fields.items()}  # type: ignore[union-attr, misc]
if _expected | {"size": CELL.itemsize} != core.CELL_LAYOUT:
    raise ImportError(f"the {CORE} core was built for cells of {core.CELL_LAYOUT}, the layout has {_expected}")
