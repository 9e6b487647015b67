"""The ten most important rows, within a minute, for a look after a change."""

from __future__ import annotations

from ..rows import Row
from ..subjects import Workshop
from .counting import inc, incr, labels, observe
from .footprint import footprint
from .pages import figures, page
from .persistence import own_save

#: For each case the beginnings of the works of its rows.
_SHOWN = {
    inc: ("counter.incr()",),
    incr: ("stats.incr",),
    observe: ("histogram.observe",),
    labels: ("counter.labels",),
    page: ("labelled series: the first", "labelled series: later", "labelled series: after a removal"),
    figures: ("figures",),
    own_save: ("longest increment",),
    footprint: ("private memory",),
}


def quick(shop: Workshop) -> list[Row]:
    """Measure with few repeats, and show the first row of each work."""
    shop.effort.shorten()
    rows = []
    for case, works in _SHOWN.items():
        with shop.scope() as part:
            found = case(part)
            shop.versions |= part.versions
        for work in works:
            rows += [row for row in found if work in row.work][:1]
    return rows
