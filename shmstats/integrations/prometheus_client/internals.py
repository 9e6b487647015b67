"""The parts of prometheus_client used beyond its documented interface, in one place, checked on import.

A version that lacks one of them is refused with its name: otherwise counting would go wrong silently.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import prometheus_client
import prometheus_client.gc_collector
import prometheus_client.metrics
import prometheus_client.multiprocess
import prometheus_client.platform_collector
import prometheus_client.process_collector
import prometheus_client.registry
import prometheus_client.values

# Any: methods are replaced here, and few of them have types.
metrics: Any = prometheus_client.metrics
values: Any = prometheus_client.values
registry: Any = prometheus_client.registry
multiprocess: Any = prometheus_client.multiprocess

#: Collectors that describe the scraped process, whichever worker that is, with the arguments that make them.
OF_ONE_PROCESS: tuple[Any, ...] = (
    prometheus_client.process_collector.ProcessCollector,
    prometheus_client.platform_collector.PlatformCollector,
    prometheus_client.gc_collector.GCCollector,
)

#: The oldest version that works.
_OLDEST = "0.20"

#: The classes of metrics.
_TYPES = ("Counter", "Gauge", "Histogram", "Summary", "Info", "Enum")

#: What is replaced, called or read, by its owner.
_NAMES = {
    "metrics": ("_use_created", "_validate_exemplar", "floatToGoString"),
    "metrics.MetricWrapperBase": ("collect", "labels", "remove", "clear", "_is_parent", "_raise_if_not_observable"),
    "registry.CollectorRegistry": ("collect",),
    "registry.RestrictedRegistry": ("collect",),
    "multiprocess.MultiProcessCollector": ("collect",),
    "values": ("MutexValue",),
}

#: Methods and functions that are replaced or called, with the parameters that they must take.
_PARAMETERS = {
    "metrics.MetricWrapperBase.__init__": (
        *("name", "documentation", "labelnames", "namespace", "subsystem", "unit", "registry", "_labelvalues"),
    ),
    "metrics.Gauge.set_function": ("f",),
    "metrics.Histogram.observe": ("amount", "exemplar"),
    "metrics.Summary.observe": ("amount",),
    "metrics.Info.info": ("val",),
    "metrics.Enum.__init__": ("states",),
    "metrics.Enum.state": ("state",),
    "registry.CollectorRegistry.register": ("collector",),
    "registry.CollectorRegistry.get_sample_value": ("name", "labels"),
    "multiprocess.MultiProcessCollector.__init__": ("registry", "path"),
    "multiprocess.mark_process_dead": ("pid", "path"),
}

#: Attributes that a metric with labels must have, by its class.
_METRIC = ("_name", "_type", "_documentation", "_unit", "_labelnames", "_labelvalues", "_metrics", "_lock")
_ATTRIBUTES = {
    "Gauge": (*_METRIC, "_multiprocess_mode"),
    "Histogram": (*_METRIC, "_upper_bounds"),
}


def check() -> None:
    """Check that the installed prometheus_client has everything that is used.

    Raises:
        ImportError: it does not; the message says what is missing, and what to do.
    """
    missing = list(_missing())
    if missing:
        try:
            found = version("prometheus_client")
        except PackageNotFoundError:  # a copy beside the application
            found = "of unknown version"
        raise ImportError(
            f"prometheus_client {found} has other internals than those that shmstats uses ({', '.join(missing)}):"
            f" install another one from {_OLDEST} on, or a later shmstats. Without"
            " shmstats.integrations.prometheus_client its metrics are each process's own"
        )


def _missing() -> Iterator[str]:
    of_each_type = {f"metrics.{name}": ("_metric_init", "_child_samples") for name in _TYPES}
    for owner, names in (_NAMES | of_each_type).items():
        yield from _lacking(owner, _at(owner), names)
    for path, parameters in _PARAMETERS.items():
        function = _at(path)
        if function is None:
            yield path
        elif lacking := [name for name in parameters if name not in inspect.signature(function).parameters]:
            yield f"{path} without {', '.join(lacking)}"
    for name, attributes in _ATTRIBUTES.items():
        try:
            made = getattr(metrics, name)("shmstats_check", "Made to look at.", ["label"], registry=None)
        except Exception as error:
            yield f"metrics.{name} ({type(error).__name__}: {error})"
            continue
        yield from _lacking(f"metrics.{name}", made, attributes)
    plain = registry.CollectorRegistry()
    yield from _lacking("registry.CollectorRegistry", plain, ("_names_to_collectors", "_collector_to_names"))
    restricted = plain.restricted_registry([])
    yield from _lacking("registry.RestrictedRegistry", restricted, ("_name_set", "_registry"))


def _at(path: str) -> Any:
    """Return the object at a dotted path below the package; None if there is none."""
    found: Any = prometheus_client
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _lacking(what: str, made: object, attributes: Iterable[str]) -> list[str]:
    return [f"{what}.{name}" for name in attributes if not hasattr(made, name)]


# Replacing ------------------------------------------------------------------------------------------


def put(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    """Replace a function by another, which gets its name, signature and docstring."""
    setattr(owner, name, functools.wraps(getattr(owner, name))(replacement))


def original(replacement: Any) -> Any:
    """Return the function that was replaced by another."""
    return replacement.__wrapped__
