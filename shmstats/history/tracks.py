"""The series of the ring, and their columns.

A *track* is one series of the ring. It keeps its columns as long as the series exists. Columns of a series that
is gone are only reused if no others are left, and ``since`` keeps older rows from being taken for
values of the new series.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

from ..frozen import NamedTuple
from ..series import Distribution, Kind, Labels, Name, Value, items_at
from .ring import COLUMNS

#: Most series that are kept.
MAX_TRACKS = 512

#: Most buckets of a histogram that are kept: neighbours are merged if there are more. For the figures over all
#: requests, category ``shmstats``, the limit is so much higher that none are merged.
MAX_BUCKETS = 42
_MAX_OWN_BUCKETS = 256

#: Columns of a histogram before its buckets: sum of observations, and of their largest (a gauge).
_BEFORE_BUCKETS = 2

#: Categories that come before all others, and the metrics within them that come first.
_FIRST = ("system", "shmstats", "requests", "http", "gunicorn")
_MAIN = ("http_requests", "http_request_duration", "gunicorn_requests", "gunicorn_request_duration")

#: The category of series that are computed here from others.
OWN = "shmstats"

#: The identity of a series: category, metric, labels.
Key = tuple[str, str, Labels]


class Track(NamedTuple):
    """One series of the ring.

    Attributes:
        category: of the series.
        metric: likewise.
        labels: likewise.
        kind: ``COUNTER`` (columns have deltas), ``GAUGE`` (values) or ``HISTOGRAM``: sum, then largest
            observation, then buckets; all deltas except the second.
        bounds: of a histogram's buckets in the ring.
        unit: as declared.
        first: its first column.
        since: seconds since 1970 of its first row.
    """

    category: str
    metric: str
    labels: Labels
    kind: Kind
    bounds: tuple[float, ...]
    unit: str
    first: int
    since: int

    @property
    def key(self) -> Key:
        """The identity of the series."""
        return self.category, self.metric, self.labels

    @property
    def width(self) -> int:
        """The number of its columns."""
        return len(self.bounds) + 1 + _BEFORE_BUCKETS if self.kind is Kind.HISTOGRAM else 1

    @property
    def buckets(self) -> slice:
        """The columns of a histogram's buckets."""
        return slice(self.first + _BEFORE_BUCKETS, self.first + self.width)


def to_json(tracks: Iterable[Track]) -> list[Any]:
    """Return tracks as a value for JSON."""
    return [[*track[:3], int(track.kind), *track[4:]] for track in tracks]


def from_json(document: Any) -> list[Track]:
    """Return the tracks in a value from JSON.

    Raises:
        ValueError: it does not have the form of `to_json`.
    """
    try:
        tracks = [
            Track(
                category, metric, tuple(map(tuple, labels)), Kind(kind), tuple(map(float, bounds)), unit, first, since
            )
            for category, metric, labels, kind, bounds, unit, first, since in document
        ]
        sound = all(map(_is_sound, tracks)) and _are_apart(tracks)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"these are no tracks: {error}") from error
    if not sound:
        raise ValueError("it has a track that cannot be")
    return tracks


def _is_sound(track: Track) -> bool:
    """Tell whether a track is valid, whatever the types of its fields."""
    texts = track.category, track.metric, track.unit, *(text for label in track.labels for text in label)
    return (
        track.kind is not Kind.TIMESTAMP
        and (track.kind is Kind.HISTOGRAM or not track.bounds)
        and all(isinstance(text, str) for text in texts)
        and all(len(label) == 2 for label in track.labels)
        and all(map(math.isfinite, track.bounds))
        and all(low < high for low, high in pairwise(track.bounds))
        and 0 <= track.first <= COLUMNS - track.width
        and isinstance(track.first, int)
        and isinstance(track.since, int)
    )


def _are_apart(tracks: Iterable[Track]) -> bool:
    """Tell whether no two tracks have a column in common."""
    places = sorted((track.first, track.first + track.width) for track in tracks)
    return all(end <= first for (_, end), (first, _) in pairwise(places))


class Tracks:
    """The tracks that a recorder writes, and the mapping of a snapshot's values to their columns.

    Args:
        tracks: already in the ring.
        globs: of ``category.metric``: matching series come before others.

    Attributes:
        tracks: by the identities of their series.
        born: those of series that are new in the last names.
        added: those whose columns belonged to another track, or to none, before the last names.
    """

    def __init__(self, tracks: Iterable[Track], globs: Sequence[str]) -> None:
        self.tracks: dict[Key, Track] = {track.key: track for track in tracks}
        self._globs = tuple(globs)
        self._names: Sequence[Name] = ()
        self._positions: list[int] = []
        self._kept: list[tuple[Track, int]] = []
        self.born: list[Track] = []
        self.added: list[Track] = []

    @property
    def used(self) -> int:
        """Columns in use, counted from the first."""
        return max((track.first + track.width for track in self.tracks.values()), default=0)

    def follow(self, names: Sequence[Name], now: int) -> bool:
        """Make a track for each series of a snapshot, as far as there is room; tell whether tracks changed.

        Args:
            names: of the snapshot.
            now: seconds since 1970.
        """
        self.born, self.added = [], []
        if names is self._names:
            return False
        wanted = self._wanted(names)
        before = dict(self.tracks)
        present = {track.key for _, track in wanted}
        for _, track in wanted:
            known = self.tracks.get(track.key)
            if known is None or (known.kind, known.bounds, known.unit) != (track.kind, track.bounds, track.unit):
                self.tracks.pop(track.key, None)
                self._add(track._replace(since=now), present)
            elif known.since > now:  # made while the clock was wrong
                self.tracks[track.key] = known._replace(since=now)
        if self._names:
            known_names = {(name.category, name.metric, name.labels) for name in self._names}
            self.born = [self.tracks[key] for key in present if key in self.tracks and key not in known_names]
        self.added = [track for key, track in self.tracks.items() if before.get(key) != track]
        self._names = names
        kept = [(position, self.tracks[track.key]) for position, track in wanted if track.key in self.tracks]
        self._positions = [position for position, _ in kept]
        self._kept = [(track, _group_size(len(names[at].bounds) + 1, track.category)) for at, track in kept]
        return self.tracks != before

    def _wanted(self, names: Sequence[Name]) -> list[tuple[int, Track]]:
        """Return position and track of the series to keep, the most important first."""
        series = [
            (self._rank(name), position, track)
            for position, name in enumerate(names)
            if (track := _track_of(name)) is not None
        ]
        series.sort(key=lambda each: each[:2])
        return [(position, track) for _, position, track in series[:MAX_TRACKS]]

    def _rank(self, name: Name) -> int:
        full = f"{name.category}.{name.metric}"
        for rank, glob in enumerate(self._globs):
            if fnmatchcase(full, glob):
                return rank - len(self._globs)
        if name.category in _FIRST:
            return 2 * _FIRST.index(name.category) + (name.metric not in _MAIN)
        return 2 * len(_FIRST)

    def _add(self, track: Track, present: set[Key]) -> None:
        """Give a new track columns; if none are left, those of series that are gone."""
        first = self._free(track.width)
        if first is None or len(self.tracks) >= MAX_TRACKS:
            for key in [key for key in self.tracks if key not in present]:
                del self.tracks[key]
            first = self._free(track.width)
        if first is not None and len(self.tracks) < MAX_TRACKS:
            self.tracks[track.key] = track._replace(first=first)

    def _free(self, width: int) -> int | None:
        """Return the first of so many consecutive columns without a track."""
        at = 0
        for track in sorted(self.tracks.values(), key=lambda track: track.first):
            if track.first - at >= width:
                break
            at = track.first + track.width
        return at if at + width <= COLUMNS else None

    def totals(self, values: Sequence[Value]) -> array[float]:
        """Return the totals of the columns in use; NaN for no value.

        Args:
            values: of the snapshot whose names were followed last.
        """
        totals = array("d", [math.nan]) * self.used
        for value, (track, size) in zip(items_at(values, self._positions), self._kept, strict=True):
            if isinstance(value, Distribution):
                totals[track.first] = value.sum
                totals[track.first + 1] = value.max
                totals[track.buckets] = array("d", _grouped(value.buckets, size))
            else:
                totals[track.first] = value
        return totals

    def gauges(self) -> bytearray:
        """Return for each column in use whether it has values instead of deltas."""
        mask = bytearray(self.used)
        for track in self.tracks.values():
            if track.kind is Kind.GAUGE:
                mask[track.first] = True
            elif track.kind is Kind.HISTOGRAM:
                mask[track.first + 1] = True
        return mask


def _track_of(name: Name) -> Track | None:
    """Return the track for a series; None for a series that is not kept."""
    if name.kind is Kind.TIMESTAMP:
        return None
    kind = Kind.GAUGE if name.kind is Kind.COUNTER and not name.monotonic else name.kind
    bounds = name.bounds if kind is Kind.HISTOGRAM else ()
    size = _group_size(len(bounds) + 1, name.category)
    kept = tuple(bounds[size - 1 :: size])
    return Track(name.category, name.metric, name.labels, kind, kept, name.unit, 0, 0)


def _group_size(buckets: int, category: str) -> int:
    """Return the number of neighbouring buckets that are merged into one."""
    most = _MAX_OWN_BUCKETS if category == OWN else MAX_BUCKETS
    return math.ceil(buckets / most)


def _grouped(buckets: Sequence[int], size: int) -> Sequence[int]:
    """Return buckets with so many neighbours merged."""
    return buckets if size == 1 else [sum(buckets[at : at + size]) for at in range(0, len(buckets), size)]
