"""Reading: from the block to prometheus_client's samples, in any registry.

A scrape reads the block once: the registry's ``collect`` is a `Scrape`, and everything collected
within takes its values from there.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import REGISTRY, CollectorRegistry
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

from ...series import Distribution, Labels, Value
from .family import ClientFamily, name_of, state_number
from .internals import metrics, multiprocess
from .reading import Line, Reading
from .storage import MetricStore

_scrape: ContextVar[Scrape | None] = ContextVar("shmstats_scrape", default=None)

#: Whether the application itself looks at the metrics, so that they need not be saved before.
looking: ContextVar[bool] = ContextVar("shmstats_looking", default=False)


class Scrape:
    """The content of one scrape.

    Args:
        store: read once, when something needs it.
        registry: the one that is collected.
        names: the requested ones; None for all.
    """

    def __init__(self, store: MetricStore, registry: CollectorRegistry, names: Container[str] | None = None) -> None:
        self.registry = registry
        self._store = store
        self._names = names
        self._reading: Reading | None = None
        self._shown: set[str] = set()

    @property
    def reading(self) -> Reading:
        """The values; before they are read, the functions of the requested gauges are called."""
        if self._reading is None:
            functions = self._store.functions
            functions.refresh_everywhere([metric for metric in functions.metrics() if self._wants(metric)])
            self._reading = self._store.read(exposed=not looking.get())
        return self._reading

    def _wants(self, metric: str) -> bool:
        """Tell whether a gauge is requested, by its metric of the block."""
        if self._names is not None and name_of(metric) not in self._names:
            return False
        collectors = list(self.registry._collector_to_names)
        if any(is_collector_of_all(each) or _shows(each, metric) for each in collectors):
            return True
        return self.registry is REGISTRY and self._store.is_of_default_registry(metric)

    def follow(self, metrics: Iterable[Metric]) -> Iterator[Metric]:
        """Iterate over collected metrics, with this scrape active while the next one is made."""
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
        """Give the metrics of the default registry that only other processes have made so far."""
        for family, lines in self.reading.families.values():
            if family.default and not self._has(family) and self._store.is_current(family):
                yield from rendered(self._store, self.reading, family, lines)

    def _has(self, family: ClientFamily) -> bool:
        """Tell whether the registry itself has, or had, a family: its own, or that of another collector."""
        if self._store.knows(family):
            return True
        collector = self.registry._names_to_collectors.get(family.name)
        own = _family_of(collector)
        return collector is not None and (own is None or own.key == family.key or own.key in self.reading.families)

    def changed(self) -> Iterator[Metric]:
        """Give the registry's metrics that newer processes have declared with other names on the page."""
        for collector, names in list(self.registry._collector_to_names.items()):
            own = _family_of(collector)
            if own is None or own.key not in self.reading.families or any(map(self._is_asked_for, names)):
                continue
            family, lines = self.reading.families[own.key]
            yield from rendered(self._store, self.reading, family, lines)

    def _is_asked_for(self, name: str) -> bool:
        return self._names is None or name in self._names

    def takes(self, family: ClientFamily) -> bool:
        """Tell whether a family shares no name with one already shown; it counts as shown from now on."""
        if self._shown & family.exposed:
            return False
        self._shown |= family.exposed
        return True


class BlockCollector:
    """Collects every metric that any process has put on the block: prometheus_client's and those of its users.

    It can be registered in any number of registries, beside other collectors. It leaves out metrics that the same
    registry has itself. Of several metrics that share names it shows the first.

    Args:
        store: to read; None if statistics are disabled.
    """

    def __init__(self, store: MetricStore | None) -> None:
        self._store = store

    def describe(self) -> list[Metric]:
        """Return nothing: the metrics may change at any time, and clash with nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Give the metrics."""
        return iter(()) if self._store is None else collect_all(self._store, self)


def is_collector_of_all(collector: object) -> bool:
    """Tell whether a collector shows everything that is on the block."""
    return isinstance(collector, BlockCollector | multiprocess.MultiProcessCollector)


def collect_all(store: MetricStore, collector: object) -> Iterator[Metric]:
    """Give all metrics, except those that the scraped registry has from other collectors."""
    scrape = _scrape.get()
    reading = _read(store) if scrape is None else scrape.reading
    taken: Mapping[str, object] = {} if scrape is None else scrape.registry._names_to_collectors
    shown: set[str] = set()
    for family, lines in sorted(reading.families.values(), key=lambda found: found[0].instance):
        if taken.get(family.name, collector) is not collector or not store.is_current(family):
            continue
        if shown & family.exposed and family.instance:
            store.tell(
                f"prometheus_client's metric {family.name!r} is in several registries of the application: a collector"
                " of all metrics shows the first of them only"
            )
        if shown & family.exposed:
            continue
        shown |= family.exposed
        yield from rendered(store, reading, family, lines)


def collect_one(store: MetricStore, metric: Any) -> list[Metric]:
    """Return the current state of a metric of this process, from the block."""
    own: ClientFamily = metric._family
    scrape = _scrape.get()
    reading = _read(store, own.metric) if scrape is None else scrape.reading
    found = reading.families.get(own.key)
    if found is None and any(family.exposed & own.exposed for family, _ in reading.families.values()):
        return []  # newer processes have replaced it by another metric
    family, lines = found or (own, [])
    return list(rendered(store, reading, family, lines))


def samples_of(store: MetricStore, own: ClientFamily, labels: Labels | None = None) -> list[Sample]:
    """Return the samples of a family, with their suffixes as names.

    Args:
        store: to read, unless a scrape is active.
        own: the family.
        labels: of one series, to get only its samples, without these labels; None for all.
    """
    scrape = _scrape.get()
    reading = _read(store, own.metric) if scrape is None else scrape.reading
    if own.key not in reading.families:
        return []
    family, lines = reading.families[own.key]
    if labels is None:
        return [sample for line in lines for sample in _SAMPLES[family.type](reading, family, line)]
    given = set(labels)
    return [
        sample._replace(labels={key: value for key, value in sample.labels.items() if (key, value) not in given})
        for line in lines
        if given <= set(line.labels)
        for sample in _SAMPLES[family.type](reading, family, line)
    ]


def _read(store: MetricStore, metric: str | None = None) -> Reading:
    """Read the block, outside of a scrape: one metric, or all."""
    store.functions.refresh_everywhere([each for each in store.functions.metrics() if metric in (None, each)])
    return store.read()


def _family_of(collector: object) -> ClientFamily | None:
    """Return the family that a collector shows; None if it is not a metric on the block."""
    return vars(collector).get("_family") if hasattr(collector, "__dict__") else None


def _shows(collector: object, metric: str) -> bool:
    family = _family_of(collector)
    return family is not None and family.metric == metric


def rendered(store: MetricStore, reading: Reading, family: ClientFamily, lines: list[Line]) -> Iterator[Metric]:
    """Give a family as a metric of prometheus_client; nothing if that fails, which is logged and counted."""
    make: Callable[..., list[Sample]] | None = _SAMPLES.get(family.type)
    scrape = _scrape.get()
    if scrape is not None and not scrape.takes(family):
        return
    try:
        if make is None:
            raise ValueError(f"there is no type {family.type!r}")
        metric = Metric(family.name, family.help, family.type, family.unit)
        metric.samples = [
            sample._replace(name=family.name + sample.name) for line in lines for sample in make(reading, family, line)
        ]
    except Exception as error:
        store.leave_out(family, error)
    else:
        yield metric


def _counter(reading: Reading, family: ClientFamily, line: Line) -> list[Sample]:
    value = float(_number(reading, line.value))
    if line.fraction >= 0:
        value += _distribution(reading, line.fraction).sum
    samples = [Sample("_total", dict(line.labels), value, None, _exemplar(reading.note(family, line), ""))]
    return samples + _created(line)


def _gauge(reading: Reading, family: ClientFamily, line: Line) -> list[Sample]:
    labels = dict(line.labels)
    if len(labels) < len(line.labels):  # the gauge has its own label ``pid``
        *own, (_, pid) = line.labels
        labels = {**dict(own), "worker_pid": pid}
    return [Sample("", labels, float(_number(reading, line.value)))]


def _summary(reading: Reading, family: ClientFamily, line: Line) -> list[Sample]:
    value = _distribution(reading, line.value)
    return [
        Sample("_count", dict(line.labels), float(value.count)),
        Sample("_sum", dict(line.labels), _sum(value)),
        *_created(line),
    ]


def _histogram(reading: Reading, family: ClientFamily, line: Line) -> list[Sample]:
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
    return samples + _created(line)


def _info(reading: Reading, family: ClientFamily, line: Line) -> list[Sample]:
    return [Sample("_info", {**dict(line.labels), **reading.note(family, line)}, 1.0)]


def _stateset(reading: Reading, family: ClientFamily, line: Line) -> list[Sample]:
    number = _number(reading, line.value)
    # One that was never set is in its first state, as in prometheus_client; 0 means no state.
    current = number or state_number(family.states[0])
    return [
        Sample("", {**dict(line.labels), family.name: state}, 1.0 if state_number(state) == current else 0.0)
        for state in family.states
    ]


_SAMPLES = {
    "counter": _counter,
    "gauge": _gauge,
    "summary": _summary,
    "histogram": _histogram,
    "info": _info,
    "stateset": _stateset,
}


def _created(line: Line) -> list[Sample]:
    if not line.created or not metrics._use_created:
        return []
    return [Sample("_created", dict(line.labels), line.created / 10**9)]


def _number(reading: Reading, position: int) -> int | float:
    value: Value = reading.values[position]
    if isinstance(value, Distribution):
        raise TypeError("its value is a distribution, not a number")
    return value


def _distribution(reading: Reading, position: int) -> Distribution:
    value: Value = reading.values[position]
    if not isinstance(value, Distribution):
        raise TypeError("its value is a number, not a distribution")
    return value


def _sum(value: Distribution) -> float:
    """Return the sum of observations: the block stops at the largest float, where floats become infinite."""
    if abs(value.sum) < sys.float_info.max:
        return value.sum
    return math.copysign(math.inf, value.sum)


def _exemplar(note: Mapping[str, Any], limit: str) -> Exemplar | None:
    fields = note.get(limit)
    return None if fields is None else Exemplar(*fields)
