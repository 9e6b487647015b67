"""Reading: from the block to prometheus_client's samples, in any registry.

A scrape reads the block once: the registry's ``collect`` is a `Scrape`, and everything collected
within takes its values from there.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import REGISTRY, CollectorRegistry

from . import asking
from .family import EXPOSED_SUFFIXES, ClientFamily, labels_of, name_of
from .internals import OF_ONE_PROCESS, multiprocess, original, put, registry
from .samples import SAMPLES, Line, Reading
from .storage import MetricStore

_scrape: ContextVar[Scrape | None] = ContextVar("shmstats_scrape", default=None)


class Scrape:
    """The content of one scrape.

    Args:
        store: read once, when something needs it.
        registry: the one that is collected; None if something is collected outside of any.
        names: the requested ones; None for all.
        exposed: whether others will see it: then it is saved before.
    """

    def __init__(
        self,
        store: MetricStore,
        registry: CollectorRegistry | None = None,
        names: Container[str] | None = None,
        exposed: bool = True,
    ) -> None:
        self.registry = registry
        self._store = store
        self._names = names
        self._exposed = exposed
        self._reading: Reading | None = None
        self._shown: set[str] = set()

    @property
    def reading(self) -> Reading:
        """The values; before they are read, the functions of the requested gauges are called."""
        if self._reading is None:
            functions = self._store.functions
            functions.refresh_everywhere([metric for metric in functions.metrics() if self._wants(metric)])
            self._reading = self._store.read(self._exposed)
        return self._reading

    def _wants(self, metric: str) -> bool:
        """Tell whether a gauge is requested, by its metric of the block."""
        if self._names is not None and name_of(metric) not in self._names:
            return False
        if self.registry is None:
            return True
        for collector in list(self.registry._collector_to_names):
            own = _family_of(collector)
            if is_collector_of_all(collector) or (own is not None and own.metric == metric):
                return True
        return self.registry is REGISTRY and asking.is_of_default_registry(self._store.shared, metric)

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
            self._shown.update(metric.name + suffix for suffix in ("", *EXPOSED_SUFFIXES.get(metric.type, ())))
            yield metric

    def rest(self) -> Iterator[Metric]:
        """Give the metrics of the default registry that only other processes have made so far."""
        if self.registry is not REGISTRY:
            return
        for family, lines in self.reading.families.values():
            if family.default and not self._store.knows(family) and self._store.is_current(family):
                yield from self.show_once(family, lines)

    def beside(self) -> Iterator[Metric]:
        """Give what a restricted registry does not find by the requested names.

        That is what collectors of all show, and its metrics that newer processes have declared with other names.
        """
        assert self.registry is not None
        for collector in list(self.registry._collector_to_names):
            own = _family_of(collector)
            found = self.reading.families.get(own.key) if own is not None else None
            if is_collector_of_all(collector) or (found is not None and not self.has_shown(found[0])):
                yield from collector.collect()
        yield from self.rest()

    def has_shown(self, family: ClientFamily) -> bool:
        """Tell whether a name of a family is already on the page."""
        return bool(self._shown & family.exposed)

    def show_once(self, family: ClientFamily, lines: list[Line]) -> Iterator[Metric]:
        """Give a family as `show` does, unless one of its names is already on the page."""
        if not self.has_shown(family):
            self._shown |= family.exposed
            yield from self.show(family, lines)

    def show(self, family: ClientFamily, lines: list[Line]) -> Iterator[Metric]:
        """Give a family as a metric of prometheus_client; nothing if that fails, which is logged and counted.

        It need not get onto the page: a collector of the application may use it for something else.
        """
        try:
            metric = Metric(family.name, family.help, family.type, family.unit)
            metric.samples = [
                sample._replace(name=family.name + sample.name)
                for line in lines
                for sample in SAMPLES[family.type](self.reading, family, line)
            ]
        except Exception as error:
            self._store.leave_out(family, error)
        else:
            yield metric


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
    scrape = _current(store)
    taken: Mapping[str, object] = {} if scrape.registry is None else scrape.registry._names_to_collectors
    for family, lines in sorted(scrape.reading.families.values(), key=lambda found: found[0].instance):
        if taken.get(family.name, collector) is not collector or not store.is_current(family):
            continue
        if family.instance and scrape.has_shown(family):
            store.tell(
                f"prometheus_client's metric {family.name!r} is in several registries of the application: a"
                " collector of all metrics shows the first of them only"
            )
        yield from scrape.show_once(family, lines)


def collect_one(metric: Any) -> list[Metric]:
    """Return the current state of a metric of this process, from the block; of a child, without its labels."""
    store, own = metric._recorder.store, metric._recorder.family
    scrape = _current(store, {own.name})
    families = scrape.reading.families
    found = families.get(own.key)
    if found is None and any(family.exposed & own.exposed for family, _ in families.values()):
        return []  # newer processes have replaced it by another metric
    family, lines = found or (own, [])
    if not metric._labelvalues:
        return list(scrape.show(family, lines))
    given = dict(labels_of(metric))
    shown = list(scrape.show(family, [line for line in lines if given.items() <= set(line.labels)]))
    for each in shown:
        each.samples = [
            sample._replace(labels={name: value for name, value in sample.labels.items() if name not in given})
            for sample in each.samples
        ]
    return shown


def _current(store: MetricStore, names: Container[str] | None = None) -> Scrape:
    """Return the active scrape; if something is collected outside of any, one for that, which nobody else sees."""
    return _scrape.get() or Scrape(store, names=names, exposed=False)


def _family_of(collector: object) -> ClientFamily | None:
    """Return the family that a collector shows; None if it is not a metric on the block."""
    recorder = vars(collector).get("_recorder") if hasattr(collector, "__dict__") else None
    return None if recorder is None else recorder.family


# The methods of registries and of the multiprocess mode that are replaced ------------------------------


def patch_registries(store: MetricStore) -> None:
    """Make every scrape read the block once, and show metrics that only other processes have made."""

    def collect(self: CollectorRegistry, exposed: bool = True) -> Iterator[Metric]:
        scrape = Scrape(store, self, exposed=exposed)
        yield from scrape.follow(original(collect)(self))
        yield from scrape.follow(scrape.rest())

    def collect_restricted(self: Any) -> Iterator[Metric]:
        scrape = Scrape(store, self._registry, self._name_set)
        yield from scrape.follow(original(collect_restricted)(self))
        metric: Any
        for metric in scrape.follow(scrape.beside()):
            restricted = metric._restricted_metric(self._name_set)
            if restricted:
                yield restricted

    def get_sample_value(self: CollectorRegistry, name: str, labels: dict[str, str] | None = None) -> float | None:
        samples = (sample for metric in collect(self, exposed=False) for sample in metric.samples)
        return next((each.value for each in samples if each.name == name and each.labels == (labels or {})), None)

    def init_multiprocess(self: Any, registry: CollectorRegistry | None, path: str | None = None) -> None:
        if registry:
            registry.register(self)

    def collect_multiprocess(self: Any) -> Iterator[Metric]:
        return collect_all(store, self)

    def mark_process_dead(pid: int, path: str | None = None) -> None:
        # The block itself knows which processes live.
        variables = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
        if path is not None or any(os.environ.get(name) for name in variables):
            original(mark_process_dead)(pid, path)

    put(registry.CollectorRegistry, "get_sample_value", get_sample_value)
    put(registry.CollectorRegistry, "collect", collect)
    put(registry.RestrictedRegistry, "collect", collect_restricted)
    put(multiprocess.MultiProcessCollector, "__init__", init_multiprocess)
    put(multiprocess.MultiProcessCollector, "collect", collect_multiprocess)
    put(multiprocess, "mark_process_dead", mark_process_dead)
    for cls in OF_ONE_PROCESS:
        _leave_out(cls)


def _leave_out(cls: Any) -> None:
    """Make a collector of its own process's figures show nothing, because any worker may answer the next scrape.

    A ProcessCollector with a given pid shows that process, whichever worker answers.
    """

    def collect(self: Any) -> Iterable[Metric]:
        pid = vars(self).get("_pid")
        chosen = pid is not None and pid() not in ("self", os.getpid())
        found: Iterable[Metric] = original(collect)(self) if chosen else ()
        return found

    put(cls, "collect", collect)
