"""Figures of the time between two documents of `shmstats.dashboard.totals`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..bounds import Bounds
from ..export.figures import histogram_figures
from ..frozen import NamedTuple
from ..series import Distribution


class RequestFigures(NamedTuple):
    """Figures of the requests during some time; times in ms, None without requests.

    Attributes:
        rate: requests per second.
        errors: share of responses of class 5xx.
        p50: of their durations.
        p99: likewise.
        time: sum of their durations, in ms.
    """

    rate: float
    errors: float
    p50: float | None
    p99: float | None
    time: float


#: A distribution of durations, and its bounds.
_Times = tuple[Bounds, Distribution]


def request_figures(now: Mapping[str, Any], before: Mapping[str, Any] | None, seconds: float) -> RequestFigures | None:
    """Return the figures of all requests between two documents; None without an earlier one or without requests."""
    requests = now["requests"]
    if requests is None or before is None:
        return None
    earlier = before["requests"] or {"responses": {}, "time": None}
    added = {name: _added(count, earlier["responses"].get(name, 0)) for name, count in requests["responses"].items()}
    times = _times(now, requests), _times(before, earlier)
    return _figures(sum(added.values()), added.get("5xx", 0), *times, seconds)


def route_figures(
    now: Mapping[str, Any], before: Mapping[str, Any] | None, seconds: float
) -> list[tuple[dict[str, Any], RequestFigures]]:
    """Return the routes of a document with their figures, ordered by their total time."""
    past = before or now
    known = {(each["method"], each["route"]): each for each in past["routes"]}
    found = []
    for route in now["routes"]:
        earlier = known.get((route["method"], route["route"]), {"count": 0, "errors": 0, "time": None})
        count, errors = _added(route["count"], earlier["count"]), _added(route["errors"], earlier["errors"])
        found.append((route, _figures(count, errors, _times(now, route), _times(past, earlier), seconds)))
    return sorted(found, key=lambda each: (-each[1].time, -each[0]["count"]))


def _figures(count: int, errors: int, now: _Times | None, before: _Times | None, seconds: float) -> RequestFigures:
    rate, share = count / seconds, errors / count if count else 0.0
    if now is None:
        return RequestFigures(rate, share, None, None, 0.0)
    bounds, times = now
    took = _added(times.sum, before[1].sum if before else 0.0)
    buckets = times.buckets
    if before is not None and before[0] == bounds:
        buckets = tuple(max(each - was, 0) for each, was in zip(buckets, before[1].buckets, strict=True))
    figures = histogram_figures(Distribution(took, times.max, buckets, times.min), bounds)
    return RequestFigures(rate, share, figures["p50"], figures["p99"], took)


def _times(document: Mapping[str, Any], part: Mapping[str, Any]) -> _Times | None:
    """Return the durations of a part of a document, with the empty buckets that the document leaves out."""
    time = part["time"]
    if time is None:
        return None
    bounds = document["bounds"][time["bounds"]]
    buckets = [0] * (len(bounds) + 1)
    counts = time["buckets"].split()
    buckets[time["first"] : time["first"] + len(counts)] = map(int, counts)
    return bounds, Distribution(time["sum"], time["max"], tuple(buckets), time["min"])


def _added(now: Any, before: Any) -> Any:
    """Return the increase of a counter; one that is smaller than before was reset in between."""
    return now - before if now >= before else now
