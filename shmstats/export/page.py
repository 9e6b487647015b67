"""The page: the common part of the exposition formats, which follows from the names alone.

Between two scrapes the values change, but rarely the names. So what follows from the names is made once, and kept as
long as snapshots have the same ``names`` object; if names were only added, only these are named. A page is never
altered, so that any number of threads may render at once.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from shmstats.bounds import shown_in_text
from shmstats.export.naming import FIGURES, ExposedFamily, ExposedSeries, Namer, is_time
from shmstats.export.view import View
from shmstats.frozen import NamedTuple
from shmstats.once import lazy_property
from shmstats.reading.totals import BlockNames
from shmstats.series import FOREIGN, Distribution, Exemplar, Kind, Labels, Name, Snapshot


class Member(NamedTuple):
    """A series of a page: ``values[position]`` is its value, and ``name`` its name with its declaration."""

    position: int
    series: ExposedSeries
    name: Name


class PagePart:
    """Some series of an exposition, without its format and its values."""

    def __init__(self, members: Iterable[Member]) -> None:
        self.members = list(members)

    def families(self) -> dict[ExposedFamily, list[Member]]:
        """Return the members of each family, in the order of the families' first members."""
        families: dict[ExposedFamily, list[Member]] = {}
        for member in self.members:
            families.setdefault(member.series.family, []).append(member)
        return families

    def series_of(self, name: Name) -> ExposedSeries | None:
        """Return the name of a series on the page; None if it is not there."""
        return self._series.get(name[:4])

    @lazy_property
    def _series(self) -> dict[tuple[Any, ...], ExposedSeries]:
        return {member.name[:4]: member.series for member in self.members}


class Page(PagePart):
    """An exposition without its format and its values.

    The members are the series of the snapshot, without those of other libraries, and after them those of ``system``
    and ``health``.

    Args:
        snapshot: the one that it is for.
        namer: a new one.
        former: the last page, whose namer nobody else uses; None for none.

    Attributes:
        made: what formats have derived from this page, by format.
    """

    def __init__(self, snapshot: Snapshot, namer: Namer, former: Page | None = None) -> None:
        self._names, self._namer = snapshot.names, namer
        self._figures = (*snapshot.system, *snapshot.health)
        names = list(snapshot.names)
        # Combined gauges are behind all others, also behind those that are added later.
        count = len(names) - (len(self._names.combined) if isinstance(self._names, BlockNames) else 0)
        self._listed, known = names[:count], 0
        self._own: list[Member] = []
        if former is not None and former._goes_on and self._listed[: len(former._listed)] == former._listed:
            self._namer, self._own, known = former._namer, [*former._own], len(former._listed)
        self._own += _members(self._namer, self._listed[known:], known)
        namer, described = self._namer.copy(), self._namer.descriptions()
        others = _members(namer, names[count:], count)
        super().__init__([*self._own, *others, *figure_members(namer, self._figures, len(names))])
        # A combined gauge may have described a family of others: not for the next page, where it may be gone.
        self._goes_on: bool = described == self._namer.descriptions()
        self._timestamps = [i for i, name in enumerate(names) if name.kind is Kind.TIMESTAMP]
        self.made: dict[Any, Any] = {}

    def fits(self, snapshot: Snapshot) -> bool:
        """Tell whether this is the page of a snapshot."""
        return self._names is snapshot.names and self._figures == (*snapshot.system, *snapshot.health)

    def values(self, snapshot: Snapshot) -> list[Any]:
        """Return the values at the positions of `Member.position`, figures of the system in base units."""
        return [*snapshot.values, *figure_values(snapshot)]

    def numbers(self, snapshot: Snapshot) -> list[Any]:
        """Return the same with timestamps as seconds since 1970."""
        values = self.values(snapshot)
        for i in self._timestamps:
            values[i] /= 1_000_000
        return values


def _members(namer: Namer, names: Iterable[Name], first: int) -> Iterator[Member]:
    """Give the members for the next names, without those of other libraries, with their positions from the first on."""
    for position, name in enumerate(names, first):
        if name.category != FOREIGN:
            yield Member._make((position, namer.add(name), name))


def figure_members(namer: Namer, figures: Iterable[str], first: int) -> Iterator[Member]:
    """Give the members for some of `FIGURES`, with their positions from the first one on."""
    for position, figure in enumerate(figures, first):
        yield Member(position, namer.figures[figure], Name("system", figure, Kind.GAUGE))


def figure_values(snapshot: Snapshot) -> list[int | float]:
    """Return the figures of the system and of health in base units."""
    divided = {metric: figure.divisor for metric, figure in FIGURES.items() if figure.divisor != 1}
    figures = itertools.chain(snapshot.system.items(), snapshot.health.items())
    return [value / divided[key] if key in divided else value for key, value in figures]


def is_chosen(family: ExposedFamily, chosen: frozenset[str]) -> bool:
    """Tell whether the name of a family or of its samples is among the chosen ones; without any, all are."""
    return not chosen or not chosen.isdisjoint(family.name + suffix for suffix in family.type.owned)


class Pages:
    """The last page for each spelling of names. Threads may share it, and may each make one."""

    def __init__(self) -> None:
        self._pages: dict[tuple[str, str, Labels], Page] = {}

    def of(self, snapshot: Snapshot, view: View, escaping: str) -> Page:
        """Return the page for a snapshot."""
        key = (escaping, view.namespace, view.labels)
        page = self._pages.get(key)
        if page is None or not page.fits(snapshot):
            former = self._pages.pop(key, None)  # by one thread alone: it may go on with the namer
            page = self._pages[key] = Page(snapshot, Namer(*key), former)
        return page


def text_limits(name: Name) -> tuple[int, dict[str, int]]:
    """Return the divisor of a histogram's sum, and limit and number of each bucket line."""
    divisor = 1000 if is_time(name.unit) else 1
    # Bounds that become equal by the division are one bucket: the later one, whose cumulative count includes both.
    limits = {_bound_text(name.bounds[i], divisor): i for i in shown_in_text(name.bounds)}
    limits["+Inf"] = len(name.bounds)
    return divisor, limits


class TextBuckets:
    """The buckets of a histogram as the text formats show them.

    Attributes:
        limits: of the buckets, as values of ``le``; the last one is ``+Inf``.
    """

    def __init__(self, name: Name) -> None:
        self._divisor, limits = text_limits(name)
        self.limits = tuple(limits)
        self._kept = list(limits.values())
        self._bounds = len(name.bounds)

    def figures(self, value: Distribution) -> tuple[list[int], float]:
        """Return the number of observations up to each limit, and the exported sum of all.

        Raises:
            ValueError: the number of the value's buckets is not one more than the name's bounds.
        """
        if len(value.buckets) != self._bounds + 1:
            raise ValueError(f"a histogram of {self._bounds} bounds has {len(value.buckets)} buckets")
        cumulative = list(itertools.accumulate(value.buckets))
        return [cumulative[i] for i in self._kept], value.sum / self._divisor


def _bound_text(bound: float, divisor: int) -> str:
    """Return an upper bound as a value of ``le``, in the form that OpenMetrics prescribes: 0.0001, 1.0, 1e+06.

    Both formats use it, because ``le`` is part of the identity of a series and must not depend on the format.
    """
    limit = float(Decimal(repr(float(bound))) / divisor)
    text = repr(limit)
    if math.isinf(limit):
        return "+Inf"
    if abs(limit) < 1e6 or "e" in text:
        return text
    mantissa, exponent = f"{Decimal(text).normalize():e}".split("e")
    return f"{mantissa}e{int(exponent):+03d}"


def placed_exemplars(name: Name, exemplars: tuple[Exemplar, ...]) -> Iterator[tuple[str, Labels, Exemplar, float]]:
    """Give the sample of each exemplar, as suffix and further labels, and its exported value.

    If several belong to one sample, the last one counts.
    """
    if name.kind is not Kind.HISTOGRAM:
        yield from (("", (), exemplar, exemplar.value) for exemplar in exemplars)
        return
    divisor, numbers = text_limits(name)
    for exemplar in exemplars:
        bucket = bisect.bisect_left(name.bounds, exemplar.value)
        limit = next(limit for limit, number in numbers.items() if number >= bucket)
        yield "_bucket", (("le", limit),), exemplar, exemplar.value / divisor
