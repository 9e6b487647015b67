"""Samples: a snapshot as flat numbers with Prometheus names and labels, for remote write and text import.

Names, labels and bounds are those of the page that is scraped. What follows from the names is made once, and
extended when names are only added.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shmstats.export.naming import FOREIGN, SYSTEM_FIGURES, Namer, is_time
from shmstats.export.prometheus import bound_text
from shmstats.series import Distribution, Kind, Labels, Name, Snapshot


class SampleName(NamedTuple):
    """The identity of one number.

    Attributes:
        name: with the suffix of its family's type.
        labels: sorted by name, none of them empty, the common ones among them.
    """

    name: str
    labels: Labels


class Samples:
    """The samples of a sequence of snapshots. To be used by one thread.

    Args:
        common: labels of every sample; a series' own label of such a name gets ``exported_`` before it.
        info: further labels of ``target_info``, a sample of the value 1 that describes the sender.

    Attributes:
        names: of the samples of the last snapshot, in the order of `values`.
        live: positions of those that end with the last worker.
    """

    def __init__(self, common: Mapping[str, str], info: Mapping[str, str]) -> None:
        self._common = dict(common)
        self._info = dict(info)
        self._seen: Sequence[Name] | None = None
        self._start(())

    def _start(self, system: tuple[str, ...]) -> None:
        self._namer = Namer(system)
        self._system = system
        self._divisors = [SYSTEM_FIGURES[key].divisor if key in SYSTEM_FIGURES else 1 for key in system]
        self._known: list[Name] = []
        self._numbers: list[int] = []
        self._places: list[int] = []
        self._times: list[int] = []
        self._histograms: list[_Histogram] = []
        self.live: list[int] = []
        self.names = [SampleName("target_info", self._labels(tuple(self._info.items())))]
        self.names += [
            SampleName(series.family.exposed_name, self._labels(series.labels)) for series in self._namer.system
        ]

    def follow(self, snapshot: Snapshot) -> bool:
        """Take the names of a snapshot; return whether they differ from those of the last one."""
        system = tuple(snapshot.system)
        if self._seen is snapshot.names and self._system == system:
            return False
        self._seen = None
        names = list(snapshot.names)
        if self._system != system or names[: len(self._known)] != self._known:
            self._start(system)
        for i in range(len(self._known), len(names)):
            self._add(i, names[i])
        self._known = names
        self._seen = snapshot.names
        return True

    def values(self, snapshot: Snapshot) -> NDArray[np.float64]:
        """Return the numbers of the snapshot that was followed last.

        Raises:
            ValueError: a histogram's value has not one bucket more than its name has bounds.
        """
        values: list[Any] = list(snapshot.values)
        for i in self._times:
            values[i] /= 1_000_000
        numbers = np.empty(len(self.names))
        numbers[0] = 1.0
        system = zip(snapshot.system.values(), self._divisors, strict=True)
        numbers[1 : 1 + len(self._system)] = [figure / divisor for figure, divisor in system]
        numbers[self._places] = [values[i] for i in self._numbers]
        for histogram in self._histograms:
            histogram.fill(numbers, values[histogram.index])
        return numbers

    def _add(self, i: int, name: Name) -> None:
        if name.category in FOREIGN:
            return
        series = self._namer.add(name)
        place = len(self.names)
        labels = self._labels(series.labels)
        if name.kind is Kind.HISTOGRAM:
            histogram = _Histogram(i, place, name)
            self._histograms.append(histogram)
            self.names += histogram.names(series.family.exposed_name, labels)
            return
        self._numbers.append(i)
        self._places.append(place)
        self.names.append(SampleName(series.family.exposed_name, labels))
        if name.kind is Kind.TIMESTAMP:
            self._times.append(i)
        if name.mode.live:
            self.live.append(place)

    def _labels(self, own: Labels) -> Labels:
        labels = {f"exported_{name}" if name in self._common else name: value for name, value in own if value}
        return tuple(sorted((labels | self._common).items()))


class _Histogram:
    """The samples of one histogram: cumulative buckets, sum and count."""

    __slots__ = ("_bounds", "_divisor", "_end", "_kept", "_limits", "index", "place")

    def __init__(self, index: int, place: int, name: Name) -> None:
        self.index = index
        self.place = place
        self._bounds = len(name.bounds)
        self._divisor = 1000 if is_time(name.unit) else 1
        # Bounds that are the same when divided are one bucket: the later one, being cumulative, has it all.
        limits = {bound_text(bound, self._divisor): i for i, bound in enumerate(name.bounds)}
        limits["+Inf"] = self._bounds
        self._limits = list(limits)
        self._kept = operator.itemgetter(*limits.values(), self._bounds)
        self._end = place + len(limits) + 2

    def names(self, family: str, labels: Labels) -> list[SampleName]:
        buckets = [SampleName(f"{family}_bucket", tuple(sorted((*labels, ("le", limit))))) for limit in self._limits]
        return [*buckets, SampleName(f"{family}_count", labels), SampleName(f"{family}_sum", labels)]

    def fill(self, numbers: NDArray[np.float64], value: Distribution) -> None:
        if len(value.buckets) != self._bounds + 1:
            raise ValueError(f"a histogram of {self._bounds} bounds has {len(value.buckets)} buckets")
        cumulative = list(itertools.accumulate(value.buckets))
        numbers[self.place : self._end] = (*self._kept(cumulative), value.sum / self._divisor)
