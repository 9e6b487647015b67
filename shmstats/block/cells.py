"""The one place that decides between the C core and its pure Python twin.

``SHMSTATS_PURE=1`` in the environment asks for the twin; it is also what is left where the extension
was not built. Everyone else imports from here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .layout import CELL

__all__ = ["CORE", "PROTOCOL", "Cells", "Counter", "Gauge", "Histogram", "Recorder", "Section", "Series", "sum_columns"]

_pure = os.environ.get("SHMSTATS_PURE", "") not in ("", "0")

if TYPE_CHECKING:
    from ._cells import (
        CELL_LAYOUT,
        CORE,
        PROTOCOL,
        Cells,
        Counter,
        Gauge,
        Histogram,
        Recorder,
        Section,
        Series,
        sum_columns,
    )
elif _pure:
    from ._cells_py import (
        CELL_LAYOUT,
        CORE,
        PROTOCOL,
        Cells,
        Counter,
        Gauge,
        Histogram,
        Recorder,
        Section,
        Series,
        sum_columns,
    )
else:
    try:
        from ._cells import (
            CELL_LAYOUT,
            CORE,
            PROTOCOL,
            Cells,
            Counter,
            Gauge,
            Histogram,
            Recorder,
            Section,
            Series,
            sum_columns,
        )
    except ImportError:
        from ._cells_py import (
            CELL_LAYOUT,
            CORE,
            PROTOCOL,
            Cells,
            Counter,
            Gauge,
            Histogram,
            Recorder,
            Section,
            Series,
            sum_columns,
        )

_expected = {name: (offset, dtype.itemsize) for name, (dtype, offset) in CELL.fields.items()}  # type: ignore[union-attr, misc]
if _expected | {"size": CELL.itemsize} != CELL_LAYOUT:
    raise ImportError(f"the {CORE} core was built for cells of {CELL_LAYOUT}, the layout has {_expected}")
