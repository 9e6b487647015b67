"""Metrics that were made before `install`, for example by a library that was imported earlier."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable
from typing import Any

from prometheus_client.registry import CollectorRegistry

from ...series import Labels
from .children import ClientChildren
from .distributions import use_distribution
from .family import CATEGORY
from .internals import metrics
from .on_block import begin, family_of, is_on_block, labels_of, use_recorder
from .storage import MetricStore
from .values import CounterValue, DistributionValue, FamilyRecorder, GaugeValue, StateValue


def move_existing(store: MetricStore) -> None:
    """Put all existing metrics on the block, with their counts.

    Raises:
        ValueError: that is not possible for one of them; the message names it.
    """
    objects = _all_objects()
    registries = [found for found in objects if issubclass(type(found), CollectorRegistry)]
    for found in objects:
        # Children are moved with their parents.
        if issubclass(type(found), metrics.MetricWrapperBase) and vars(found).get("_labelvalues") == ():
            registry = next((each for each in registries if found in each._collector_to_names), None)
            _move(store, found, registry)


def _all_objects() -> list[Any]:
    """Return all objects that may hold others, including those that ``gc.freeze`` has set aside."""
    if not gc.get_freeze_count():
        return gc.get_objects()
    gc.unfreeze()
    try:
        return gc.get_objects()
    finally:
        gc.freeze()


def _move(store: MetricStore, metric: Any, registry: CollectorRegistry | None) -> None:
    """Put a metric on the block."""
    if not is_on_block(metric):
        store.tell(f"{metric} is not on the block: its class {type(metric).__name__} makes its samples by itself")
        return
    recorder = FamilyRecorder(store, family_of(store, metric, registry))
    use_recorder(metric, recorder)
    store.declare(recorder.family)
    if metric._is_parent():
        with metric._lock:
            children = ClientChildren(recorder, metric._labelnames)
            for labelvalues, child in metric._metrics.items():
                _move_values(recorder, child)
                children.adopt(labelvalues, child)
            metric._metrics = children
    else:
        _move_values(recorder, metric)


def _move_values(recorder: FamilyRecorder, metric: Any) -> None:
    use_recorder(metric, recorder)
    family, labels = recorder.family, labels_of(metric)
    if family.type in ("counter", "gauge"):
        kept: Any = _move_value(recorder, metric, labels)
    elif family.type in ("histogram", "summary"):
        kept = _move_distribution(recorder, metric, labels)
    else:
        kept = metric._kept = StateValue(recorder, CATEGORY, recorder.metric, labels)
        if family.type == "info" and metric._value:
            metric._kept.set_labels(metric._value)
        elif family.type == "stateset" and metric._value:
            metric._kept.set_state(family.states[metric._value])
    begin(metric, kept)
    if hasattr(metric, "_created"):
        recorder.store.note_created(family, labels, metric._created)


def _move_value(recorder: FamilyRecorder, metric: Any, labels: Labels) -> CounterValue | GaugeValue:
    former, is_counter = metric._value, recorder.family.type == "counter"
    kind = CounterValue if is_counter else GaugeValue
    metric._value = kind(recorder, CATEGORY, recorder.metric, labels)
    metric._value.register()
    value, exemplar = former.get(), former.get_exemplar()
    if value and is_counter:
        metric._value.inc(value)
    elif value:
        metric._value.set(value)
    if exemplar is not None:
        metric._value.set_exemplar(exemplar)
    samples = vars(metric).pop("_child_samples", None)
    if samples is not None:
        recorder.store.functions.set(metric._value, _function_of(metric, samples))
    return metric._value  # type: ignore[no-any-return]


def _function_of(metric: Any, samples: Any) -> Callable[[], float]:
    """Return the function of a gauge that was set before it was on the block.

    Raises:
        ValueError: it cannot be found.
    """
    closure = inspect.getclosurevars(samples.__func__).nonlocals if inspect.ismethod(samples) else {}
    function = closure.get("f")
    if not callable(function):
        raise ValueError(f"the function of {metric} cannot be put on the block: set it after install()")
    return function  # type: ignore[no-any-return]


def _move_distribution(recorder: FamilyRecorder, metric: Any, labels: Labels) -> DistributionValue:
    former_sum = metric._sum
    distribution = DistributionValue(recorder, CATEGORY, recorder.metric, labels)
    distribution.register()
    if recorder.family.type == "summary":
        former_parts = [metric._count]
        use_distribution(metric, distribution)
        counts: tuple[int, ...] = (0, int(former_parts[0].get()))
    else:
        former_parts, limits = list(metric._buckets), list(metric._upper_bounds)
        use_distribution(metric, distribution)
        by_limit: dict[float, int] = dict.fromkeys(limits, 0)
        for limit, part in zip(limits, former_parts, strict=True):
            by_limit[limit] += int(part.get())
            exemplar = part.get_exemplar()
            if exemplar is not None:
                distribution.set_exemplar(metrics.floatToGoString(limit), exemplar)
        counts = tuple(by_limit.values())
    if any(counts):
        distribution.add(float(former_sum.get()), counts)
    return distribution
