"""Samples: a snapshot as flat numbers with Prometheus names and labels, for remote write and text import.

Names, labels and bounds are those of the scraped page. What follows from the names is made once, and
extended if names are only added.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmstats.export.page import Member, Page, Pages
from shmstats.export.prometheus import text_limits
from shmstats.export.view import View
from shmstats.frozen import NamedTuple
from shmstats.series import Distribution, Kind, Labels, Name, Snapshot


class SampleName(NamedTuple):
    """The identity of one number.

    Attributes:
        name: with the suffix of its family's type.
        labels: sorted by name, none of them empty.
    """

    name: str
    labels: Labels


class Samples:
    """The samples of a sequence of snapshots. For use by one thread.

    Args:
        view: with the labels of every sample; a series' own label of the same name gets the prefix ``exported_``.
        info: further labels of ``target_info``, a sample of the value 1 that describes the sender.

    Attributes:
        names: of the samples of the last snapshot, in the order of `values`.
        live: positions of the samples that end with the last worker.
    """

    def __init__(self, view: View, info: Mapping[str, str]) -> None:
        self._view = view
        self._info = SampleName("target_info", _sorted((*view.labels, *info.items())))
        self._pages = Pages()
        self._page: Page | None = None
        self._start()

    def _start(self) -> None:
        self.names = [self._info]
        self.live: list[int] = []
        self._own: list[Member] = []
        self._own_samples = 1
        self._numbers: list[int] = []
        self._places: list[int] = []
        self._times: list[int] = []
        self._histograms: list[_HistogramSamples] = []

    def follow(self, snapshot: Snapshot) -> bool:
        """Adopt the names of a snapshot; return whether they differ from those of the last one."""
        page = self._pages.of(snapshot, self._view, "underscores")
        if page is self._page:
            return False
        self._page = None
        if page.members[: len(self._own)] != self._own:
            self._start()
        del self.names[self._own_samples :]
        for member in page.members[len(self._own) : page.own]:
            self._add(member)
        self._own = page.members[: page.own]
        self._own_samples = len(self.names)
        self._figures = [member.position for member in page.members[page.own :]]
        self.names += [_name(member) for member in page.members[page.own :]]
        self._page = page
        return True

    def values(self, snapshot: Snapshot) -> NDArray[np.float64]:
        """Return the numbers of the snapshot whose names were adopted last.

        Raises:
            ValueError: the number of a histogram's buckets is not one more than its name's bounds.
        """
        assert self._page is not None
        values: list[Any] = self._page.values(snapshot)
        for i in self._times:
            values[i] /= 1_000_000
        numbers = np.empty(len(self.names))
        numbers[0] = 1.0
        numbers[self._own_samples :] = [values[i] for i in self._figures]
        numbers[self._places] = [values[i] for i in self._numbers]
        for histogram in self._histograms:
            histogram.fill(numbers, values[histogram.index])
        return numbers

    def _add(self, member: Member) -> None:
        place = len(self.names)
        if member.name.kind is Kind.HISTOGRAM:
            histogram = _HistogramSamples(member.position, place, member.name)
            self._histograms.append(histogram)
            self.names += histogram.names(_name(member))
            return
        self._numbers.append(member.position)
        self._places.append(place)
        self.names.append(_name(member))
        if member.name.kind is Kind.TIMESTAMP:
            self._times.append(member.position)
        if member.name.mode.live:
            self.live.append(place)


class _HistogramSamples:
    """The samples of one histogram: cumulative buckets, sum and count."""

    __slots__ = ("_bounds", "_divisor", "_end", "_kept", "_limits", "index", "place")

    def __init__(self, index: int, place: int, name: Name) -> None:
        self.index = index
        self.place = place
        self._bounds = len(name.bounds)
        self._divisor, limits = text_limits(name)
        self._limits = list(limits)
        self._kept = operator.itemgetter(*limits.values(), self._bounds)
        self._end = place + len(limits) + 2

    def names(self, plain: SampleName) -> list[SampleName]:
        family, labels = plain
        buckets = [SampleName(f"{family}_bucket", _sorted((*labels, ("le", limit)))) for limit in self._limits]
        return [*buckets, SampleName(f"{family}_count", labels), SampleName(f"{family}_sum", labels)]

    def fill(self, numbers: NDArray[np.float64], value: Distribution) -> None:
        if len(value.buckets) != self._bounds + 1:
            raise ValueError(f"a histogram of {self._bounds} bounds has {len(value.buckets)} buckets")
        cumulative = list(itertools.accumulate(value.buckets))
        numbers[self.place : self._end] = (*self._kept(cumulative), value.sum / self._divisor)


def _name(member: Member) -> SampleName:
    return SampleName(member.series.family.exposed_name, _sorted(member.series.labels))


def _sorted(labels: Sequence[tuple[str, str]]) -> Labels:
    return tuple(sorted([pair for pair in labels if pair[1]]))
