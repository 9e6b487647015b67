"""The metric objects of prometheus_client on the block: their methods that are replaced.

Methods are replaced, not ``values.ValueClass``, because applications replace that, before or after `install`.
Metrics that are not on the block keep prometheus_client's own methods.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import REGISTRY, CollectorRegistry
from prometheus_client.utils import INF

from ...block.keys import check_text
from ...bounds import MAX_BOUNDS
from ...series import Mode
from . import asking
from .children import ClientChildren
from .collecting import collect_one
from .family import CATEGORY, ClientFamily, labels_of, series_labels
from .internals import metrics, original, put, values
from .storage import MetricStore
from .values import (
    BucketParts,
    CounterValue,
    DistributionPart,
    DistributionValue,
    FamilyRecorder,
    GaugeValue,
    KeptSeries,
    StateValue,
)

_TYPES = (
    *(metrics.Counter, metrics.Gauge, metrics.Histogram),
    *(metrics.Summary, metrics.Info, metrics.Enum),
)

#: The position of the argument ``registry`` of a metric.
_REGISTRY = 6

_Value = TypeVar("_Value", bound=KeptSeries)
_Method = TypeVar("_Method", bound=Callable[..., Any])

#: The methods of metrics on the block: class, name, and what replaces it there.
_METHODS: list[tuple[Any, str, Callable[..., Any]]] = []


def patch_metrics(store: MetricStore) -> None:
    """Put all metrics that will be made on the block."""
    for owner, name, method in _METHODS:
        if hasattr(owner, name):  # early versions lack some
            _put_on_block(owner, name, method)
    _patch_making(store)
    put(metrics.MetricWrapperBase, "labels", _labels)
    put(metrics.Histogram, "observe", _observe_histogram)
    put(metrics.Summary, "observe", _observe_summary)
    put(metrics.Enum, "__init__", _init_enum)
    # Only classes that make their values themselves still use it; they get no files that nobody reads.
    values.ValueClass = values.MutexValue


def _put_on_block(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    """Replace a method for metrics that are on the block; other metrics keep theirs."""
    own = getattr(owner, name)

    def either(self: Any, *args: Any, **kwargs: Any) -> Any:
        return (replacement if "_recorder" in vars(self) else own)(self, *args, **kwargs)

    put(owner, name, either)


def _on_block(owner: Any, name: str) -> Callable[[_Method], _Method]:
    """Make a function the method of metrics on the block, from `patch_metrics` on."""

    def note(method: _Method) -> _Method:
        _METHODS.append((owner, name, method))
        return method

    return note


# How a metric comes onto the block --------------------------------------------------------------------


def is_on_block(metric: Any) -> bool:
    """Tell whether a metric is on the block; it is not if its class makes values or samples itself."""
    cls = type(metric)
    return any(
        issubclass(cls, base) and cls._metric_init is base._metric_init and cls._child_samples is base._child_samples
        for base in _TYPES
    )


def put_family(store: MetricStore, metric: Any, registry: CollectorRegistry | None) -> FamilyRecorder:
    """Declare a metric on the block, and make it count there; returns the recorder of its family.

    Args:
        store: where it is kept.
        metric: of prometheus_client, with or without labels; not a child.
        registry: that it is in.

    Raises:
        ValueError: its name, a label name, or the number of its buckets exceeds the block's limits.
    """
    check_text("the name of a metric", metric._name)
    for name in metric._labelnames:
        check_text(f"a label name of {metric}", name)
    bounds = tuple(dict.fromkeys(bound for bound in getattr(metric, "_upper_bounds", ()) if bound != INF))
    if len(bounds) > MAX_BOUNDS:
        raise ValueError(f"{metric} has {len(bounds)} buckets; the block has room for {MAX_BOUNDS}")
    family = ClientFamily(
        name=metric._name,
        type=metric._type,
        help=metric._documentation,
        unit=metric._unit,
        mode=Mode[getattr(metric, "_multiprocess_mode", "last").upper()],
        bounds=bounds,
        states=tuple(map(str, getattr(metric, "_states", ()))),
        labelnames=tuple(sorted(metric._labelnames)),
        default=registry is REGISTRY,
        instance=store.instance(metric._name, registry),
    )
    metric._recorder = FamilyRecorder(store, family)
    store.declare(family)
    return metric._recorder  # type: ignore[no-any-return]


def _patch_making(store: MetricStore) -> None:
    def __init__(self: Any, *args: Any, **named: Any) -> None:  # noqa: N807
        if not is_on_block(self):
            original(__init__)(self, *args, **named)
            return
        self._metric_init = _not_yet
        original(__init__)(self, *args, **named)
        del self._metric_init
        if self._labelvalues:
            return  # the `ClientChildren` of its parent put it on the block
        registry = args[_REGISTRY] if len(args) > _REGISTRY else named.get("registry", REGISTRY)
        try:
            recorder = put_family(store, self, registry)
        except ValueError:
            if registry:
                registry.unregister(self)
            raise
        if self._labelnames:
            self._metrics = ClientChildren(recorder, self._labelnames)
        else:
            self._metric_init()

    put(metrics.MetricWrapperBase, "__init__", __init__)


def _not_yet() -> None:
    """Do nothing: a metric without labels has no values before it is declared."""


def _begin(metric: Any, kind: type[_Value]) -> _Value:
    """Create the series of a metric, or count it in the overflow set if there are too many label sets.

    Args:
        metric: of prometheus_client: a child, or one without labels.
        kind: the class of its value.
    """
    recorder: FamilyRecorder = metric._recorder
    value = kind(recorder, CATEGORY, recorder.metric, labels_of(metric))
    metric._overflows = not value._bind_at_once() and recorder.register(value)
    return value


@_on_block(metrics.Counter, "_metric_init")
def _begin_counter(self: Any) -> None:
    self._value = _begin(self, CounterValue)
    self._created = time.time()


@_on_block(metrics.Gauge, "_metric_init")
def _begin_gauge(self: Any) -> None:
    self._value = value = _begin(self, GaugeValue)
    if self._recorder.begins_at_0:
        value.inc(0)


@_on_block(metrics.Histogram, "_metric_init")
@_on_block(metrics.Summary, "_metric_init")
def _begin_distribution(self: Any) -> None:
    self._distribution = distribution = _begin(self, DistributionValue)
    self._created = time.time()
    self._sum = DistributionPart(distribution, "sum")
    if self._type == "histogram":
        self._buckets = BucketParts(distribution)
    else:
        self._count = DistributionPart(distribution, "count")


@_on_block(metrics.Info, "_metric_init")
@_on_block(metrics.Enum, "_metric_init")
def _begin_state(self: Any) -> None:
    original(type(self)._metric_init)(self)
    self._kept = _begin(self, StateValue)


def _init_enum(self: Any, *args: Any, states: Any = None, **more: Any) -> None:
    self._states = states or ()  # the original stores them only after it has registered the metric
    original(_init_enum)(self, *args, states=states, **more)


# All metrics ------------------------------------------------------------------------------------------


@_on_block(metrics.MetricWrapperBase, "collect")
def _collect(self: Any) -> Iterable[Metric]:
    return collect_one(self)


def _labels(self: Any, *labelvalues: object, **labelkwargs: object) -> Any:
    children = self.__dict__.get("_metrics")
    if type(children) is not ClientChildren or labelkwargs or len(labelvalues) != len(self._labelnames):
        return original(_labels)(self, *labelvalues, **labelkwargs)
    given = tuple(map(str, labelvalues))
    with self._lock:
        child = children.get(given) or children.make(given)
    return original(_labels)(self, *given) if child is None else child


@_on_block(metrics.MetricWrapperBase, "remove")
def _remove(self: Any, *labelvalues: Any) -> None:
    _check_labelled(self)
    if len(labelvalues) != len(self._labelnames):
        raise ValueError(f"Incorrect label count (expected {len(self._labelnames)}, got {labelvalues})")
    given = tuple(map(str, labelvalues))
    recorder = self._recorder
    with self._lock:
        self._metrics.pop(given, None)
        recorder.store.remove(recorder.family, series_labels(self._labelnames, given))


@_on_block(metrics.MetricWrapperBase, "remove_by_labels")
def _remove_by_labels(self: Any, labels: dict[str, str]) -> None:
    _check_labelled(self)
    if not isinstance(labels, dict):
        raise TypeError("labels must be a dict of {label_name: label_value}")
    unknown = [name for name in labels if name not in self._labelnames]
    if unknown:
        raise ValueError(f"Unknown label names: {unknown}; expected {self._labelnames}")
    if not labels:
        return
    wanted = set(series_labels(tuple(labels), map(str, labels.values())))
    recorder = self._recorder
    with self._lock:
        for found in asking.label_sets(recorder.store.shared, recorder.metric):
            if wanted <= set(found):
                recorder.store.remove(recorder.family, found)
        self._metrics.drop_removed()


@_on_block(metrics.MetricWrapperBase, "clear")
def _clear(self: Any) -> None:
    if not self._labelnames:
        return
    with self._lock:
        self._metrics.clear()
        self._recorder.store.remove(self._recorder.family, None)


def _check_labelled(metric: Any) -> None:
    if not metric._labelnames:
        raise ValueError(f"No label names were set when constructing {metric}")


# Their types ------------------------------------------------------------------------------------------


@_on_block(metrics.Counter, "reset")
def _reset(self: Any) -> None:
    self._raise_if_not_observable()
    self._created = time.time()
    self._recorder.store.begin_anew(self._recorder.family, self._value.labels, self._created)


@_on_block(metrics.Gauge, "set_function")
def _set_function(self: Any, f: Callable[[], float]) -> None:
    self._raise_if_not_observable()
    self._recorder.store.functions.set(self._value, f)


def _observe_histogram(self: Any, amount: float, exemplar: dict[str, str] | None = None) -> None:
    self._raise_if_not_observable()
    distribution = self.__dict__.get("_distribution")
    if distribution is None:
        original(_observe_histogram)(self, amount, exemplar)
        return
    distribution.observe(amount)
    if exemplar:
        metrics._validate_exemplar(exemplar)
        bounds = self._recorder.family.bounds
        limit = metrics.floatToGoString([*bounds, INF][bisect.bisect_left(bounds, amount)])
        distribution.set_exemplar(limit, (exemplar, amount, time.time()))


def _observe_summary(self: Any, amount: float) -> None:
    self._raise_if_not_observable()
    distribution = self.__dict__.get("_distribution")
    if distribution is None:
        original(_observe_summary)(self, amount)
    else:
        distribution.observe(amount)


@_on_block(metrics.Info, "info")
def _set_info(self: Any, val: dict[str, str]) -> None:
    self._raise_if_not_observable()
    original(metrics.Info.info)(self, val)
    self._kept.set_labels(val)


@_on_block(metrics.Enum, "state")
def _set_state(self: Any, state: str) -> None:
    original(metrics.Enum.state)(self, state)
    self._kept.set_state(str(state))
