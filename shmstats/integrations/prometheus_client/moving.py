"""Metrics that were made before `install`, by a library that was imported first, say."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable
from typing import Any

from ...series import Labels
from .family import Family
from .patches import Children, begin, family_of, labels_of, metrics, on_block, use_distribution
from .storage import Storage
from .values import CounterValue, DistributionValue, GaugeValue, StateValue


def move_existing(storage: Storage) -> None:
    """Put all metrics that there are on the block, with what they have counted so far.

    Raises:
        ValueError: that does not work for one of them; the message names it.
    """
    for metric in _existing():
        _move(storage, metric)


def _existing() -> list[Any]:
    """Return the metrics that were made before, whichever registry they are in; children are none."""
    return [
        found
        for found in gc.get_objects()
        if issubclass(type(found), metrics.MetricWrapperBase) and vars(found).get("_labelvalues") == ()
    ]


def _move(storage: Storage, metric: Any) -> None:
    """Put a metric on the block."""
    if not on_block(metric):
        storage.tell(f"{metric} is not on the block: its class {type(metric).__name__} makes its samples by itself")
        return
    family = family_of(metric)
    storage.declare(family)
    if metric._is_parent():
        with metric._lock:
            children = Children(storage, family, metric._labelnames)
            for labelvalues, child in metric._metrics.items():
                _move_values(storage, family, child)
                children[labelvalues] = child
            metric._metrics = children
    else:
        _move_values(storage, family, metric)


def _move_values(storage: Storage, family: Family, metric: Any) -> None:
    labels = labels_of(metric)
    if family.type in ("counter", "gauge"):
        _move_value(storage, family, metric, labels)
    elif family.type in ("histogram", "summary"):
        _move_distribution(storage, family, metric, labels)
    else:
        metric._kept = StateValue(storage, family, labels)
        if family.type == "info" and metric._value:
            metric._kept.set_labels(metric._value)
        elif family.type == "stateset" and metric._value:
            metric._kept.set_state(metric._value)
    begin(storage, metric, family)


def _move_value(storage: Storage, family: Family, metric: Any, labels: Labels) -> None:
    former = metric._value
    kind = CounterValue if family.type == "counter" else GaugeValue
    metric._value = kind(storage, family, labels)
    value, exemplar = former.get(), former.get_exemplar()
    if value and family.type == "counter":
        metric._value.inc(value)
    elif value:
        metric._value.set(value)
    if exemplar is not None:
        metric._value.set_exemplar(exemplar)
    samples = vars(metric).pop("_child_samples", None)
    if samples is not None:
        storage.set_function(metric._value, _function_of(metric, samples))


def _function_of(metric: Any, samples: Any) -> Callable[[], float]:
    """Return the function that a gauge was given before it was on the block.

    Raises:
        ValueError: it cannot be found.
    """
    closure = inspect.getclosurevars(samples.__func__).nonlocals if inspect.ismethod(samples) else {}
    function = closure.get("f")
    if not callable(function):
        raise ValueError(f"the function of {metric} cannot be put on the block: set it after install()")
    return function  # type: ignore[no-any-return]


def _move_distribution(storage: Storage, family: Family, metric: Any, labels: Labels) -> None:
    former_sum = metric._sum
    distribution = DistributionValue(storage, family, labels)
    if family.type == "summary":
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
