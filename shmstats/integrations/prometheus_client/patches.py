"""What stands in the place of prometheus_client's own methods, once its metrics are on the block.

Counter and Gauge get their values from ``values.ValueClass``, which is all that prometheus_client offers
for this. The rest has no such place: Histogram and Summary, whose parts belong together; Info and Enum,
which have no value class; the removal of label sets; and what a registry collects.
"""

from __future__ import annotations

import bisect
import functools
import inspect
import time
from collections.abc import Callable, Iterable
from typing import Any

import prometheus_client.metrics
import prometheus_client.values
from prometheus_client.registry import REGISTRY, CollectorRegistry
from prometheus_client.samples import Sample
from prometheus_client.utils import INF

from ...block.names import MAX_BOUNDS, OVERFLOW, check_text
from ...series import Labels, Mode
from .collecting import samples_of
from .family import Family, series_labels
from .storage import Storage
from .values import CounterValue, DistributionValue, GaugeValue, StateValue

# Any: methods are replaced here, and few of them have types.
metrics: Any = prometheus_client.metrics
values: Any = prometheus_client.values

_TYPES = (
    *(metrics.Counter, metrics.Gauge, metrics.Histogram),
    *(metrics.Summary, metrics.Info, metrics.Enum),
)


def patch_metrics(storage: Storage) -> None:
    """Have all metrics that will be made on the block."""
    for patch in (_patch_metric, _patch_counter, _patch_gauge, _patch_distributions, _patch_states):
        patch(storage)
    values.ValueClass = _value_class(storage)


def put(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    """Put a function in the place of another, whose name, signature and docstring it takes."""
    setattr(owner, name, functools.wraps(getattr(owner, name))(replacement))


# All metrics -----------------------------------------------------------------------------------------


def on_block(metric: Any) -> bool:
    """Tell whether a metric is on the block: not where its class makes values or samples by itself."""
    cls = type(metric)
    for base in _TYPES:
        if issubclass(cls, base):
            return bool(cls._metric_init is base._metric_init and cls._child_samples is base._child_samples)
    return False


def family_of(metric: Any) -> Family:
    """Return how a metric is kept.

    Raises:
        ValueError: its name, a name of its labels, or the number of its buckets, is more than the block can hold.
    """
    check_text("the name of a metric", metric._name)
    for name in metric._labelnames:
        check_text(f"a label name of {metric}", name)
    bounds = tuple(dict.fromkeys(bound for bound in getattr(metric, "_upper_bounds", ()) if bound != INF))
    if len(bounds) > MAX_BOUNDS:
        raise ValueError(f"{metric} has {len(bounds)} buckets; the block has room for {MAX_BOUNDS}")
    mode = getattr(metric, "_multiprocess_mode", None)
    return Family(
        name=metric._name,
        type=metric._type,
        help=metric._documentation,
        unit=metric._unit,
        mode=Mode[mode.upper()] if metric._type == "gauge" and mode else Mode.LAST,
        bounds=bounds,
        states=tuple(map(str, getattr(metric, "_states", ()))),
        default=REGISTRY._names_to_collectors.get(metric._name) is metric,
    )


def labels_of(metric: Any) -> Labels:
    """Return the labels of a child; none for a metric without labels."""
    return series_labels(metric._labelnames, metric._labelvalues)


def begin(storage: Storage, metric: Any, family: Family) -> None:
    """Note the creation of a series, and whether it is counted with others because there are too many."""
    labels = labels_of(metric)
    created = getattr(metric, "_created", None) if metrics._use_created else None
    metric._overflows = storage.begin(family, labels, created) != labels


class Children(dict[tuple[str, ...], Any]):
    """The children of a metric, by label values, in this process.

    Those that are counted together, for there are too many, are one child here as well: memory must not
    grow with what clients send. As long as there is none, looking a child up is looking it up in a dict.
    """

    def __init__(self, storage: Storage, family: Family, labelnames: tuple[str, ...]) -> None:
        super().__init__()
        self.storage = storage
        self.family = family
        self.labelnames = labelnames
        self.overflow = (OVERFLOW,) * len(labelnames)

    def __setitem__(self, labelvalues: tuple[str, ...], child: Any) -> None:
        if child._overflows:
            labelvalues = self.overflow
            self.__class__ = _FullChildren
        super().__setitem__(labelvalues, child)


class _FullChildren(Children):
    """Children of which one is for all label sets that the block does not admit."""

    def __contains__(self, labelvalues: object) -> bool:
        if super().__contains__(labelvalues):
            return True
        assert isinstance(labelvalues, tuple)
        return super().__contains__(self.overflow) and not self.storage.admits(
            self.family, series_labels(self.labelnames, labelvalues)
        )

    def __missing__(self, labelvalues: tuple[str, ...]) -> Any:
        if labelvalues == self.overflow:
            raise KeyError(labelvalues)
        return self[self.overflow]


def _not_yet() -> None:
    """What a metric does for its values before it is declared."""


def _patch_metric(storage: Storage) -> None:
    base = metrics.MetricWrapperBase
    original_init, original_samples = base.__init__, base._samples

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
        if not on_block(self):
            original_init(self, *parts, registry, _labelvalues, **more)
            return
        self._metric_init = _not_yet
        try:
            original_init(self, *parts, None, _labelvalues, **more)
        finally:
            del self._metric_init
        if self._labelvalues:
            self._metric_init()
            return
        if registry:
            registry.register(self)
        try:
            family = family_of(self)
            storage.declare(family)
            if self._labelnames:
                self._metrics = Children(storage, family, self._labelnames)
            else:
                self._metric_init()
        except ValueError:
            if registry:
                registry.unregister(self)
            raise

    def samples(self: Any) -> Iterable[Sample]:
        if not on_block(self):
            found: Iterable[Sample] = original_samples(self)
            return found
        if self._labelvalues:
            return samples_of(storage, self._name, labels_of(self))
        return samples_of(storage, self._name)

    def remove(self: Any, *labelvalues: Any) -> None:
        _check_labelled(self)
        if len(labelvalues) != len(self._labelnames):
            raise ValueError(f"Incorrect label count (expected {len(self._labelnames)}, got {labelvalues})")
        given = tuple(map(str, labelvalues))
        with self._lock:
            self._metrics.pop(given, None)
            storage.remove(family_of(self), series_labels(self._labelnames, given))

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
            for values_ in [each for each in self._metrics if _has(self._labelnames, each, wanted)]:
                self._metrics.pop(values_, None)
            family = family_of(self)
            for found in storage.label_sets(family):
                if set(wanted) <= set(found):
                    storage.remove(family, found)

    def clear(self: Any) -> None:
        if not self._labelnames:
            return
        with self._lock:
            self._metrics.clear()
            storage.remove(family_of(self), None)

    put(base, "__init__", __init__)
    put(base, "_samples", samples)
    for name, method in (("remove", remove), ("remove_by_labels", remove_by_labels), ("clear", clear)):
        if hasattr(base, name):
            put(base, name, _for_those_on_block(method, getattr(base, name)))


def _for_those_on_block(method: Callable[..., None], original: Callable[..., None]) -> Callable[..., None]:
    """Return a method that does what the original does where a metric is not on the block."""

    def either(self: Any, *args: Any, **kwargs: Any) -> None:
        (method if on_block(self) else original)(self, *args, **kwargs)

    return either


def _check_labelled(metric: Any) -> None:
    if not metric._labelnames:
        raise ValueError(f"No label names were set when constructing {metric}")


def _has(names: tuple[str, ...], values_: tuple[str, ...], wanted: Labels) -> bool:
    return set(wanted) <= set(series_labels(names, values_))


# Counter and Gauge -----------------------------------------------------------------------------------


def _value_class(storage: Storage) -> type[Any]:
    """Return what stands in the place of ``values.ValueClass``."""
    in_process = values.MutexValue

    class BlockValue:
        """Makes the values of Counter and Gauge; those of types that it does not know stay in the process."""

        _multiprocess = True

        def __new__(
            cls,
            typ: str,
            metric_name: str,
            name: str,
            labelnames: Any,
            labelvalues: Any,
            help_text: str,
            **more: Any,
        ) -> Any:
            if typ not in ("counter", "gauge"):
                return in_process(typ, metric_name, name, labelnames, labelvalues, help_text, **more)
            mode = Mode[(more.get("multiprocess_mode") or "all").upper()] if typ == "gauge" else Mode.LAST
            family = storage.family(metric_name) or Family(metric_name, typ, help_text, mode=mode)
            storage.declare(family)
            kind = CounterValue if typ == "counter" else GaugeValue
            return kind(storage, family, series_labels(labelnames, labelvalues))

    return BlockValue


def _patch_counter(storage: Storage) -> None:
    original_init = metrics.Counter._metric_init

    def init(self: Any) -> None:
        original_init(self)
        begin(storage, self, self._value.family)

    def reset(self: Any) -> None:
        self._raise_if_not_observable()
        self._created = time.time()
        storage.begin_anew(self._value.family, self._value.series.labels, self._created)

    put(metrics.Counter, "_metric_init", init)
    put(metrics.Counter, "reset", reset)


def _patch_gauge(storage: Storage) -> None:
    original_init, original_set_function = metrics.Gauge._metric_init, metrics.Gauge.set_function

    def init(self: Any) -> None:
        original_init(self)
        begin(storage, self, self._value.family)

    def set_function(self: Any, f: Callable[[], float]) -> None:
        self._raise_if_not_observable()
        if on_block(self):
            storage.set_function(self._value, f)
        else:
            original_set_function(self, f)

    put(metrics.Gauge, "_metric_init", init)
    put(metrics.Gauge, "set_function", set_function)


# Histogram and Summary -------------------------------------------------------------------------------


class _Number:
    """A part of a distribution, to be read as one of prometheus_client's values."""

    _multiprocess = True

    def __init__(self, get: Callable[[], float]) -> None:
        self.get = get


def _sum_of(distribution: DistributionValue) -> _Number:
    return _Number(lambda: distribution.get().sum)


def _count_of(distribution: DistributionValue) -> _Number:
    return _Number(lambda: float(distribution.get().count))


def _bucket_of(distribution: DistributionValue, number: int) -> _Number:
    return _Number(lambda: float(distribution.get().buckets[number]))


class _Buckets:
    """The buckets of a histogram as prometheus_client's list of values, made when they are looked at."""

    def __init__(self, distribution: DistributionValue) -> None:
        self._distribution = distribution

    def __len__(self) -> int:
        return len(self._distribution.family.bounds) + 1

    def __getitem__(self, number: int) -> _Number:
        return _bucket_of(self._distribution, range(len(self))[number])


def _patch_distributions(storage: Storage) -> None:
    histogram, summary = metrics.Histogram, metrics.Summary
    original_observe = {cls: cls.observe for cls in (histogram, summary)}

    def distribution_init(self: Any) -> None:
        family = storage.family(self._name) or family_of(self)
        storage.declare(family)
        self._created = time.time()
        distribution = DistributionValue(storage, family, labels_of(self))
        use_distribution(self, distribution)
        begin(storage, self, family)

    def observe_histogram(self: Any, amount: float, exemplar: dict[str, str] | None = None) -> None:
        self._raise_if_not_observable()
        distribution = self.__dict__.get("_distribution")
        if distribution is None:
            original_observe[histogram](self, amount, exemplar)
            return
        distribution.observe(amount)
        if exemplar:
            metrics._validate_exemplar(exemplar)
            bounds = distribution.family.bounds
            limit = metrics.floatToGoString([*bounds, INF][bisect.bisect_left(bounds, amount)])
            distribution.set_exemplar(limit, (exemplar, amount, time.time()))

    def observe_summary(self: Any, amount: float) -> None:
        self._raise_if_not_observable()
        distribution = self.__dict__.get("_distribution")
        if distribution is None:
            original_observe[summary](self, amount)
        else:
            distribution.observe(amount)

    for cls, observe in ((histogram, observe_histogram), (summary, observe_summary)):
        put(cls, "_metric_init", distribution_init)
        put(cls, "observe", observe)


def use_distribution(metric: Any, distribution: DistributionValue) -> None:
    """Have a metric count into a distribution."""
    metric._distribution = distribution
    metric._sum = _sum_of(distribution)
    if metric._type == "histogram":
        metric._buckets = _Buckets(distribution)
    else:
        metric._count = _count_of(distribution)


# Info and Enum ---------------------------------------------------------------------------------------


def _patch_states(storage: Storage) -> None:
    info_class, enum_class = metrics.Info, metrics.Enum
    original_init = {cls._type: cls._metric_init for cls in (info_class, enum_class)}
    original_enum_init = enum_class.__init__
    original_info, original_state = info_class.info, enum_class.state
    signature = inspect.signature(original_enum_init)

    def enum_init(self: Any, *args: Any, **kwargs: Any) -> None:
        # The original notes the states only after it has registered the metric.
        self._states = signature.bind_partial(self, *args, **kwargs).arguments.get("states") or ()
        original_enum_init(self, *args, **kwargs)

    def state_init(self: Any) -> None:
        original_init[self._type](self)
        family = storage.family(self._name) or family_of(self)
        storage.declare(family)
        self._kept = StateValue(storage, family, labels_of(self))
        begin(storage, self, family)

    def info(self: Any, val: dict[str, str]) -> None:
        self._raise_if_not_observable()
        original_info(self, val)
        if "_kept" in self.__dict__:
            self._kept.set_labels(val)

    def state(self: Any, state: str) -> None:
        original_state(self, state)
        if "_kept" in self.__dict__:
            self._kept.set_state(self._states.index(state))

    put(enum_class, "__init__", enum_init)
    put(info_class, "_metric_init", state_init)
    put(enum_class, "_metric_init", state_init)
    put(info_class, "info", info)
    put(enum_class, "state", state)
