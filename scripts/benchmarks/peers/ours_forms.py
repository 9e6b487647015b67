"""Every form of a counting call, beside the fastest one of its kind."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import shmstats
from shmstats import stats

from ..call_forms import FORMS
from . import serving
from .ours import configure
from .serving import CallLoop, LoopMaker, Loops, empty


def make(form: str) -> tuple[CallLoop, CallLoop]:
    """Return the loop of a form, in a module that imports ``stats`` as users do, and the same without the call."""
    scope: dict[str, Any] = {
        "incr": stats.incr,
        "counter": stats.counter("c", "handle"),
        "gauge": stats.gauge("c", "level"),
        "in_progress": stats.gauge("c", "in_progress"),
        "histogram": stats.histogram("c", "took"),
        "sized": stats.histogram("c", "size"),
        "labelled": stats.counter("c", "labelled", labelnames=("a", "b")),
        "timer": stats.timer("c", "kept"),
        "timed": stats.timer("c", "function")(lambda: None),
        "kept": {"a": "x", "b": "y"},
        "mapping": MappingProxyType({"a": "x", "b": "y"}),
        "moment": datetime.now(UTC),
    }
    code = "import shmstats\nfrom shmstats import stats\n"
    code += f"def loop(calls):\n    local = stats\n    for _ in range(calls):\n        {FORMS[form].code}\n"
    exec(code, scope)
    loop: CallLoop = scope["loop"]
    loop(100)
    return loop, empty


def _maker(form: str) -> LoopMaker:
    return lambda: make(form)


def prepare() -> tuple[dict[str, str], dict[str, Callable[..., Any]]]:
    """Make the operations."""
    place = tempfile.TemporaryDirectory(prefix="shmstats-bench-")
    configure(f"{place.name}/data")
    stats.gauge("c", "g", 0)
    stats.incr("c", "total")
    stats.declare("c", "in_progress", kind="gauge", mode="livesum")
    stats.declare("c", "size", kind="histogram", unit="bytes", buckets=(100, 1000))
    stats.declare("c", "s", kind="state", states=("on", "off"))
    loops = Loops({form: _maker(form) for form in FORMS})

    def close() -> None:
        shmstats.close()
        place.cleanup()

    return serving.versions_of("numpy"), {**loops.operations, "close": close}


if __name__ == "__main__":
    serving.serve(prepare)
