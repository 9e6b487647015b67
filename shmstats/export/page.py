"""The page: the common part of the exposition formats, which follows from the names alone.

Between two scrapes the values change, but rarely the names. So what follows from the names is made once, and kept as
long as snapshots have the same ``names`` object. If names were only added at the end, only these are named; any other
change makes a new page. A page is never altered, so that any number of threads may render at once.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

from shmstats.export.naming import SYSTEM_FIGURES, ExposedFamily, ExposedSeries, Namer
from shmstats.export.view import View
from shmstats.frozen import NamedTuple
from shmstats.lazy import lazy_property
from shmstats.series import FOREIGN, Kind, Labels, Name, Snapshot


class Member(NamedTuple):
    """A series of a page: ``values[position]`` is its value, and ``name`` its name with its declaration."""

    position: int
    series: ExposedSeries
    name: Name


class Page:
    """An exposition without its format and its values.

    Attributes:
        own: number of the members that are series of the snapshot.
        members: the series of the snapshot and after them those of ``system`` and ``health``, without those of
            other libraries.
        made: what formats have derived from this page, by format.
        inherited: the same of the page that this one extends.
    """

    def __init__(self, snapshot: Snapshot, namer: Namer, parent: Page | None = None) -> None:
        self._names = snapshot.names
        self._known = list(snapshot.names)
        self._system = tuple(snapshot.system)
        self._health = tuple(snapshot.health)
        self._namer = namer
        self._own: list[Member] = list(parent._own) if parent else []
        for i in range(len(parent._known) if parent else 0, len(self._known)):
            name = self._known[i]
            if name.category != FOREIGN:
                self._own.append(Member(i, namer.add(name), name))
        health = ((namer.health[figure], figure) for figure in self._health)
        shown = itertools.chain(zip(namer.system, self._system, strict=True), health)
        figures = enumerate(shown, start=len(self._known))
        self.own = len(self._own)
        self.members = [
            *self._own,
            *(Member(i, series, Name("system", figure, Kind.GAUGE)) for i, (series, figure) in figures),
        ]
        self.made: dict[Any, Any] = {}
        self.inherited: dict[Any, Any] = parent.made if parent else {}

    def fits(self, snapshot: Snapshot) -> bool:
        """Tell whether this is the page of a snapshot."""
        return self._names is snapshot.names and self._has_figures_of(snapshot)

    def grown(self, snapshot: Snapshot) -> Page | None:
        """Return the page for a snapshot whose names begin with those of this one, which is used up; else None."""
        if not self._has_figures_of(snapshot) or list(snapshot.names[: len(self._known)]) != self._known:
            return None
        return Page(snapshot, self._namer, self)

    def _has_figures_of(self, snapshot: Snapshot) -> bool:
        return self._system == tuple(snapshot.system) and self._health == tuple(snapshot.health)

    def values(self, snapshot: Snapshot) -> list[Any]:
        """Return the values at the positions of `Member.position`, figures of the system in base units."""
        return [*snapshot.values, *system_values(snapshot), *snapshot.health.values()]

    def series_of(self, name: Name) -> ExposedSeries | None:
        """Return the name of a series on the page; None if it is not there."""
        return self._series.get(name[:4])

    @lazy_property
    def _series(self) -> dict[tuple[Any, ...], ExposedSeries]:
        return {member.name[:4]: member.series for member in self._own}

    def families(self, chosen: frozenset[str] = frozenset()) -> dict[ExposedFamily, list[int]]:
        """Return the families in the order of their first members, each with positions in `members`.

        Args:
            chosen: names of families or of their samples; empty: all.
        """
        families: dict[ExposedFamily, list[int]] = {}
        for place, member in enumerate(self.members):
            places = families.get(member.series.family)
            if places is None:
                families[member.series.family] = [place]
            else:
                places.append(place)
        if not chosen:
            return families
        return {
            family: places for family, places in families.items() if not chosen.isdisjoint(names_of_samples(family))
        }


def system_values(snapshot: Snapshot) -> list[int | float]:
    """Return the figures of the system in base units."""
    divisors = {metric: figure.divisor for metric, figure in SYSTEM_FIGURES.items() if figure.divisor != 1}
    return [value / divisors[key] if key in divisors else value for key, value in snapshot.system.items()]


def names_of_samples(family: ExposedFamily) -> Iterator[str]:
    """Give the names of a family's samples, and its own."""
    return (family.name + suffix for suffix in family.type.owned)


class Pages:
    """The last page for each spelling of names. Threads may share it."""

    def __init__(self) -> None:
        self._pages: dict[tuple[str, str, Labels], Page] = {}
        self._lock = threading.Lock()

    def of(self, snapshot: Snapshot, view: View, escaping: str) -> Page:
        """Return the page for a snapshot."""
        key = (escaping, view.namespace, view.labels)
        page = self._pages.get(key)
        if page is None or not page.fits(snapshot):
            with self._lock:
                page = self._pages.get(key)
                if page is None or not page.fits(snapshot):
                    last = self._pages.pop(key, None)  # so that an interruption leaves no half-extended page
                    page = (last and last.grown(snapshot)) or Page(snapshot, Namer(snapshot.system, *key))
                    self._pages[key] = page
        return page
