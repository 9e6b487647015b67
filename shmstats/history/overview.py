"""Figures over all requests, from what the integrations count: responses by status class, response time.

They are series of their own, in the reserved category ``shmstats``, so that a chart of the whole application needs
five columns, however many routes it has.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..reading.totals import CounterGroups, HistogramGroup
from ..series import Kind, Name, Value

#: Counter of requests, histogram of their duration: the first existing pair is used.
SOURCES = (("http_requests", "http_request_duration"), ("gunicorn_requests", "gunicorn_request_duration"))

CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx", "other")


class Overview:
    """Makes the overview of snapshots.

    Attributes:
        requests: name of the metric that it is made from; empty if there is none.
        names: of the series that it makes; the same list as long as the snapshots have the same names.
    """

    def __init__(self) -> None:
        self._of: Sequence[Name] | None = None
        self.names: list[Name] = []
        self.requests = ""
        self._counters = CounterGroups([], [], 0)
        self._durations: HistogramGroup | None = None

    def follow(self, names: Sequence[Name]) -> None:
        """Find the overview's sources in a snapshot's names."""
        if names is self._of:
            return
        self._of = names
        metrics = {name.metric for name in names}
        source = next((source for source in SOURCES if source[0] in metrics), None)
        if source is None:
            self.requests, self.names, self._durations = "", [], None
            return
        self.requests, duration = source
        counters = [
            (position, _class_of(name))
            for position, name in enumerate(names)
            if name.metric == self.requests and name.kind is Kind.COUNTER
        ]
        self._counters = CounterGroups([at for at, _ in counters], [number for _, number in counters], len(CLASSES))
        durations = [at for at, name in enumerate(names) if name.metric == duration and name.kind is Kind.HISTOGRAM]
        bounds = names[durations[0]].bounds if durations else ()
        same = [at for at in durations if names[at].bounds == bounds]
        self._durations = HistogramGroup(same) if same else None
        self.names = [
            Name("shmstats", "responses", Kind.COUNTER, (("class", each),), monotonic=True) for each in CLASSES
        ]
        if durations:
            self.names.append(Name("shmstats", "response_time", Kind.HISTOGRAM, (), False, bounds))

    def values(self, values: Sequence[Value]) -> list[Value]:
        """Return the values of ``names``.

        Args:
            values: of the snapshot whose names were followed last.
        """
        if not self.requests:
            return []
        responses: list[Value] = [*self._counters.sums(values)]
        return responses if self._durations is None else [*responses, self._durations.sum(values)]


def _class_of(name: Name) -> int:
    status = dict(name.labels).get("status", "")
    if len(status) == 3 and "1" <= status[0] <= "5":
        return int(status[0]) - 1
    return len(CLASSES) - 1
