"""The values of prometheus_client's metrics, as its own value classes are, but kept in the shared block.

Each holds a handle of the core, which adds in one call of C, and is the handle's recorder: what that cannot
do at once (it is not bound yet, an amount is no integer) comes back here.
"""

from __future__ import annotations

import json
import math
import operator
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ... import series as core
from ...attachment.slow_path import SharedProvider
from ...core import Counter, Gauge, Histogram, Series
from ...layout import INT64_MAX
from ...series import Kind, Labels, Mode
from .family import CATEGORY, KINDS, ClientFamily, state_number
from .storage import ExemplarFields, MetricStore


class _Kept:
    """What is kept in one series: the recorder of its handle."""

    __slots__ = ("__weakref__", "_registrar", "_store", "family", "series")

    series: Series

    def __init__(self, store: MetricStore, family: ClientFamily) -> None:
        self._store = store
        self._registrar = store.registrar
        self.family = family

    def register(self) -> None:
        """Have the series there, or the overflow set."""
        if self._store.shared is not None:
            self._store.shared.register(self.series, KINDS[self.family.type])


class CounterValue(_Kept):
    """The value of a Counter: an integer, and beside it, if it was ever counted in parts of 1, the fractions.

    Args:
        store: of it.
        family: of the counter.
        labels: of the series.
    """

    __slots__ = ("_fraction", "inc")

    _multiprocess = True

    def __init__(self, store: MetricStore, family: ClientFamily, labels: Labels) -> None:
        _Kept.__init__(self, store, family)
        counter = Counter(self, CATEGORY, family.metric, labels)
        self.series = counter
        self.inc = counter.incr
        self._fraction: Histogram | None = None

    def register(self) -> None:
        """Have the series there, or the overflow set."""
        self.inc(0)

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Set the sum over all workers."""
        self._store.begin_anew(self.family, self.series.labels)
        if value:
            self.inc(value)  # type: ignore[arg-type]

    def get(self) -> float:
        """Return the sum over all workers."""
        whole = self._store.value(self.family.metric, self.series.labels, Kind.COUNTER)
        parts = self._store.value(self.family.fraction, self.series.labels, Kind.HISTOGRAM)
        assert not isinstance(whole, core.Distribution)
        return whole + (parts.sum if isinstance(parts, core.Distribution) else 0.0)

    def set_exemplar(self, exemplar: ExemplarFields) -> None:
        """Keep an exemplar."""
        self._store.add_exemplar(self.series, "", exemplar)

    def get_exemplar(self) -> None:
        """Return nothing: exemplars are read with everything else."""

    def _count_series(self, sign: int, series: Series, amount: Any) -> None:
        shared = self._store.shared
        if shared is None:
            return
        if hasattr(amount, "__index__"):
            shared.count(series, min(operator.index(amount), INT64_MAX))
        elif (number := float(amount)).is_integer():
            shared.count(series, min(int(number), INT64_MAX))
        elif math.isfinite(number):
            self._count_fraction(shared, number)
        else:
            self._store.tell(f"counter {self.family.name!r} cannot be increased by {number}: it was not counted")

    def _count_fraction(self, shared: SharedProvider, amount: float) -> None:
        fraction = self._fraction
        if fraction is None:
            declaration = self.family.fraction_declaration()
            shared.declare(CATEGORY, self.family.fraction, declaration)
            fraction = self._fraction = Histogram(self, CATEGORY, self.family.fraction, self.series.labels)
        fraction.observe(amount)

    def _observe_series(self, series: Series, amount: float) -> None:
        shared = self._store.shared
        if shared is not None:
            shared.observe(series, amount)


class GaugeValue(_Kept):
    """The value of a Gauge in this worker.

    Args:
        store: of it.
        family: of the gauge.
        labels: of the series.
    """

    __slots__ = ("_gauge", "inc")

    _multiprocess = True

    def __init__(self, store: MetricStore, family: ClientFamily, labels: Labels) -> None:
        super().__init__(store, family)
        self.series = self._gauge = Gauge(self, CATEGORY, family.metric, labels)
        self.inc = self._gauge.incr

    def register(self) -> None:
        """Have the series there, or the overflow set."""
        super().register()
        if self.family.mode.base is Mode.ALL:
            # Of the other modes a worker has no value before it sets one: 0 would be the smallest, or the latest.
            self.inc(0)

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Set it."""
        self._gauge.set(value)

    def get(self) -> float:
        """Return the value of this worker."""
        return self._store.own_value(self.family.metric, self.series.labels)

    def set_exemplar(self, exemplar: ExemplarFields) -> None:
        """Do nothing: gauges have none."""

    def get_exemplar(self) -> None:
        """Return nothing: gauges have none."""

    def _count_series(self, sign: int, series: Series, amount: Any) -> None:
        shared = self._store.shared
        if shared is not None:
            shared.count(series, sign * _number(amount))

    def _set_series(self, series: Series, value: Any) -> None:
        shared = self._store.shared
        if shared is not None:
            shared.set(series, _number(value))


class DistributionValue(_Kept):
    """The value of a Histogram or Summary: sum, count and buckets, of which no reader sees a part.

    Args:
        store: of it.
        family: of the metric.
        labels: of the series.
    """

    __slots__ = ("observe",)

    def __init__(self, store: MetricStore, family: ClientFamily, labels: Labels) -> None:
        super().__init__(store, family)
        histogram = Histogram(self, CATEGORY, family.metric, labels)
        self.series = histogram
        self.observe = histogram.observe

    def get(self) -> core.Distribution:
        """Return the value over all workers."""
        value = self._store.value(self.family.metric, self.series.labels, Kind.HISTOGRAM)
        nothing = core.Distribution(0.0, 0.0, (0,) * (len(self.family.bounds) + 1))
        return value if isinstance(value, core.Distribution) else nothing

    def add(self, total: float, buckets: tuple[int, ...]) -> None:
        """Add observations that were made elsewhere.

        Args:
            total: their sum.
            buckets: how many there are in each bucket.
        """
        shared = self._store.shared
        if shared is not None:
            bounds = self.family.declaration().bounds
            distribution = core.Distribution(total, _least_maximum(total, buckets, bounds), buckets)
            shared.add_distribution(self.series, distribution, bounds)

    def set_exemplar(self, limit: str, exemplar: ExemplarFields) -> None:
        """Keep an exemplar of a bucket."""
        self._store.add_exemplar(self.series, limit, exemplar)

    def _observe_series(self, series: Series, value: Any) -> None:
        number = float(value)
        shared = self._store.shared
        if math.isnan(number):
            self._store.tell(f"{self.family.type} {self.family.name!r} was given NaN, which is not observed")
        elif shared is not None:
            # An infinite one leaves the sum a number: it is saved, and shown in JSON.
            shared.observe(series, min(max(number, -sys.float_info.max), sys.float_info.max))


class StateValue(_Kept):
    """The state of an Enum, or the labels of an Info: the last that any worker has set.

    Args:
        store: of it.
        family: of the metric.
        labels: of the series.
    """

    __slots__ = ("_gauge",)

    def __init__(self, store: MetricStore, family: ClientFamily, labels: Labels) -> None:
        super().__init__(store, family)
        self.series = self._gauge = Gauge(self, CATEGORY, family.metric, labels)

    def set_state(self, state: str) -> None:
        """Set the state."""
        self._gauge.set(state_number(state))

    def set_labels(self, labels: Mapping[str, str]) -> None:
        """Set the labels of an Info."""
        text = json.dumps({str(name): str(value) for name, value in labels.items()}).encode()
        self._gauge.set(1)
        self._store.annotate(self.series, lambda note: text)

    def _set_series(self, series: Series, value: Any) -> None:
        shared = self._store.shared
        if shared is not None:
            shared.set(series, value)


def _least_maximum(total: float, buckets: Sequence[int], bounds: Sequence[float]) -> float:
    """Return what the largest of some observations may have been: prometheus_client does not keep it.

    That is the bound of the highest bucket that has any. What is above the last bound is not known to be any larger
    than that; but the largest observation is not smaller than the mean, and of a summary nothing else is known.
    """
    count = sum(buckets)
    if not count:
        return 0.0
    highest = max(i for i, held in enumerate(buckets) if held)
    bound, mean = bounds[min(highest, len(bounds) - 1)], total / count
    return max(bound, mean) if math.isfinite(mean) else bound


def _number(value: Any) -> int | float:
    """Return a number as a gauge holds it: any float, or an int of 64 bits."""
    if hasattr(value, "__index__"):
        number = operator.index(value)
        return number if abs(number) <= INT64_MAX else float(number)
    return float(value)
