"""The way back: from the block to prometheus_client's samples, in any registry.

All that one scrape shows is read once: the registry's ``collect`` is a `Scrape`, and whatever is collected
within takes its numbers from there.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from prometheus_client import metrics
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import CollectorRegistry
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

from ...series import Distribution, Labels, Value
from .family import Family
from .reading import Line, Reading
from .storage import Storage

_scrape: ContextVar[Scrape | None] = ContextVar("shmstats_scrape", default=None)


class Scrape:
    """Everything that one scrape shows.

    Args:
        storage: to read, once, when something asks for it.
        registry: that is collected.
    """

    def __init__(self, storage: Storage, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._storage = storage
        self._reading: Reading | None = None

    @property
    def reading(self) -> Reading:
        """What is read."""
        if self._reading is None:
            self._reading = self._storage.read()
        return self._reading

    def follow(self, metrics: Iterable[Metric]) -> Iterator[Metric]:
        """Go through what is collected, with this scrape in force while the next one is made."""
        iterator = iter(metrics)
        while True:
            token = _scrape.set(self)
            try:
                metric = next(iterator, None)
            finally:
                _scrape.reset(token)
            if metric is None:
                return
            yield metric

    def rest(self) -> Iterator[Metric]:
        """Go through the metrics of the default registry that only other processes have made so far."""
        for name, (family, lines) in self.reading.families.items():
            if family.default and self._storage.family(name) is None and self._storage.is_current(family):
                yield _metric(self.reading, family, lines)


class BlockCollector:
    """Collects every metric that any process has put on the block: prometheus_client's and those of its users.

    It can be registered in any number of registries, beside any other collectors. Metrics that the same
    registry has by themselves are left to them.

    Args:
        storage: to read; None where statistics are disabled.
    """

    def __init__(self, storage: Storage | None) -> None:
        self._storage = storage

    def describe(self) -> list[Metric]:
        """Return nothing: what there is may change at any time, and clashes with nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Go through the metrics."""
        return iter(()) if self._storage is None else collect_all(self._storage, self)


def collect_all(storage: Storage, collector: object) -> Iterator[Metric]:
    """Go through all metrics, but for those that the registry which is scraped has from other collectors."""
    scrape = _scrape.get()
    reading = storage.read() if scrape is None else scrape.reading
    taken: Mapping[str, object] = {} if scrape is None else scrape.registry._names_to_collectors
    for name, (family, lines) in reading.families.items():
        if taken.get(name, collector) is collector and storage.is_current(family):
            yield _metric(reading, family, lines)


def samples_of(storage: Storage, name: str, labels: Labels | None = None) -> list[Sample]:
    """Return the samples of a family, with the suffix as their name.

    Args:
        storage: to read, where nothing is being scraped.
        name: of the family.
        labels: of one series, for its samples alone and without these labels; None for all.
    """
    scrape = _scrape.get()
    reading = storage.read() if scrape is None else scrape.reading
    if name not in reading.families:
        return []
    family, lines = reading.families[name]
    if labels is None:
        return [sample for line in lines for sample in _SAMPLES[family.type](reading, family, line)]
    own = set(labels)
    return [
        sample._replace(labels={key: value for key, value in sample.labels.items() if (key, value) not in own})
        for line in lines
        if own <= set(line.labels)
        for sample in _SAMPLES[family.type](reading, family, line)
    ]


def _metric(reading: Reading, family: Family, lines: list[Line]) -> Metric:
    metric = Metric(family.name, family.help, family.type, family.unit)
    make = _SAMPLES[family.type]
    metric.samples = [
        sample._replace(name=family.name + sample.name) for line in lines for sample in make(reading, family, line)
    ]
    return metric


def _counter(reading: Reading, family: Family, line: Line) -> list[Sample]:
    value = float(_number(reading, line.value))
    if line.fraction >= 0:
        value += _distribution(reading, line.fraction).sum
    samples = [Sample("_total", dict(line.labels), value, None, _exemplar(reading.note(family, line), ""))]
    return samples + _created(reading, line)


def _gauge(reading: Reading, family: Family, line: Line) -> list[Sample]:
    labels = dict(line.labels)
    if len(labels) < len(line.labels):  # the gauge has a label ``pid`` of its own
        *own, (_, pid) = line.labels
        labels = {**dict(own), "worker_pid": pid}
    return [Sample("", labels, float(_number(reading, line.value)))]


def _summary(reading: Reading, family: Family, line: Line) -> list[Sample]:
    value = _distribution(reading, line.value)
    return [
        Sample("_count", dict(line.labels), float(value.count)),
        Sample("_sum", dict(line.labels), _sum(value)),
        *_created(reading, line),
    ]


def _histogram(reading: Reading, family: Family, line: Line) -> list[Sample]:
    value = _distribution(reading, line.value)
    note = reading.note(family, line)
    limits = [*map(floatToGoString, family.bounds), "+Inf"]
    samples = [
        Sample("_bucket", {**dict(line.labels), "le": limit}, float(count), None, _exemplar(note, limit))
        for limit, count in zip(limits, itertools.accumulate(value.buckets), strict=True)
    ]
    if not family.bounds or family.bounds[0] >= 0:
        # OpenMetrics forbids a sum where there are negative buckets, and a count without a sum.
        samples.append(Sample("_count", dict(line.labels), float(value.count)))
        samples.append(Sample("_sum", dict(line.labels), _sum(value)))
    return samples + _created(reading, line)


def _info(reading: Reading, family: Family, line: Line) -> list[Sample]:
    return [Sample("_info", {**dict(line.labels), **reading.note(family, line)}, 1.0)]


def _stateset(reading: Reading, family: Family, line: Line) -> list[Sample]:
    current = _number(reading, line.value)
    return [
        Sample("", {**dict(line.labels), family.name: state}, 1.0 if number == current else 0.0)
        for number, state in enumerate(family.states)
    ]


_SAMPLES = {
    "counter": _counter,
    "gauge": _gauge,
    "summary": _summary,
    "histogram": _histogram,
    "info": _info,
    "stateset": _stateset,
}


def _created(reading: Reading, line: Line) -> list[Sample]:
    if line.created < 0 or not metrics._use_created:
        return []
    return [Sample("_created", dict(line.labels), float(_number(reading, line.created)))]


def _number(reading: Reading, position: int) -> int | float:
    value: Value = reading.values[position]
    assert not isinstance(value, Distribution)
    return value


def _distribution(reading: Reading, position: int) -> Distribution:
    value: Value = reading.values[position]
    assert isinstance(value, Distribution)
    return value


def _sum(value: Distribution) -> float:
    """Return the sum of observations: the block ends at the largest float, where floats go on to infinity."""
    if abs(value.sum) < sys.float_info.max:
        return value.sum
    return math.copysign(math.inf, value.sum)


def _exemplar(note: Mapping[str, Any], limit: str) -> Exemplar | None:
    fields = note.get(limit)
    return None if fields is None else Exemplar(*fields)
