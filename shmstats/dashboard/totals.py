"""Totals that the live page and ``shmstats top`` make their figures of: requests, routes, workers, metrics.

All are totals since the start, so that whoever looks makes rates of two of them, at the pace that he likes; nothing is
kept here but what follows from the names of the series.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..history.overview import Overview
from ..reading import BlockReader
from ..reading.requests import Served
from ..series import Distribution, Kind, Name, Snapshot, Value, items_at, series_text
from .workers import worker_figures

#: Rows of one table of metrics or routes.
MAX_ROWS = 100

#: Categories of the integrations and of the library: an application's own come before them.
_NOT_OWN = ("requests", "http", "gunicorn", "shmstats", "system")

_REQUESTS, _DURATION = "http_requests", "http_request_duration"


class Dashboard:
    """Makes the document of what there is at a moment."""

    def __init__(self) -> None:
        self._overview = Overview()
        self._names: Sequence[Name] | None = None
        self._order: list[int] = []
        self._texts: list[str] = []
        self._shown: list[tuple[str, str]] = []
        self._backlog: int | None = None
        self._bounds: dict[tuple[float, ...], int] = {}
        self._routes: list[tuple[str, str, int | None]] = []
        self._counters = _Counters([], [], [])

    def document(
        self, reader: BlockReader, snapshot: Snapshot, search: str = "", served: Sequence[Served] | None = None
    ) -> dict[str, Any]:
        """Return the totals.

        Args:
            reader: of the block.
            snapshot: of its statistics.
            search: text in any case that the metrics shown have in ``category.series``.
            served: what the workers serve, where the caller shows it too; None: it is read.

        Returns:
            ``started`` (seconds since 1970), ``requests`` (None where no integration counts any), ``routes``,
            ``workers``, ``backlog`` (connections that wait; None where nobody tells) and ``metrics``. A distribution
            has as ``bounds`` an index into the list ``bounds``.
        """
        self._follow(snapshot.names)
        values = snapshot.values
        return {
            "started": round(time.time() - reader.uptime),
            "requests": self._requests_of(values),
            "routes": self._routes_of(snapshot),
            "workers": list(worker_figures(reader.served(reader.workers.live()) if served is None else served)),
            "backlog": None if self._backlog is None else items_at(values, [self._backlog])[0],
            "metrics": self._metrics(snapshot, search.casefold()),
            "bounds": list(self._bounds),
        }

    def _follow(self, names: Sequence[Name]) -> None:
        """Derive from the names what is kept as long as they stay."""
        if names is self._names:
            return
        self._names = names
        self._overview.follow(names)
        self._shown = [(name.category, series_text(name)) for name in names]
        self._texts = [f"{category}.{series}".casefold() for category, series in self._shown]
        order = {category: number for number, category in enumerate(_NOT_OWN, 1)}
        self._order = sorted(range(len(names)), key=lambda i: (order.get(names[i].category, 0), self._shown[i]))
        self._bounds = {}
        self._backlog = next((i for i, name in enumerate(names) if name.metric == "gunicorn_backlog"), None)
        self._routes, self._counters = _routes_in(names)

    def _requests_of(self, values: Sequence[Value]) -> dict[str, Any] | None:
        overview = dict(zip(self._overview.names, self._overview.values(values), strict=True))
        if not overview:
            return None
        responses = {
            name.labels[0][1]: value for name, value in overview.items() if name.metric == "responses" and value
        }
        times = next(
            ((name, value) for name, value in overview.items() if isinstance(value, Distribution)), (None, None)
        )
        return {"source": self._overview.requests, "responses": responses, "time": self._distribution(*times)}

    def _routes_of(self, snapshot: Snapshot) -> list[dict[str, Any]]:
        names, values, counters = snapshot.names, snapshot.values, self._counters
        counts = np.array(items_at(values, counters.positions), np.int64)
        totals, errors = (np.zeros(len(self._routes), np.int64) for _ in range(2))
        np.add.at(totals, counters.routes, counts)
        np.add.at(errors, counters.routes, np.where(counters.failed, counts, 0))
        order = np.argsort(-totals, kind="stable")[:MAX_ROWS].tolist()
        shown = [(*self._routes[number], int(totals[number]), int(errors[number])) for number in order]
        timed = [times for _, _, times, *_ in shown if times is not None]
        distributions = iter(items_at(values, timed))
        return [
            {
                "method": method,
                "route": route,
                "count": total,
                "errors": failed,
                "time": None if times is None else self._distribution(names[times], next(distributions)),
            }
            for method, route, times, total, failed in shown
        ]

    def _distribution(self, name: Name | None, value: Value | None) -> dict[str, Any] | None:
        if name is None or not isinstance(value, Distribution):
            return None
        bounds = self._bounds.setdefault(name.bounds, len(self._bounds))
        extremes = {"min": value.min, "max": value.max}
        return {"bounds": bounds, "sum": round(value.sum, 3), **extremes, "buckets": value.buckets}

    def _metrics(self, snapshot: Snapshot, search: str) -> dict[str, Any]:
        texts = self._texts
        found = [i for i in self._order if search in texts[i]] if search else self._order
        shown = found[:MAX_ROWS]
        values = items_at(snapshot.values, shown)
        rows = [_metric(snapshot.names[i], *self._shown[i], value) for i, value in zip(shown, values, strict=True)]
        return {"total": len(texts), "found": len(found), "rows": rows}


class _Counters(NamedTuple):
    """The counters of requests.

    Attributes:
        positions: of their series.
        routes: the number of each one's route.
        failed: whether each counts requests that failed.
    """

    positions: list[int]
    routes: list[int]
    failed: list[bool]


def _routes_in(names: Sequence[Name]) -> tuple[list[tuple[str, str, int | None]], _Counters]:
    """Return method and path of the routes, with the position of their durations, and what counts their requests."""
    numbers: dict[tuple[str, str], int] = {}
    times: dict[int, int] = {}
    counters = _Counters([], [], [])
    for i, name in enumerate(names):
        if name.metric not in (_REQUESTS, _DURATION):
            continue
        labels = dict(name.labels)
        number = numbers.setdefault((labels.get("method", ""), labels.get("route", "")), len(numbers))
        if name.metric == _DURATION:
            times.setdefault(number, i)
        elif name.kind is Kind.COUNTER:
            counters.positions.append(i)
            counters.routes.append(number)
            counters.failed.append(labels.get("status", "") >= "500")
    return [(*route, times.get(number)) for route, number in numbers.items()], counters


def _metric(name: Name, category: str, series: str, value: Value) -> list[Any]:
    """Return a row: category, series, kind, unit, value; of a histogram count and sum are the value."""
    shown: Any
    if isinstance(value, Distribution):
        shown = [value.count, round(value.sum, 6)]
    else:
        shown = value if math.isfinite(value) else None
    kind = Kind.GAUGE if name.kind is Kind.COUNTER and not name.monotonic else name.kind
    return [category, series, kind.name.lower(), name.unit, shown]
