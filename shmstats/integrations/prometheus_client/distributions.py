"""Histogram and Summary on the block: their parts belong together, and prometheus_client has a value for each."""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable
from typing import Any

from prometheus_client.utils import INF

from .internals import metrics
from .on_block import begin, labels_of, put, put_on_block
from .storage import MetricStore
from .values import DistributionValue


class _Figure:
    """A part of a distribution, to be read as one of prometheus_client's values."""

    _multiprocess = True

    def __init__(self, get: Callable[[], float]) -> None:
        self.get = get


def _sum_of(distribution: DistributionValue) -> _Figure:
    return _Figure(lambda: distribution.get().sum)


def _count_of(distribution: DistributionValue) -> _Figure:
    return _Figure(lambda: float(distribution.get().count))


def _bucket_of(distribution: DistributionValue, number: int) -> _Figure:
    return _Figure(lambda: float(distribution.get().buckets[number]))


class _BucketFigures:
    """The buckets of a histogram as prometheus_client's list of values, made when they are looked at."""

    def __init__(self, distribution: DistributionValue) -> None:
        self._distribution = distribution

    def __len__(self) -> int:
        return len(self._distribution.family.bounds) + 1

    def __getitem__(self, number: int) -> _Figure:
        return _bucket_of(self._distribution, range(len(self))[number])


def use_distribution(metric: Any, distribution: DistributionValue) -> None:
    """Have a metric count into a distribution."""
    metric._distribution = distribution
    metric._sum = _sum_of(distribution)
    if metric._type == "histogram":
        metric._buckets = _BucketFigures(distribution)
    else:
        metric._count = _count_of(distribution)


def patch_distributions(store: MetricStore) -> None:
    """Have histograms and summaries that will be made on the block."""
    histogram, summary = metrics.Histogram, metrics.Summary
    original_observe = {cls: cls.observe for cls in (histogram, summary)}

    def distribution_init(self: Any) -> None:
        self._created = time.time()
        value = DistributionValue(store, self._family, labels_of(self))
        use_distribution(self, value)
        begin(store, self, value)

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
        put_on_block(cls, "_metric_init", distribution_init)
        put(cls, "observe", observe)
