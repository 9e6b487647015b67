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

#: Collectors that describe the scraped process, whichever worker that is, with the arguments that make them.
OF_ONE_PROCESS: tuple[Any, ...] = (
    prometheus_client.process_collector.ProcessCollector,
    prometheus_client.platform_collector.PlatformCollector,
    prometheus_client.gc_collector.GCCollector,
)

#: The oldest version that works.
_OLDEST = "0.20"

_OF_EACH_TYPE = ("_metric_init", "_child_samples")
_OF_EACH_METRIC = ("_name", "_type", "_documentation", "_unit", "_labelnames", "_labelvalues", "_metrics", "_lock")

#: What is replaced, called or read, by its owner; functions with the parameters that they must take.
_USED = {
    "metrics": ("_use_created", "_validate_exemplar", "floatToGoString"),
    "metrics.MetricWrapperBase": (
        "__init__(name, documentation, labelnames, namespace, subsystem, unit, registry, _labelvalues)",
        *("collect", "labels", "remove", "clear", "_is_parent", "_raise_if_not_observable"),
    ),
    "metrics.Counter": _OF_EACH_TYPE,
    "metrics.Gauge": (*_OF_EACH_TYPE, *_OF_EACH_METRIC, "_multiprocess_mode", "set_function(f)"),
    "metrics.Histogram": (*_OF_EACH_TYPE, *_OF_EACH_METRIC, "_upper_bounds", "observe(amount, exemplar)"),
    "metrics.Summary": (*_OF_EACH_TYPE, "observe(amount)"),
    "metrics.Info": (*_OF_EACH_TYPE, "info(val)"),
    "metrics.Enum": (*_OF_EACH_TYPE, "__init__(states)", "state(state)"),
    "registry.CollectorRegistry": (
        *("collect", "register(collector)", "get_sample_value(name, labels)"),
        *("_names_to_collectors", "_collector_to_names"),
    ),
    "registry.RestrictedRegistry": ("collect", "_name_set", "_registry"),
    "multiprocess": ("mark_process_dead(pid, path)",),
    "multiprocess.MultiProcessCollector": ("__init__(registry, path)", "collect"),
    "values": ("MutexValue",),
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
    try:
        made = _made()
    except Exception as error:
        yield f"its objects cannot be made: {type(error).__name__}: {error}"
        return
    for path, used in _USED.items():
        owner = made.get(path, _at(path))
        for each in used:
            name, bracket, parameters = each.rstrip(")").partition("(")
            if not hasattr(owner, name):
                yield f"{path}.{name}"
            elif bracket:
                taken = inspect.signature(getattr(owner, name)).parameters
                lacking = [parameter for parameter in parameters.split(", ") if parameter not in taken]
                if lacking:
                    yield f"{path}.{name} without {', '.join(lacking)}"


def _made() -> dict[str, Any]:
    """Return objects of the classes whose objects have more attributes than the class."""
    named = ("shmstats_check", "Made to look at.", ["label"])
    plain = registry.CollectorRegistry()
    return {
        "metrics.Gauge": metrics.Gauge(*named, registry=None),
        "metrics.Histogram": metrics.Histogram(*named, registry=None),
        "registry.CollectorRegistry": plain,
        "registry.RestrictedRegistry": plain.restricted_registry([]),
    }


def _at(path: str) -> Any:
    """Return the object at a dotted path below the package; None if there is none."""
    found: Any = prometheus_client
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


# Replacing ------------------------------------------------------------------------------------------


def put(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    """Replace a function by another, which gets its name, signature and docstring."""
    setattr(owner, name, functools.wraps(getattr(owner, name))(replacement))


def original(replacement: Any) -> Any:
    """Return the function that was replaced by another."""
    return replacement.__wrapped__
