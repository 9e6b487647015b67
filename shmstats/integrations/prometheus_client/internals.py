"""The parts of prometheus_client used beyond its documented interface, in one place, checked on import.

A version that lacks one of them is refused with its name: otherwise counting would go wrong silently.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
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

#: The oldest version that works.
OLDEST = (0, 20)

#: Collectors that describe the scraped process, whichever worker that is, with the arguments that make them.
OF_ONE_PROCESS: tuple[Any, ...] = (
    prometheus_client.process_collector.ProcessCollector,
    prometheus_client.platform_collector.PlatformCollector,
    prometheus_client.gc_collector.GCCollector,
)

#: Methods and functions that are replaced or called, with the parameters that they must take.
_CALLS = {
    "metrics.MetricWrapperBase.__init__": (
        *("name", "documentation", "labelnames", "namespace", "subsystem", "unit", "registry", "_labelvalues"),
    ),
    "metrics.MetricWrapperBase.collect": (),
    "metrics.MetricWrapperBase._is_parent": (),
    "metrics.MetricWrapperBase.labels": (),
    "metrics.MetricWrapperBase._raise_if_not_observable": (),
    "metrics.MetricWrapperBase.remove": (),
    "metrics.MetricWrapperBase.clear": (),
    "metrics.Counter._metric_init": (),
    "metrics.Counter._child_samples": (),
    "metrics.Gauge._metric_init": (),
    "metrics.Gauge.set_function": ("f",),
    "metrics.Histogram._metric_init": (),
    "metrics.Histogram.observe": ("amount", "exemplar"),
    "metrics.Summary._metric_init": (),
    "metrics.Summary.observe": ("amount",),
    "metrics.Info._metric_init": (),
    "metrics.Info.info": ("val",),
    "metrics.Enum.__init__": ("states",),
    "metrics.Enum._metric_init": (),
    "metrics.Enum.state": ("state",),
    "metrics._validate_exemplar": (),
    "metrics.floatToGoString": (),
    "registry.CollectorRegistry.register": ("collector",),
    "registry.CollectorRegistry.collect": (),
    "registry.CollectorRegistry.get_sample_value": ("name", "labels"),
    "registry.RestrictedRegistry.collect": (),
    "multiprocess.MultiProcessCollector.__init__": ("registry", "path"),
    "multiprocess.MultiProcessCollector.collect": (),
    "multiprocess.mark_process_dead": ("pid", "path"),
    "values.MutexValue.__init__": (),
}

#: Attributes that a metric with labels must have, by its class.
_METRIC = ("_name", "_type", "_documentation", "_unit", "_labelnames", "_labelvalues", "_metrics", "_lock")
_ATTRIBUTES = {
    "Counter": _METRIC,
    "Gauge": (*_METRIC, "_multiprocess_mode"),
    "Histogram": (*_METRIC, "_upper_bounds"),
    "Summary": _METRIC,
    "Info": _METRIC,
}

_OLDEST = ".".join(map(str, OLDEST))


def check() -> None:
    """Check that the installed prometheus_client has everything that is used.

    Raises:
        ImportError: it does not; the message says what is missing, and what to do.
    """
    found = _version()
    if _numbers(found) < OLDEST:
        raise ImportError(f"prometheus_client {found} is too old for shmstats: install {_OLDEST} or later")
    missing = [*_missing_calls(), *_missing_attributes()]
    if missing:
        raise ImportError(
            f"prometheus_client {found} has other internals than those that shmstats uses ({', '.join(missing)}):"
            f" install another one from {_OLDEST} on, or a later shmstats. Without"
            " shmstats.integrations.prometheus_client its metrics are each process's own"
        )


def _version() -> str:
    try:
        return version("prometheus_client")
    except PackageNotFoundError:  # a copy beside the application
        return "of unknown version"


def _numbers(text: str) -> tuple[int, ...]:
    """Return the first two numbers of a version; those of the oldest working version if it has none."""
    parts = text.split(".")[:2]
    return tuple(map(int, parts)) if len(parts) == 2 and all(part.isdigit() for part in parts) else OLDEST


def _missing_calls() -> Iterator[str]:
    for path, parameters in _CALLS.items():
        function = _at(path)
        if not callable(function):
            yield path
            continue
        lacking = [name for name in parameters if name not in _parameters(function)]
        if lacking:
            yield f"{path} without {', '.join(lacking)}"


def _at(path: str) -> Any:
    """Return the object at a dotted path below the package; None if there is none."""
    found: Any = prometheus_client
    for name in path.split("."):
        if not hasattr(found, name):
            return None
        found = getattr(found, name)
    return found


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _missing_attributes() -> Iterator[str]:
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
    yield from _lacking("metrics", metrics, ("_use_created",))


def _lacking(what: str, made: object, attributes: tuple[str, ...]) -> list[str]:
    return [f"{what}.{name}" for name in attributes if not hasattr(made, name)]


# Replacing ------------------------------------------------------------------------------------------


def put(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    """Replace a function by another, which gets its name, signature and docstring."""
    setattr(owner, name, functools.wraps(getattr(owner, name))(replacement))


def original(replacement: Any) -> Any:
    """Return the function that was replaced by another."""
    return replacement.__wrapped__
