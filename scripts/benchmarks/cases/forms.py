"""The cost of each form of a counting call beside the fastest one."""

from __future__ import annotations

from ..call_forms import FORMS
from ..measure import Loop, time_loops
from ..rows import Measured, Row
from ..subjects import Workshop


def forms(shop: Workshop) -> list[Row]:
    """All forms of the calls, one process."""
    subject = shop.other("ours_forms")
    figures = time_loops({name: Loop(subject, name, 10) for name in FORMS}, shop.effort)
    rows = []
    for name, form in FORMS.items():
        measured = Measured("forms", name, figures[name], {form.beside: figures[form.beside]} if form.beside else {})
        if form.beside:
            rows.append(measured.slower(form.beside, 3))
        else:
            rows.append(measured.at_most(form.limit) if form.limit else measured.only())
    return rows


CASES = {"forms": forms}
