"""The cases by name, in the order of the table.

A case is a function of a `Workshop` that returns the rows of its targets. Those of a module here are in its
``CASES``. A case returns a row for every target, also for one that it cannot measure: `rows.not_measured`.
"""

from __future__ import annotations

from collections.abc import Callable

from ..rows import Row
from ..subjects import Workshop
from . import commands, counting, footprint, forms, histograms, memory, names, pages, persistence, requests, scraping

Case = Callable[[Workshop], list[Row]]

CASES: dict[str, Case] = {
    **counting.CASES,
    **forms.CASES,
    **histograms.CASES,
    **names.CASES,
    **scraping.CASES,
    **pages.CASES,
    **memory.CASES,
    **persistence.CASES,
    **commands.CASES,
    **footprint.CASES,
    **requests.CASES,
}
