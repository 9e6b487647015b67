"""The totals from which the live page and ``shmstats top`` compute their figures: requests, routes, workers, metrics.

All are totals since the start: each viewer computes rates from two of them, at its own interval. Only what
follows from the names of the series is kept here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..history.overview import Overview
from ..proc import ProcessUse, forks_of, uses_of
from ..reading.reader import BlockReader
from ..reading.requests import Served
from ..reading.totals import Brief, CounterGroups, brief, briefs_at
from ..series import Distribution, Kind, Name, Snapshot, Value, items_at, series_text

#: Rows of one table of metrics or routes.
MAX_ROWS = 100

#: Categories of the integrations and of the package: an application's own categories come before them.
_NOT_OWN = ("requests", "http", "gunicorn", "shmstats", "system")

_REQUESTS, _DURATION = "http_requests", "http_request_duration"


class Dashboard:
    """Makes the document of the totals at a moment."""

    def __init__(self) -> None:
        self._overview = Overview()
        self._names: Sequence[Name] | None = None
        self._order: list[int] = []
        self._texts: list[str] = []
        self._shown: list[tuple[str, str]] = []
        self._backlog: int | None = None
        self._bounds: dict[tuple[float, ...], int] = {}
        self._routes: list[tuple[str, str, int | None]] = []
        self._bounds_of: dict[int, int] = {}
        self._counters = CounterGroups([], [], 0)

    def document(
        self, reader: BlockReader, snapshot: Snapshot, search: str = "", served: Sequence[Served] | None = None
    ) -> dict[str, Any]:
        """Return the totals.

        Args:
            reader: of the block.
            snapshot: of its statistics.
            search: part of the names ``category.series`` of the metrics to show, in any case.
            served: the requests being served, if the caller has read them; None: they are read.

        Returns:
            ``started`` (seconds since 1970), ``requests`` (None if no integration counts any), ``routes``,
            ``workers``, ``backlog`` (connections that wait; None if unknown) and ``metrics``. A distribution
            has as ``bounds`` an index into the list ``bounds``, and the counts of its buckets as text: see
            `shmstats.reading.totals.Brief`.
        """
        self._follow(snapshot.names)
        values = snapshot.values
        return {
            "started": round(time.time() - reader.uptime),
            "requests": self._requests_of(values),
            "routes": self._routes_of(values),
            "workers": list(_worker_figures(reader.served(reader.workers.live()) if served is None else served)),
            "backlog": None if self._backlog is None else items_at(values, [self._backlog])[0],
            "metrics": self._metrics(snapshot, search.casefold()),
            "bounds": list(self._bounds),
        }

    def _follow(self, names: Sequence[Name]) -> None:
        """Compute from the names what stays the same as long as they do."""
        if names is self._names:
            return
        self._names = names
        self._overview.follow(names)
        self._shown = [(name.category, series_text(name)) for name in names]
        self._texts = [f"{category}.{series}".casefold() for category, series in self._shown]
        order = {category: number for number, category in enumerate(_NOT_OWN, 1)}
        self._order = sorted(range(len(names)), key=lambda i: (order.get(names[i].category, 0), self._shown[i]))
        self._backlog = next((i for i, name in enumerate(names) if name.metric == "gunicorn_backlog"), None)
        self._routes, self._counters = _routes_in(names)
        self._bounds = {}
        self._bounds_of = {at: self._index(names[at].bounds) for _, _, at in self._routes if at is not None}

    def _index(self, bounds: tuple[float, ...]) -> int:
        """Return the index of bounds in the list of the document."""
        return self._bounds.setdefault(bounds, len(self._bounds))

    def _requests_of(self, values: Sequence[Value]) -> dict[str, Any] | None:
        overview = dict(zip(self._overview.names, self._overview.values(values), strict=True))
        if not overview:
            return None
        responses = {
            name.labels[0][1]: value for name, value in overview.items() if name.metric == "responses" and value
        }
        times = ((name, value) for name, value in overview.items() if isinstance(value, Distribution))
        time = next((_distribution(self._index(name.bounds), brief(value)) for name, value in times), None)
        return {"source": self._overview.requests, "responses": responses, "time": time}

    def _routes_of(self, values: Sequence[Value]) -> list[dict[str, Any]]:
        succeeded, errors = np.array(self._counters.sums(values), np.int64).reshape(-1, 2).T
        totals = succeeded + errors
        order = np.argsort(-totals, kind="stable")[:MAX_ROWS].tolist()
        shown = [(*self._routes[number], int(totals[number]), int(errors[number])) for number in order]
        timed = [times for _, _, times, *_ in shown if times is not None]
        distributions = {
            at: _distribution(self._bounds_of[at], value)
            for at, value in zip(timed, briefs_at(values, timed), strict=True)
        }
        return [
            {
                "method": method,
                "route": route,
                "count": total,
                "errors": failed,
                "time": None if times is None else distributions[times],
            }
            for method, route, times, total, failed in shown
        ]

    def _metrics(self, snapshot: Snapshot, search: str) -> dict[str, Any]:
        texts = self._texts
        found = [i for i in self._order if search in texts[i]] if search else self._order
        shown = found[:MAX_ROWS]
        values = items_at(snapshot.values, shown)
        names = snapshot.names
        rows = [
            [*self._shown[i], *_kind_and_unit(names[i]), _value(value)] for i, value in zip(shown, values, strict=True)
        ]
        return {"total": len(texts), "found": len(found), "rows": rows}


def _routes_in(names: Sequence[Name]) -> tuple[list[tuple[str, str, int | None]], CounterGroups]:
    """Return method and path of the routes, with the position of their durations, and the counters of their requests.

    Each route has two groups of counters: of successful and of failed requests.
    """
    numbers: dict[tuple[str, str], int] = {}
    times: dict[int, int] = {}
    counters: dict[int, int] = {}
    for i, name in enumerate(names):
        if name.metric not in (_REQUESTS, _DURATION):
            continue
        labels = dict(name.labels)
        number = numbers.setdefault((labels.get("method", ""), labels.get("route", "")), len(numbers))
        if name.metric == _DURATION and name.kind is Kind.HISTOGRAM:
            times.setdefault(number, i)
        elif name.metric == _REQUESTS and name.kind is Kind.COUNTER:
            counters[i] = 2 * number + (labels.get("status", "") >= "500")
    groups = CounterGroups([*counters], [*counters.values()], 2 * len(numbers))
    return [(*route, times.get(number)) for route, number in numbers.items()], groups


def _distribution(bounds: int, value: Brief) -> dict[str, Any]:
    total, least, most, first, buckets = value
    return {"bounds": bounds, "sum": round(total, 3), "min": least, "max": most, "first": first, "buckets": buckets}


def _kind_and_unit(name: Name) -> tuple[str, str]:
    kind = Kind.GAUGE if name.kind is Kind.COUNTER and not name.monotonic else name.kind
    return kind.name.lower(), name.unit


def _value(value: Value) -> Any:
    """Return what a row of metrics shows of a value; of a histogram that is its count and sum."""
    if type(value) is int:  # most are
        return value
    if isinstance(value, Distribution):
        return [value.count, round(value.sum, 6)]
    return value if math.isfinite(value) else None


def _worker_figures(served: Iterable[Served]) -> Iterator[dict[str, Any]]:
    """Give figures of each process that still exists, without details of the requests that it serves.

    A process attaches when it counts for the first time. Processes that have not attached, but were forked by the
    master of one that has, are included, because they serve requests too.

    ``pid``, ``state`` (a word), ``role`` (``master`` if others are its children, else ``worker``), ``started``
    (seconds since 1970), ``begun`` (number of requests), ``serving`` (number of requests now), ``oldest`` (start of the
    first of these, in seconds since 1970), ``cpu`` (seconds) and ``memory`` (bytes).
    """
    found = {each.worker.pid: each for each in served}
    uses = dict(uses_of(found))
    parents = {use.parent for use in uses.values()}
    beside = dict(each for parent in parents for each in forks_of(parent, found))
    for pid, use in (uses | beside).items():
        each = found.get(pid)
        begun, requests = (each.begun, each.requests) if each else (0, ())
        yield {
            "pid": pid,
            "state": _state(use, each),
            "role": "master" if pid in parents and not begun else "worker",
            "started": round(time.time() - use.age),
            "begun": begun,
            "serving": len(requests) + (each.further if each else 0),
            "oldest": round(requests[0].began / 1e9, 1) if requests else None,
            "cpu": round(use.cpu, 2),
            "memory": use.resident,
        }


def _state(use: ProcessUse, served: Served | None) -> str:
    """Return the state of a process as a word."""
    if use.state in "Tt":
        return "stopped"
    if use.state == "Z":
        return "ended"
    if served is not None and (served.requests or served.further):
        return "waits for disk" if use.state == "D" else "busy"
    return "idle"
