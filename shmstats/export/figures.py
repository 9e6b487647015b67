"""The figures that formats for people show: those of a histogram, and a timestamp as a date."""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

from shmstats.bounds import Bounds, Exponential, middle_of
from shmstats.series import Distribution, Name, Recent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def histogram_figures(value: Distribution, bounds: Bounds) -> dict[str, int | float | None]:
    """Return count, sum, mean, p50, p90, p99 and max, the latter six in ms, or in a declared unit other than time.

    Without observations mean, percentiles and max are None.
    """
    cumulative = list(accumulate(value.buckets))
    count = cumulative[-1]
    if not count:
        return {"count": 0, "sum": value.sum, "mean": None, **dict.fromkeys(_PERCENTILES), "max": None}
    percentiles = {key: _percentile(share, value, bounds, cumulative) for key, share in _PERCENTILES.items()}
    return {"count": count, "sum": value.sum, "mean": value.sum / count, **percentiles, "max": value.max}


def with_window(name: Name, value: Distribution, recent: Recent) -> dict[str, Any]:
    """Return the figures of a histogram.

    With exponential bounds ``error`` is the error of the percentiles, if it is known: it is unknown after observations
    were moved from other buckets. ``window`` has the figures of the last 15 minutes, if there are any.
    """
    figures: dict[str, Any] = {**histogram_figures(value, name.bounds)}
    if isinstance(name.bounds, Exponential) and not name.carried:
        figures["error"] = name.bounds.error
    window = recent.get((name.category, name.metric, name.labels))
    if window and value.count:
        clamped = {key: min(max(window[key], value.min), value.max) for key in _PERCENTILES}
        figures["window"] = {**window, **clamped}
    return figures


def iso_time(microseconds: int) -> str:
    """Return a timestamp in ISO 8601, UTC; outside of the years 1 to 9999 the number with its unit."""
    try:
        return (_EPOCH + timedelta(microseconds=microseconds)).isoformat()
    except OverflowError:
        return f"{microseconds} µs"


def _percentile(share: float, value: Distribution, bounds: Bounds, cumulative: list[int]) -> float:
    """Return a percentile, estimated within its bucket and within the minimum and maximum.

    Between exponential bounds it is their middle, see `middle_of`. Otherwise it is interpolated linearly, as by
    Prometheus' ``histogram_quantile``, but with the largest observation as the upper end of the last bucket.
    """
    rank = share * cumulative[-1]
    i = bisect_left(cumulative, rank)
    lower = bounds[i - 1] if i else min(0.0, value.max)
    upper = min(bounds[i], value.max) if i < len(bounds) else value.max
    if value.min > 0:
        lower = max(lower, value.min)
    if upper <= lower:
        return upper
    if isinstance(bounds, Exponential):
        return min(middle_of(lower, upper), upper) if lower else 0.0
    inside = value.buckets[i]
    return lower + (upper - lower) * ((rank - (cumulative[i] - inside)) / inside)
