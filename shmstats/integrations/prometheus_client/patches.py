"""The replacements of prometheus_client's own methods, for metrics on the block.

This module has those for all metrics, and for Counter and Gauge. It does not use ``values.ValueClass``, because
applications replace that, before or after `install`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import REGISTRY, CollectorRegistry
from prometheus_client.samples import Sample

from ...series import Labels
from .children import ClientChildren
from .collecting import collect_one, samples_of
from .distributions import patch_distributions
from .family import CATEGORY, series_labels
from .internals import metrics, values
from .on_block import begin, family_of, is_on_block, labels_of, put, put_beginning, put_on_block, use_recorder
from .states import patch_states
from .storage import MetricStore
from .values import CounterValue, FamilyRecorder, GaugeValue


def patch_metrics(store: MetricStore) -> None:
    """Put all metrics that will be made on the block."""
    for patch in (_patch_making, _patch_reading, _patch_removing, _patch_counter, _patch_gauge):
        patch(store)
    patch_distributions()
    patch_states()
    # Only classes that make their values themselves still use it; they get no files that nobody reads.
    values.ValueClass = values.MutexValue


def _not_yet() -> None:
    """Do nothing: a metric without labels has no values before it is declared."""


def _patch_making(store: MetricStore) -> None:
    base = metrics.MetricWrapperBase
    original_init = base.__init__

    def __init__(  # noqa: N807
        self: Any,
        name: str,
        documentation: str,
        labelnames: Iterable[str] = (),
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        registry: CollectorRegistry | None = REGISTRY,
        _labelvalues: Any = None,
        **more: Any,
    ) -> None:
        parts = (name, documentation, labelnames, namespace, subsystem, unit)
        if not is_on_block(self):
            original_init(self, *parts, registry, _labelvalues, **more)
            return
        self._metric_init = _not_yet
        try:
            original_init(self, *parts, None, _labelvalues, **more)
        finally:
            del self._metric_init
        if self._labelvalues:
            return  # the `ClientChildren` of its parent put it on the block
        if registry:
            registry.register(self)
        try:
            recorder = FamilyRecorder(store, family_of(store, self, registry))
            use_recorder(self, recorder)
            store.declare(recorder.family)
            if self._labelnames:
                self._metrics = ClientChildren(recorder, self._labelnames)
            else:
                self._metric_init()
        except ValueError:
            if registry:
                registry.unregister(self)
            raise

    original_labels = base.labels

    def labels(self: Any, *labelvalues: object, **labelkwargs: object) -> Any:
        children = self.__dict__.get("_metrics")
        if type(children) is not ClientChildren or labelkwargs or len(labelvalues) != len(self._labelnames):
            return original_labels(self, *labelvalues, **labelkwargs)
        given = tuple(map(str, labelvalues))
        with self._lock:
            child = children.get(given) or children.make(given)
        return original_labels(self, *given) if child is None else child

    put(base, "__init__", __init__)
    put(base, "labels", labels)


def _patch_reading(store: MetricStore) -> None:
    base = metrics.MetricWrapperBase
    original_collect, original_samples = base.collect, base._samples

    def collect(self: Any) -> Iterable[Metric]:
        if "_family" not in vars(self) or self._labelvalues:
            found: Iterable[Metric] = original_collect(self)
            return found
        return collect_one(store, self)

    def samples(self: Any) -> Iterable[Sample]:
        if "_family" not in vars(self):
            found: Iterable[Sample] = original_samples(self)
            return found
        return samples_of(store, self._family, labels_of(self) if self._labelvalues else None)

    put(base, "collect", collect)
    put(base, "_samples", samples)


def _patch_removing(store: MetricStore) -> None:
    base = metrics.MetricWrapperBase

    def remove(self: Any, *labelvalues: Any) -> None:
        _check_labelled(self)
        if len(labelvalues) != len(self._labelnames):
            raise ValueError(f"Incorrect label count (expected {len(self._labelnames)}, got {labelvalues})")
        given = tuple(map(str, labelvalues))
        with self._lock:
            self._metrics.pop(given, None)
            store.remove(self._family, series_labels(self._labelnames, given))

    def remove_by_labels(self: Any, labels: dict[str, str]) -> None:
        _check_labelled(self)
        if not isinstance(labels, dict):
            raise TypeError("labels must be a dict of {label_name: label_value}")
        unknown = [name for name in labels if name not in self._labelnames]
        if unknown:
            raise ValueError(f"Unknown label names: {unknown}; expected {self._labelnames}")
        if not labels:
            return
        wanted = series_labels(tuple(labels), map(str, labels.values()))
        with self._lock:
            for given in [each for each in self._metrics if _has(self._labelnames, each, wanted)]:
                self._metrics.pop(given, None)
            for found in store.label_sets(self._family):
                if set(wanted) <= set(found):
                    store.remove(self._family, found)

    def clear(self: Any) -> None:
        if not self._labelnames:
            return
        with self._lock:
            self._metrics.clear()
            store.remove(self._family, None)

    for name, method in (("remove", remove), ("remove_by_labels", remove_by_labels), ("clear", clear)):
        if hasattr(base, name):
            put_on_block(base, name, method)


def _check_labelled(metric: Any) -> None:
    if not metric._labelnames:
        raise ValueError(f"No label names were set when constructing {metric}")


def _has(names: tuple[str, ...], labelvalues: tuple[str, ...], wanted: Labels) -> bool:
    return set(wanted) <= set(series_labels(names, labelvalues))


def _patch_counter(store: MetricStore) -> None:
    def init(self: Any) -> None:
        recorder = self._recorder
        self._value = value = CounterValue(recorder, CATEGORY, recorder.metric, labels_of(self))
        self._created = time.time()
        begin(self, value)

    def reset(self: Any) -> None:
        self._raise_if_not_observable()
        self._created = time.time()
        store.begin_anew(self._family, self._value.labels, self._created)

    put_beginning(metrics.Counter, init)
    if hasattr(metrics.Counter, "reset"):
        put_on_block(metrics.Counter, "reset", reset)


def _patch_gauge(store: MetricStore) -> None:
    def init(self: Any) -> None:
        recorder = self._recorder
        self._value = value = GaugeValue(recorder, CATEGORY, recorder.metric, labels_of(self))
        begin(self, value)

    def set_function(self: Any, f: Callable[[], float]) -> None:
        self._raise_if_not_observable()
        store.functions.set(self._value, f)

    put_beginning(metrics.Gauge, init)
    put_on_block(metrics.Gauge, "set_function", set_function)
