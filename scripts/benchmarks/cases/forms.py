"""What each form of a counting call costs beside the quickest one."""

from __future__ import annotations

from ..measure import Loop, time_loops
from ..rows import Measured, Row
from ..subjects import Workshop

#: The form that a form is to be near to, where it is not the first one.
_BESIDE = {
    "stats.gauge": "stats.gauge(c, m, 1.5)",
    "stats.timing": "stats.timing(c, m, 2.5)",
    "counter.": "counter.incr()",
    "gauge.": "counter.incr()",
    "histogram.": "counter.incr()",
    "with stats.timer(c, m, labels": "with stats.timer(c, m)",
}

#: What a form with ``labels=`` is to be near to.
_LABELS = "stats.incr(c, m, labels={…})"

#: Forms without a target: a moment is noted now and then.
_SHOWN = ("stats.timestamp(c, m)",)

#: Forms with a limit of their own, in ns.
_LIMITS = {
    "with stats.timer(c, m)": 300,
    _LABELS: 100,
    "labelled.labels(a, b).incr()": 40,
    "stats.get(c, m)": 5000,
}


def forms(shop: Workshop) -> list[Row]:
    """All forms of the calls, one process."""
    subject = shop.other("ours_forms")
    names = subject.do("forms")
    figures = time_loops({name: Loop(subject, name) for name in names}, shop.effort)
    rows = []
    for name in names:
        beside = next((each for start, each in _BESIDE.items() if name.startswith(start)), names[0])
        if "labels={…}" in name and not name.startswith("with"):
            beside = _LABELS
        measured = Measured("forms", name, figures[name], {} if beside == name else {beside: figures[beside]})
        if name in _LIMITS:
            rows.append(measured.at_most(_LIMITS[name]))
        elif beside == name or name in _SHOWN:
            rows.append(measured.only())
        else:
            rows.append(measured.slower(beside, 3))
    return rows


CASES = {"forms": forms}
