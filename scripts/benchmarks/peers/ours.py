"""Our side and, in the same process, C methods that do nothing."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import shmstats
from shmstats import core as cells
from shmstats import stats
from shmstats.bounds import FORMER_DEFAULT_BOUNDS

from . import serving
from .serving import DURATIONS, NAMES, CallLoop, Loops, empty, empty_durations, empty_names


def configure(directory: str, **section: Any) -> None:
    """Attach the block of a data directory with the default options, except those given; nothing is saved."""
    shmstats.init({"path": {"data": directory}, "stats": {"persist": False, **section}})


def _incr_handle(counter: Any) -> CallLoop:
    counter.incr()

    def loop(calls: int) -> None:
        each = counter
        for _ in range(calls):
            each.incr()

    return loop


def make_inc() -> tuple[CallLoop, CallLoop]:
    """A bound handle's ``incr()``."""
    return _incr_handle(stats.counter("bench", "handle")), empty


def make_inc_nothing() -> tuple[CallLoop, CallLoop]:
    """The C method that does nothing, without arguments."""
    nothing = _nothing()

    def loop(calls: int) -> None:
        each = nothing
        for _ in range(calls):
            each.nothing()

    return loop, empty


def make_incr() -> tuple[CallLoop, CallLoop]:
    """``stats.incr(category, metric, 1)`` with a thousand names in turn."""

    def loop(calls: int) -> None:
        for _ in range(calls // len(NAMES)):
            for category, metric in NAMES:
                stats.incr(category, metric, 1)

    loop(len(NAMES))
    return loop, empty_names


def make_incr_nothing() -> tuple[CallLoop, CallLoop]:
    """The C method that does nothing, with the same three arguments."""
    nothing = _nothing()

    def loop(calls: int) -> None:
        each = nothing
        for _ in range(calls // len(NAMES)):
            for category, metric in NAMES:
                each.nothing(category, metric, 1)

    return loop, empty_names


def make_labels() -> tuple[CallLoop, CallLoop]:
    """``requests.labels(category, metric).incr()`` with a thousand label sets in turn."""
    requests = stats.counter("bench", "requests", labelnames=("group", "name"))

    def loop(calls: int) -> None:
        each: Any = requests
        for _ in range(calls // len(NAMES)):
            for category, metric in NAMES:
                each.labels(category, metric).incr()

    loop(len(NAMES))
    return loop, empty_names


def make_labels_dict() -> tuple[CallLoop, CallLoop]:
    """``stats.incr(category, metric, 1, labels={...})`` with a thousand label sets in turn."""
    sets = [{"group": category, "name": metric} for category, metric in NAMES]

    def loop(calls: int) -> None:
        for _ in range(calls // len(NAMES)):
            for labels in sets:
                stats.incr("bench", "asked", 1, labels=labels)

    def without(calls: int) -> None:
        for _ in range(calls // len(NAMES)):
            for _labels in sets:
                pass

    loop(len(NAMES))
    return loop, without


def make_observe(buckets: Any = None) -> tuple[CallLoop, CallLoop]:
    """A bound handle's ``observe()``, with exponential buckets or others."""
    name = "bounded" if buckets else "observed"
    stats.declare("bench", name, kind="histogram", buckets=buckets)
    histogram: Any = stats.histogram("bench", name)

    def loop(calls: int) -> None:
        each = histogram
        for _ in range(calls // len(DURATIONS)):
            for duration in DURATIONS:
                each.observe(duration)

    loop(len(DURATIONS))
    return loop, empty_durations


_held = shmstats.Registry()


def make_buffered(directory: str) -> tuple[CallLoop, CallLoop]:
    """A bound handle's ``incr()`` in buffered mode."""
    _held.init({"path": {"data": directory}, "stats": {"persist": False, "no_buffer": False}})
    return _incr_handle(_held.counter("bench", "handle")), empty


def _nothing() -> Any:
    return nothing_module().Nothing()


def nothing_module() -> Any:
    """Return the module with the methods that do nothing.

    Raises:
        RuntimeError: it could not be built.
    """
    directory = os.environ.get("BENCH_NOTHING")
    if not directory:
        raise RuntimeError("there is no C compiler")
    if directory not in sys.path:
        sys.path.append(directory)
    return importlib.import_module("_nothing")


def prepare() -> tuple[dict[str, str], dict[str, Callable[..., Any]]]:
    """Make the operations."""
    place = tempfile.TemporaryDirectory(prefix="shmstats-bench-")
    configure(f"{place.name}/data")
    loops = Loops(
        {
            "inc": make_inc,
            "inc nothing": make_inc_nothing,
            "incr": make_incr,
            "incr nothing": make_incr_nothing,
            "labels": make_labels,
            "labels dict": make_labels_dict,
            "observe": make_observe,
            "observe 19 bounds": lambda: make_observe(FORMER_DEFAULT_BOUNDS),
            "buffered": lambda: make_buffered(f"{place.name}/held"),
        }
    )
    operations = {"configure": configure, **loops.operations}
    versions = {f"shmstats, {cells.CORE} core": shmstats.__version__, **serving.versions_of("numpy")}
    return versions, operations


if __name__ == "__main__":
    serving.serve(prepare)
