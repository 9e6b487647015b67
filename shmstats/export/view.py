"""The options of a reader besides the format: names, their spelling, and prefixes."""

from __future__ import annotations

from shmstats.frozen import NamedTuple
from shmstats.series import Labels


class View(NamedTuple):
    """Options for showing the statistics. Formats ignore those that they have no use for.

    Attributes:
        escaping: spelling of names, one of `shmstats.export.escaping.ESCAPINGS`; None: the format's default.
        names: of the families, or of their samples, to show; empty: all.
        namespace: prefix of every family's name (``prometheus.namespace``).
        labels: of every series (``prometheus.labels``).
        raw: whether CSV has texts without escapes for spreadsheets and terminals, and the table
            values without units for people.
        columns: labels with a column of their own in CSV and in the table.
    """

    escaping: str | None = None
    names: frozenset[str] = frozenset()
    namespace: str = ""
    labels: Labels = ()
    raw: bool = False
    columns: tuple[str, ...] = ()


#: Everything, in the default form.
PLAIN = View()
