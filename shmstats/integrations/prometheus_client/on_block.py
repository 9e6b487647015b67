"""A metric object of prometheus_client and the block: whether it is there, as what, and how it starts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from prometheus_client.registry import REGISTRY, CollectorRegistry
from prometheus_client.utils import INF

from ...block.keys import check_text
from ...bounds import MAX_BOUNDS
from ...series import Labels, Mode
from .family import ClientFamily, series_labels
from .internals import metrics
from .storage import MetricStore
from .values import FamilyRecorder, KeptSeries

_TYPES = (
    *(metrics.Counter, metrics.Gauge, metrics.Histogram),
    *(metrics.Summary, metrics.Info, metrics.Enum),
)

#: How a metric on the block starts, by its class.
BEGINNINGS: dict[type[Any], Callable[[Any], None]] = {}


def put(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    """Replace a function by another, which gets its name, signature and docstring."""
    setattr(owner, name, functools.wraps(getattr(owner, name))(replacement))


def put_on_block(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    """Replace a method for metrics that are on the block; other metrics keep theirs."""
    original = getattr(owner, name)

    def either(self: Any, *args: Any, **kwargs: Any) -> Any:
        return (replacement if "_family" in vars(self) else original)(self, *args, **kwargs)

    put(owner, name, either)


def put_beginning(owner: Any, begin_on_block: Callable[..., Any]) -> None:
    """Set how the metrics of a class that are on the block start, see `ClientChildren.make`."""
    put_on_block(owner, "_metric_init", begin_on_block)
    BEGINNINGS[owner] = begin_on_block


def is_on_block(metric: Any) -> bool:
    """Tell whether a metric is on the block; it is not if its class makes values or samples itself."""
    cls = type(metric)
    if cls in _TYPES:
        return True
    for base in _TYPES:
        if issubclass(cls, base):
            return bool(cls._metric_init is base._metric_init and cls._child_samples is base._child_samples)
    return False


def family_of(store: MetricStore, metric: Any, registry: CollectorRegistry | None) -> ClientFamily:
    """Return how a metric is kept.

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
    mode = getattr(metric, "_multiprocess_mode", None)
    return ClientFamily(
        name=metric._name,
        type=metric._type,
        help=metric._documentation,
        unit=metric._unit,
        mode=Mode[mode.upper()] if metric._type == "gauge" and mode else Mode.LAST,
        bounds=bounds,
        states=tuple(map(str, getattr(metric, "_states", ()))),
        labelnames=tuple(sorted(metric._labelnames)),
        default=registry is REGISTRY,
        instance=store.instance(metric._name, registry),
    )


def use_recorder(metric: Any, recorder: FamilyRecorder) -> None:
    """Make a metric count on the block, by the recorder of its family."""
    metric._family = recorder.family
    metric._recorder = recorder


def labels_of(metric: Any) -> Labels:
    """Return the labels of a child; none for a metric without labels."""
    return series_labels(metric._labelnames, metric._labelvalues)


def begin(metric: Any, value: KeptSeries) -> None:
    """Create the series of a metric, or count it in the overflow set if there are too many label sets.

    Args:
        metric: of prometheus_client: a child, or one without labels.
        value: its value on the block.
    """
    metric._overflows = False
    if value._bind_at_once():
        if value.recorder.begins_at_0:
            value.register()
    else:
        value.register()
        metric._overflows = value.store.overflows(value)
