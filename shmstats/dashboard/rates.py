"""Figures of the time between two documents of `shmstats.dashboard.totals`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..frozen import NamedTuple
from ..history.past import percentile

if TYPE_CHECKING:
    import numpy.typing as npt


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


def request_figures(now: Mapping[str, Any], before: Mapping[str, Any] | None, seconds: float) -> RequestFigures | None:
    """Return the figures of all requests between two documents; None without an earlier one or without requests."""
    requests = now["requests"]
    if requests is None or before is None:
        return None
    earlier = before["requests"] or {"responses": {}, "time": None}
    added = {name: _added(count, earlier["responses"].get(name, 0)) for name, count in requests["responses"].items()}
    return _figures(
        sum(added.values()), added.get("5xx", 0), requests, earlier, seconds, now["bounds"], before["bounds"]
    )


def route_figures(
    now: Mapping[str, Any], before: Mapping[str, Any] | None, seconds: float
) -> list[tuple[dict[str, Any], RequestFigures]]:
    """Return the routes of a document with their figures, ordered by their total time."""
    known = {(each["method"], each["route"]): each for each in (before["routes"] if before else ())}
    bounds = before["bounds"] if before else now["bounds"]
    found = []
    for route in now["routes"]:
        nothing = {"count": 0, "errors": 0, "time": None}
        earlier = known.get((route["method"], route["route"]), nothing) if before else route
        count, errors = _added(route["count"], earlier["count"]), _added(route["errors"], earlier["errors"])
        found.append((route, _figures(count, errors, route, earlier, seconds, now["bounds"], bounds)))
    return sorted(found, key=lambda each: (-each[1].time, -each[0]["count"]))


def _figures(
    count: int,
    errors: int,
    now: Mapping[str, Any],
    before: Mapping[str, Any],
    seconds: float,
    bounds: Sequence[Any],
    bounds_before: Sequence[Any],
) -> RequestFigures:
    rate, share = count / seconds, errors / count if count else 0.0
    if now["time"] is None:
        return RequestFigures(rate, share, None, None, 0.0)
    buckets = _buckets(now["time"], bounds)
    earlier = before["time"]
    if earlier is not None and bounds_before[earlier["bounds"]] == bounds[now["time"]["bounds"]]:
        buckets = np.maximum(buckets - _buckets(earlier, bounds_before), 0)
    took = _added(now["time"]["sum"], earlier["sum"] if earlier else 0.0)
    if not buckets.any():
        return RequestFigures(rate, share, None, None, took)
    least, most = now["time"]["min"], now["time"]["max"]
    found = (float(percentile(each, buckets[None, :], bounds[now["time"]["bounds"]])[0]) for each in (0.5, 0.99))
    p50, p99 = (min(max(each, least), most) for each in found)
    return RequestFigures(rate, share, p50, p99, took)


def _buckets(time: Mapping[str, Any], bounds: Sequence[Any]) -> npt.NDArray[np.float64]:
    """Return all buckets of a distribution, including the empty ones that the document leaves out."""
    buckets = np.zeros(len(bounds[time["bounds"]]) + 1)
    counts = time["buckets"].split()
    buckets[time["first"] : time["first"] + len(counts)] = counts
    return buckets


def _added(now: Any, before: Any) -> Any:
    """Return the increase of a counter; one that is smaller than before was reset in between."""
    return now - before if now >= before else now
