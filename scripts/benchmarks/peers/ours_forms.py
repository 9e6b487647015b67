"""Every form in which a counting call is written, beside the quickest one of its kind."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import shmstats
from shmstats import stats

from . import serving
from .ours import configure
from .serving import CallLoop, LoopMaker, Loops, empty

#: By its name a form, as it is written, and how it is prepared.
FORMS = {
    "stats.incr(c, m, 1)": "stats.incr('c', 'm', 1)",
    "stats.incr(c, m)": "stats.incr('c', 'm')",
    "stats.incr(c, m, n=1)": "stats.incr('c', 'm', n=1)",
    "stats.incr(c, m, 1), stats being local": "local.incr('c', 'm', 1)",
    "stats.incr(category=c, metric=m)": "stats.incr(category='c', metric='m')",
    "stats.decr(c, m)": "stats.decr('c', 'down')",
    "stats.decr(c, m, n=1)": "stats.decr('c', 'down', n=1)",
    "stats.gauge(c, m, 1.5)": "stats.gauge('c', 'g', 1.5)",
    "stats.gauge(c, m, value=1.5)": "stats.gauge('c', 'g', value=1.5)",
    "stats.absolute(c, m, 5)": "stats.absolute('c', 'g2', 5)",
    "stats.timing(c, m, 2.5)": "stats.timing('c', 't', 2.5)",
    "stats.timing(c, m, milliseconds=2.5)": "stats.timing('c', 't', milliseconds=2.5)",
    "with stats.timer(c, m)": "with stats.timer('c', 't2'): pass",
    "stats.incr(c, m, labels={…})": "stats.incr('c', 'l', labels={'a': 'x', 'b': 'y'})",
    "stats.gauge(c, m, 1.5, labels={…})": "stats.gauge('c', 'gl', 1.5, labels={'a': 'x', 'b': 'y'})",
    "stats.timing(c, m, 2.5, labels={…})": "stats.timing('c', 'tl', 2.5, labels={'a': 'x', 'b': 'y'})",
    "with stats.timer(c, m, labels={…})": "with stats.timer('c', 'tl2', labels={'a': 'x', 'b': 'y'}): pass",
    "counter.incr()": "counter.incr()",
    "counter.incr(n=1)": "counter.incr(n=1)",
    "counter.decr()": "counter.decr()",
    "gauge.set(1.5)": "gauge.set(1.5)",
    "gauge.incr()": "gauge.incr()",
    "histogram.observe(2.5)": "histogram.observe(2.5)",
    "labelled.labels(a, b).incr()": "labelled.labels('x', 'y').incr()",
    "labelled.labels(a=a, b=b).incr()": "labelled.labels(a='x', b='y').incr()",
    "stats.get(c, m)": "stats.get('c', 'm')",
    "stats.timestamp(c, m)": "stats.timestamp('c', 'moment')",
}


def make(form: str) -> tuple[CallLoop, CallLoop]:
    """Return the loop of a form, in a module that imports ``stats`` as users do, and the same without the call."""
    scope: dict[str, Any] = {
        "counter": stats.counter("c", "handle"),
        "gauge": stats.gauge("c", "level"),
        "histogram": stats.histogram("c", "took"),
        "labelled": stats.counter("c", "labelled", labelnames=("a", "b")),
    }
    code = "from shmstats import stats\n"
    code += f"def loop(calls):\n    local = stats\n    for _ in range(calls):\n        {FORMS[form]}\n"
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
    loops = Loops({form: _maker(form) for form in FORMS})

    def close() -> None:
        shmstats.close()
        place.cleanup()

    return serving.versions_of("numpy"), {**loops.operations, "forms": lambda: list(FORMS), "close": close}


if __name__ == "__main__":
    serving.serve(prepare)
