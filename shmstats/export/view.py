"""What a reader of the statistics asks for beside a format: names, their spelling, and what stands before them."""

from __future__ import annotations

from shmstats.config import PrometheusSettings
from shmstats.frozen import NamedTuple
from shmstats.series import Labels


class View(NamedTuple):
    """How the statistics are to be shown. Formats that have no use for a part of it pass over it.

    Attributes:
        escaping: how names are spelt, one of `shmstats.export.escaping.ESCAPINGS`; None: as the format has them.
        names: of the families, or of their samples, that are shown; empty: all.
        namespace: what every family's name begins with (``prometheus.namespace``).
        labels: of every series (``prometheus.labels``).
        raw: whether CSV has texts as they are, also those that a spreadsheet or a terminal would obey, and the table
            values without units for people.
        columns: labels that have a column of their own in CSV and in the table.
    """

    escaping: str | None = None
    names: frozenset[str] = frozenset()
    namespace: str = ""
    labels: Labels = ()
    raw: bool = False
    columns: tuple[str, ...] = ()

    def prefixed(self, settings: PrometheusSettings) -> View:
        """Return the same view with the namespace and labels of the configuration."""
        return self._replace(namespace=settings.namespace, labels=tuple(sorted(settings.labels.items())))


#: Everything, in the usual form.
PLAIN = View()
