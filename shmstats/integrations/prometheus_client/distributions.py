"""Histogram and Summary on the block: their parts are one value there, where prometheus_client has several."""

from __future__ import annotations

import bisect
import time
from typing import Any

from prometheus_client.utils import INF

from .family import CATEGORY
from .internals import metrics
from .on_block import begin, labels_of, put, put_beginning
from .values import DistributionValue


class _Figure:
    """A part of a distribution, in the form of one of prometheus_client's values.

    Args:
        distribution: the whole.
        part: "sum", "count", or the number of a bucket.
    """

    __slots__ = ("_distribution", "_part")

    _multiprocess = True

    def __init__(self, distribution: DistributionValue, part: str | int) -> None:
        self._distribution = distribution
        self._part = part

    def get(self) -> float:
        """Return its current value."""
        found = self._distribution.get()
        return float(found.buckets[self._part] if isinstance(self._part, int) else getattr(found, self._part))


class _BucketFigures:
    """The buckets of a histogram as prometheus_client's list of values, made when they are used."""

    __slots__ = ("_distribution",)

    def __init__(self, distribution: DistributionValue) -> None:
        self._distribution = distribution

    def __len__(self) -> int:
        return len(self._distribution.family.bounds) + 1

    def __getitem__(self, number: int) -> _Figure:
        return _Figure(self._distribution, range(len(self))[number])


def use_distribution(metric: Any, distribution: DistributionValue) -> None:
    """Make a metric count into a distribution."""
    metric._distribution = distribution
    metric._sum = _Figure(distribution, "sum")
    if metric._type == "histogram":
        metric._buckets = _BucketFigures(distribution)
    else:
        metric._count = _Figure(distribution, "count")


def patch_distributions() -> None:
    """Put histograms and summaries that will be made on the block."""
    histogram, summary = metrics.Histogram, metrics.Summary
    original_observe = {cls: cls.observe for cls in (histogram, summary)}

    def distribution_init(self: Any) -> None:
        recorder = self._recorder
        self._created = time.time()
        value = DistributionValue(recorder, CATEGORY, recorder.metric, labels_of(self))
        use_distribution(self, value)
        begin(self, value)

    def observe_histogram(self: Any, amount: float, exemplar: dict[str, str] | None = None) -> None:
        self._raise_if_not_observable()
        distribution = self.__dict__.get("_distribution")
        if distribution is None:
            original_observe[histogram](self, amount, exemplar)
            return
        distribution.observe(amount)
        if exemplar:
            metrics._validate_exemplar(exemplar)
            bounds = distribution.family.bounds
            limit = metrics.floatToGoString([*bounds, INF][bisect.bisect_left(bounds, amount)])
            distribution.set_exemplar(limit, (exemplar, amount, time.time()))

    def observe_summary(self: Any, amount: float) -> None:
        self._raise_if_not_observable()
        distribution = self.__dict__.get("_distribution")
        if distribution is None:
            original_observe[summary](self, amount)
        else:
            distribution.observe(amount)

    for cls, observe in ((histogram, observe_histogram), (summary, observe_summary)):
        put_beginning(cls, distribution_init)
        put(cls, "observe", observe)
