"""The values of prometheus_client's metrics: like its own value classes, but stored in the shared block.

Each is a handle of the core, which adds in one C call. What the core cannot do at once (the handle is not bound yet,
the amount is not an integer) is done by the recorder of the family.
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
from ...block.keys import OVERFLOW
from ...core import Counter, Gauge, Histogram, Series
from ...layout import INT64_MAX
from ...series import Kind, Mode
from . import asking
from .family import CATEGORY, KINDS, ClientFamily, state_number
from .storage import ExemplarFields, MetricStore


class FamilyRecorder:
    """The recorder of the handles of one family: it does what the core cannot do at once.

    Args:
        store: the storage of the values.
        family: of the values.

    Attributes:
        metric: of the block, with the values.
        begins_at_0: whether a worker has a gauge from the start. Other gauges have no value before it is set, because
            0 would be the smallest, or the latest.
    """

    def __init__(self, store: MetricStore, family: ClientFamily) -> None:
        self.store = store
        self.family = family
        self.metric = family.metric
        self.begins_at_0 = family.mode in (Mode.ALL, Mode.LIVEALL)
        self._registrar = store.registry._registrar

    def register(self, series: Series) -> bool:
        """Create a series; returns whether it is counted in the overflow set, as there are too many label sets."""
        shared = self.store.shared
        if shared is not None:
            shared.register(series, KINDS[self.family.type])
        overflow = tuple((name, OVERFLOW) for name, _ in series.labels)
        return not asking.has(shared, self.metric, series.labels) and asking.has(shared, self.metric, overflow)

    def _count_series(self, sign: int, series: Series, amount: Any) -> None:
        shared = self.store.shared
        if shared is None:
            return
        if not isinstance(series, CounterValue):
            shared.count(series, sign * _number(amount))
        elif hasattr(amount, "__index__"):
            shared.count(series, min(operator.index(amount), INT64_MAX))
        elif (number := float(amount)).is_integer():
            shared.count(series, min(int(number), INT64_MAX))
        elif math.isfinite(number):
            self._count_fraction(shared, series, number)
        else:
            self.store.tell(f"counter {self.family.name!r} cannot be increased by {number}: it was not counted")

    def _count_fraction(self, shared: SharedProvider, series: CounterValue, amount: float) -> None:
        fraction: Histogram | None = getattr(series, "fraction", None)
        if fraction is None:
            shared.declare(CATEGORY, self.family.fraction, self.family.fraction_declaration())
            fraction = series.fraction = Histogram(self, CATEGORY, self.family.fraction, series.labels)
        fraction.observe(amount)

    def _set_series(self, series: Series, value: Any) -> None:
        if self.store.shared is not None:
            self.store.shared.set(series, _number(value))

    def _observe_series(self, series: Series, value: Any) -> None:
        number = float(value)
        shared = self.store.shared
        if math.isnan(number):
            self.store.tell(f"{self.family.type} {self.family.name!r} was given NaN, which is not observed")
        elif shared is not None:
            # An infinite observation must leave the sum a finite number, which can be saved and shown in JSON.
            shared.observe(series, min(max(number, -sys.float_info.max), sys.float_info.max))


class KeptSeries(Series):
    """A handle in the place of a value of prometheus_client. Its recorder is that of its family.

    So each label set has nothing but the handle, and no cycle that only the garbage collector could free.
    """

    __slots__ = ()

    recorder: FamilyRecorder


class CounterValue(KeptSeries, Counter):
    """The value of a Counter: an integer, and the fractions, if it was ever counted in parts of 1."""

    __slots__ = ("fraction",)

    fraction: Histogram

    inc = Counter.incr

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Set the sum over all workers."""
        self.recorder.store.begin_anew(self.recorder.family, self.labels)
        if value:
            self.inc(value)  # type: ignore[arg-type]

    def get(self) -> float:
        """Return the sum over all workers."""
        whole: int = asking.value(self.recorder.store.shared, self.metric, self.labels, Kind.COUNTER)
        parts = asking.value(self.recorder.store.shared, self.recorder.family.fraction, self.labels, Kind.HISTOGRAM)
        return whole + (parts.sum if isinstance(parts, core.Distribution) else 0.0)

    def set_exemplar(self, exemplar: ExemplarFields) -> None:
        """Keep an exemplar."""
        self.recorder.store.add_exemplar(self, "", exemplar)

    def get_exemplar(self) -> None:
        """Return nothing: exemplars are read with everything else."""


class GaugeValue(KeptSeries, Gauge):
    """The value of a Gauge in this worker."""

    __slots__ = ()

    inc = Gauge.incr

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Set it."""
        Gauge.set(self, value)

    def get(self) -> float:
        """Return the value of this worker."""
        return asking.own_value(self.recorder.store.shared, self.metric, self.labels)


class DistributionValue(KeptSeries, Histogram):
    """The value of a Histogram or Summary: sum, count and buckets, which readers always see together."""

    __slots__ = ()

    def get(self) -> core.Distribution:
        """Return the value over all workers."""
        value = asking.value(self.recorder.store.shared, self.metric, self.labels, Kind.HISTOGRAM)
        nothing = core.Distribution(0.0, 0.0, (0,) * (len(self.recorder.family.bounds) + 1))
        return value if isinstance(value, core.Distribution) else nothing

    def add(self, total: float, buckets: tuple[int, ...]) -> None:
        """Add observations made elsewhere.

        Args:
            total: their sum.
            buckets: their number in each bucket; at least one.
        """
        shared = self.recorder.store.shared
        if shared is not None:
            bounds = self.recorder.family.declaration().bounds
            distribution = core.Distribution(total, _least_maximum(total, buckets, bounds), buckets)
            shared.add_distribution(self, distribution, bounds)

    def set_exemplar(self, limit: str, exemplar: ExemplarFields) -> None:
        """Keep an exemplar of a bucket."""
        self.recorder.store.add_exemplar(self, limit, exemplar)


class DistributionPart:
    """A part of a distribution, in the form of one of prometheus_client's values.

    Args:
        distribution: the whole.
        part: "sum", "count", or the number of a bucket.
    """

    __slots__ = ("_distribution", "_part")

    def __init__(self, distribution: DistributionValue, part: str | int) -> None:
        self._distribution = distribution
        self._part = part

    def get(self) -> float:
        """Return its current value."""
        found = self._distribution.get()
        return float(found.buckets[self._part] if isinstance(self._part, int) else getattr(found, self._part))

    def get_exemplar(self) -> None:
        """Return nothing: exemplars are read with everything else."""


class BucketParts:
    """The buckets of a histogram as prometheus_client's list of values, made when they are used."""

    __slots__ = ("_distribution",)

    def __init__(self, distribution: DistributionValue) -> None:
        self._distribution = distribution

    def __len__(self) -> int:
        return len(self._distribution.recorder.family.bounds) + 1

    def __getitem__(self, number: int) -> DistributionPart:
        return DistributionPart(self._distribution, range(len(self))[number])


class StateValue(KeptSeries, Gauge):
    """The state of an Enum, or the labels of an Info: the last one that any worker has set."""

    __slots__ = ()

    def set_state(self, state: str) -> None:
        """Set the state."""
        self.set(state_number(state))

    def set_labels(self, labels: Mapping[str, str]) -> None:
        """Set the labels of an Info."""
        text = json.dumps({str(name): str(value) for name, value in labels.items()}).encode()
        self.set(1)
        self.recorder.store.annotate(self, lambda note: text)


def _least_maximum(total: float, buckets: Sequence[int], bounds: Sequence[float]) -> float:
    """Return a lower bound of the largest observation, which prometheus_client does not store.

    That is the bound of the highest non-empty bucket; above the last bound nothing more is known.
    The largest observation is also not smaller than the mean, which is all that is known of a summary.
    """
    highest = max(i for i, held in enumerate(buckets) if held)
    bound, mean = bounds[min(highest, len(bounds) - 1)], total / sum(buckets)
    return max(bound, mean) if math.isfinite(mean) else bound


def _number(value: Any) -> int | float:
    """Return a number that a gauge can hold: any float, or an int of 64 bits."""
    if hasattr(value, "__index__"):
        number = operator.index(value)
        return number if abs(number) <= INT64_MAX else float(number)
    return float(value)
