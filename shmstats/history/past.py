"""Reading the ring over a span of time: rates, values and percentiles for each step of it."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..bounds import middle_of
from ..series import Kind, Name, Recent, series_text
from .ring import COLUMNS, MINUTES, SECONDS, Event, Ring, RingError, RingRow, Tier, ring_file
from .tracks import Track, from_json

if TYPE_CHECKING:
    import numpy.typing as npt

#: Most steps of one answer.
MAX_STEPS = 2000

#: Approximate number of steps of an answer by default.
_STEPS = 300

_NICE_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)

_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


class QueryError(ValueError):
    """A query that cannot be answered; the message says why."""


@dataclass(frozen=True)
class Query:
    """A query about the past.

    Attributes:
        since: seconds since 1970.
        until: likewise.
        step: seconds; 0 to choose one for about 300 steps.
        series: globs of ``category.metric``, or of a series in text form; empty: all.
    """

    since: int
    until: int
    step: int = 0
    series: Sequence[str] = ()

    @classmethod
    def made(
        cls, since: float | None = None, until: float | None = None, step: int | None = None, series: Sequence[str] = ()
    ) -> Query:
        """Return a checked query; a time of 0 or less is relative to now.

        Raises:
            QueryError: it cannot be answered.
        """
        now = int(time.time())
        last = now if until is None else _moment(until, now)
        first = last - SECONDS.rows if since is None else _moment(since, now)
        if first >= last:
            raise QueryError(f"since ({first}) must be before until ({last})")
        first = max(first, now - MINUTES.step * MINUTES.rows)
        if step is not None and not 1 <= step <= 86400:
            raise QueryError(f"step must be an integer from 1 to 86400 (seconds), not {step}")
        chosen = step or next(nice for nice in _NICE_STEPS if nice * _STEPS >= last - first or nice == 86400)
        if first < now - SECONDS.rows:
            chosen = -(-chosen // MINUTES.step) * MINUTES.step
        if (last - first) // chosen > MAX_STEPS:
            raise QueryError(
                f"from {first} to {last} there are more than {MAX_STEPS} steps of {chosen} s; ask for longer steps"
            )
        return cls(first, last, chosen, tuple(series))


def _moment(given: float, now: int) -> int:
    if not -1e11 < given < 1e11:
        raise QueryError(f"{given} is no time: give seconds since 1970, or seconds from now as a number below 0")
    return int(given) if given > 0 else now + int(given)


@dataclass(frozen=True)
class Past:
    """The ring's values over a span of time.

    Attributes:
        step: seconds.
        times: the beginning of each step, seconds since 1970.
        series: by the text form of a series: name of a figure to its values, one for each step, NaN for a gap. A
            counter has ``rate``, a gauge ``value``, a histogram ``rate``, ``mean``, ``p50``, ``p90``, ``p99``.
        tracks: by the text form of a series.
        events: in that time.
    """

    step: int
    times: npt.NDArray[np.int64]
    series: dict[str, dict[str, npt.NDArray[np.float64]]] = field(default_factory=dict)
    tracks: dict[str, Track] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)


def read_past(data: Path, query: Query) -> Past:
    """Read the ring of a data directory.

    Raises:
        FileNotFoundError: there is no ring.
        OSError: it cannot be read.
        RingError: it is not a ring, or damaged.
    """
    step = query.step
    first, last = query.since // step, query.until // step
    times = np.arange(first, last + 1, dtype=np.int64) * step
    with _ring_of(data) as ring:
        named = {_shown(track): track for track in _tracks(ring)}
        chosen = {name: track for name, track in named.items() if _matches(name, track, query.series)}
        sums = _Sums(ring, query, list(chosen.values()), times, step)
        series = {name: sums.figures(track) for name, track in chosen.items()}
        events = [event for event in ring.events(query.since * 10**9) if event.time <= (query.until + 1) * 10**9]
    return Past(step, times, series, chosen, events)


@contextmanager
def _ring_of(data: Path) -> Iterator[Ring]:
    """Give the ring of a data directory to compute with: a file may have any numbers, and none of them is an error."""
    ring = Ring(ring_file(data))
    try:
        with np.errstate(all="ignore"):
            yield ring
    finally:
        ring.close()


def _tracks(ring: Ring) -> list[Track]:
    try:
        return from_json(ring.read_tracks() or [])
    except ValueError as error:
        raise RingError(f"{ring.file} is damaged: {error}") from error


def read_recent(data: Path, now: int | None = None) -> Recent:
    """Return figures of histograms over the last 15 minutes, for those that the ring has.

    Args:
        data: the data directory.
        now: seconds since 1970; None for the current time.

    Returns:
        By category, metric and labels: ``seconds`` (covered by rows), ``count``, ``mean``, ``p50``, ``p90``,
        ``p99``, and for exponential bounds ``error``: the largest relative error of the percentiles.
        Empty if there is no readable ring.
    """
    now = int(time.time()) if now is None else now
    query = Query(now - SECONDS.rows, now, MINUTES.step)
    try:
        with _ring_of(data) as ring:
            tracks = [track for track in _tracks(ring) if track.kind is Kind.HISTOGRAM]
            since = query.since // MINUTES.step * MINUTES.step
            sums = _Sums(ring, query, tracks, np.array([since], np.int64), now + 1 - since)
            return {track.key: figures for track in tracks if (figures := _recent(sums, track))}
    except (OSError, RingError):
        return {}


def _recent(sums: _Sums, track: Track) -> dict[str, float]:
    figures = {name: float(values[0]) for name, values in sums.figures(track).items()}
    seconds = sums.seconds(track)
    if not 0 < figures["rate"] < math.inf:
        return {}
    count = round(figures.pop("rate") * seconds)
    found = {"seconds": round(seconds), "count": count, **{name: float(f"{x:.6g}") for name, x in figures.items()}}
    if _grow_by_one_factor(track.bounds):
        factor = track.bounds[-1] / track.bounds[-2]
        found["error"] = math.ceil((factor - 1) / (factor + 1) * 1e4) / 1e4
    return found


def _rows(ring: Ring, query: Query) -> Iterator[tuple[Tier, list[RingRow]]]:
    """Give the rows of a query: rows of minutes for the times that have them, else rows of seconds."""
    first, last = query.since, query.until
    if query.step % MINUTES.step == 0:
        minutes = ring.read_rows(MINUTES, first // 60, last // 60)
        yield MINUTES, minutes
        if minutes:
            first = max((minutes[-1].number + 1) * 60, first)
    yield SECONDS, ring.read_rows(SECONDS, first, last)


class _Sums:
    """The sums of the rows of each step, in the columns of some tracks.

    Args:
        ring: to read.
        query: about the time.
        tracks: the requested ones.
        times: the beginning of each step, seconds since 1970.
        step: seconds.
    """

    def __init__(self, ring: Ring, query: Query, tracks: list[Track], times: npt.NDArray[np.int64], step: int) -> None:
        self._tracks = tracks
        self._times = times
        self._step = step
        widths = np.array([track.width for track in tracks], np.intp)
        self._at = dict(zip((track.first for track in tracks), (widths.cumsum() - widths).tolist(), strict=True))
        self._columns = np.concatenate(
            [np.arange(track.first, track.first + track.width) for track in tracks] or [np.empty(0, np.intp)]
        )
        shape = len(times), len(self._columns)
        self._sums, self._spans, self._counts = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for tier, rows in _rows(ring, query):
            if rows:
                self._add(tier, rows)

    def _add(self, tier: Tier, rows: Sequence[RingRow]) -> None:
        """Add rows of a tier, each to its step."""
        moments = np.array([row.number for row in rows], np.int64) * tier.step
        steps = (moments - self._times[0]) // self._step
        spans = np.array([row.span for row in rows], np.float64)
        whole = np.full((len(rows), COLUMNS), np.nan, np.float32)
        for i, row in enumerate(rows):
            whole[i, : len(row.values)] = row.values
        values = whole[:, self._columns].astype(np.float64)
        values[~np.isfinite(values)] = np.nan
        for track in self._tracks:
            if track.since > moments[0]:
                at = self._at[track.first]
                values[moments + tier.step <= track.since, at : at + track.width] = np.nan
        here = ~np.isnan(values)
        starts = np.flatnonzero(np.diff(steps, prepend=-1))
        steps = steps[starts]
        self._sums[steps] += np.add.reduceat(np.where(here, values, 0), starts, axis=0)
        self._spans[steps] += np.add.reduceat(here * spans[:, None], starts, axis=0)
        self._counts[steps] += np.add.reduceat(here, starts, axis=0, dtype=np.float64)

    def seconds(self, track: Track) -> float:
        """Return the number of seconds that rows of a series cover in the first step."""
        return float(self._spans[0, self._at[track.first]])

    def figures(self, track: Track) -> dict[str, npt.NDArray[np.float64]]:
        """Return the figures of one series, each with a value for every step; NaN for none."""
        at = self._at[track.first]
        total, spans, counts = self._sums[:, at], self._spans[:, at], self._counts[:, at]
        if track.kind is Kind.GAUGE:
            return {"value": total / counts}
        if track.kind is Kind.COUNTER:
            return {"rate": total / spans}
        buckets = self._sums[:, at + 2 : at + track.width]
        observed = buckets.sum(axis=1)
        figures = {"rate": observed / spans, "mean": np.where(observed > 0, total / observed, np.nan)}
        for name, share in _PERCENTILES.items():
            figures[name] = _percentile(share, buckets, track.bounds)
        return figures


def _shown(track: Track) -> str:
    """Return the text form of a series."""
    return f"{track.category}.{series_text(Name(track.category, track.metric, track.kind, track.labels))}"


def _matches(name: str, track: Track, globs: Sequence[str]) -> bool:
    return not globs or any(
        fnmatchcase(f"{track.category}.{track.metric}", glob) or fnmatchcase(name, glob) or name == glob
        for glob in globs
    )


def _percentile(share: float, buckets: npt.NDArray[np.float64], bounds: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return a percentile of each of several distributions; NaN for an empty one.

    Between bounds with a constant ratio it has the same relative distance from both, as in
    `shmstats.export.figures`; otherwise it is interpolated within its bucket. Above every bound it is the last bound.

    Args:
        share: 0 to 1.
        buckets: of observations, not cumulative; shape (distributions, bounds + 1).
        bounds: of the buckets, ascending.
    """
    cumulative = buckets.cumsum(axis=1)
    total = cumulative[:, -1]
    rank = share * total
    at = np.argmax((cumulative >= rank[:, None]) & (cumulative > 0), axis=1)
    edges = np.array([min(0.0, bounds[0]), *bounds, bounds[-1]] if bounds else [0.0, 0.0])
    each = np.arange(len(buckets))
    inside = buckets[each, at]
    lower, upper = edges[at], edges[np.minimum(at + 1, len(edges) - 1)]
    found = lower + (upper - lower) * ((rank - (cumulative[each, at] - inside)) / inside)
    if _grow_by_one_factor(tuple(bounds)):
        found = np.where(lower > 0, middle_of(lower, upper), found)
    return np.where(total > 0, found, np.nan)


@functools.lru_cache(maxsize=64)
def _grow_by_one_factor(bounds: tuple[float, ...]) -> bool:
    """Tell whether bounds are exponential, or groups of exponential ones."""
    if len(bounds) < 4 or bounds[0] <= 0:
        return False
    factors = np.array(bounds[1:]) / np.array(bounds[:-1])
    return bool(np.allclose(factors, factors[0], rtol=1e-9, atol=0))
