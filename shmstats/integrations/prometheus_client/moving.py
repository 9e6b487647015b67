"""Metrics that were made before `install`, for example by a library that was imported earlier."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable
from typing import Any

from prometheus_client.registry import CollectorRegistry

from . import asking
from .children import ClientChildren
from .family import labels_of
from .internals import metrics
from .on_block import is_on_block, put_family
from .storage import MetricStore
from .values import FamilyRecorder


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
    recorder = put_family(store, metric, registry)
    if metric._is_parent():
        with metric._lock:
            children = ClientChildren(recorder, metric._labelnames)
            for labelvalues, child in metric._metrics.items():
                former = _former(child)
                children[labelvalues] = child
                _restore(child, former)
            metric._metrics = children
    else:
        former = _former(metric)
        metric._metric_init()
        _restore(metric, former)


def _former(metric: Any) -> dict[str, Any]:
    """Return the attributes of a metric that is not on the block, and take its function off it."""
    former = dict(vars(metric))
    vars(metric).pop("_child_samples", None)
    return former


def _restore(metric: Any, former: dict[str, Any]) -> None:
    """Put what a metric has counted on the block.

    Args:
        metric: has just started there.
        former: its attributes from before.
    """
    if metric._type in ("counter", "gauge"):
        _restore_value(metric, former)
    elif metric._type in ("histogram", "summary"):
        _restore_distribution(metric, former)
    elif former["_value"]:
        metric._value = former["_value"]
        if metric._type == "info":
            metric._kept.set_labels(metric._value)
        else:
            metric._kept.set_state(metric._recorder.family.states[metric._value])
    if "_created" in former:
        metric._created = former["_created"]
        recorder: FamilyRecorder = metric._recorder
        asking.note_created(recorder.store.shared, recorder.metric, {labels_of(metric): metric._created})


def _restore_value(metric: Any, former: dict[str, Any]) -> None:
    value, exemplar = former["_value"].get(), former["_value"].get_exemplar()
    if value:
        (metric._value.inc if metric._type == "counter" else metric._value.set)(value)
    if exemplar is not None:
        metric._value.set_exemplar(exemplar)
    if "_child_samples" in former:
        metric._recorder.store.functions.set(metric._value, _function_of(metric, former["_child_samples"]))


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


def _restore_distribution(metric: Any, former: dict[str, Any]) -> None:
    if metric._type == "summary":
        counts: tuple[int, ...] = (0, int(former["_count"].get()))
    else:
        by_limit: dict[float, int] = dict.fromkeys(metric._upper_bounds, 0)
        for limit, bucket in zip(metric._upper_bounds, former["_buckets"], strict=True):
            by_limit[limit] += int(bucket.get())
            exemplar = bucket.get_exemplar()
            if exemplar is not None:
                metric._distribution.set_exemplar(metrics.floatToGoString(limit), exemplar)
        counts = tuple(by_limit.values())
    if any(counts):
        metric._distribution.add(float(former["_sum"].get()), counts)
