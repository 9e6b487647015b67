"""Runs the hot calls in regions that callgrind counts: ``python -m benchmarks.peers.ours_instructions CALLS``.

Each loop runs in three regions: of one iteration, to warm it, of ``CALLS``, and of twice as many iterations. A loop
iterates over `itertools.repeat`, which allocates nothing. ``stats`` is an imported
name, as in users' code: Python calls its methods faster than those of a local variable.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from itertools import repeat
from typing import Any

import shmstats
from shmstats import stats

from .ours import _nothing, configure, nothing_module


def _empty(calls: int) -> None:
    for _ in repeat(None, calls):
        pass


def _loops() -> list[Callable[[int], None]]:
    counter, histogram, nothing, registry = (
        stats.counter("bench", "handle"),
        stats.histogram("bench", "took"),
        _nothing(),
        stats,
    )

    def handle(calls: int) -> None:
        each = counter
        for _ in repeat(None, calls):
            each.incr()

    def incr(calls: int) -> None:
        for _ in repeat(None, calls):
            stats.incr("bench", "named", 1)

    def incr_of_local(calls: int) -> None:
        each = registry
        for _ in repeat(None, calls):
            each.incr("bench", "named", 1)

    def observe(calls: int) -> None:
        each = histogram
        for _ in repeat(None, calls):
            each.observe(12.5)

    def nothing_of_none(calls: int) -> None:
        each: Any = nothing
        for _ in repeat(None, calls):
            each.nothing()

    def nothing_of_three(calls: int) -> None:
        each: Any = nothing
        for _ in repeat(None, calls):
            each.nothing("bench", "named", 1)

    return [_empty, handle, incr, incr_of_local, observe, nothing_of_none, nothing_of_three, *_forms()]


def _forms() -> list[Callable[[int], None]]:
    """The other forms of the calls."""
    parent = stats.counter("bench", "labelled", labelnames=("group", "name"))
    labels = {"group": "a", "name": "b"}

    def keyword(calls: int) -> None:
        for _ in repeat(None, calls):
            stats.incr("bench", "named", n=1)

    def labelled(calls: int) -> None:
        for _ in repeat(None, calls):
            stats.incr("bench", "asked", labels=labels)

    def by_position(calls: int) -> None:
        each = parent
        for _ in repeat(None, calls):
            each.labels("a", "b").incr()

    def by_name(calls: int) -> None:
        each = parent
        for _ in repeat(None, calls):
            each.labels(group="a", name="b").incr()

    def gauge(calls: int) -> None:
        for _ in repeat(None, calls):
            stats.gauge("bench", "level", 1.5)

    def timing(calls: int) -> None:
        for _ in repeat(None, calls):
            stats.timing("bench", "took", 1.5)

    def timer(calls: int) -> None:
        for _ in repeat(None, calls):
            with stats.timer("bench", "took"):
                pass

    def get(calls: int) -> None:
        for _ in repeat(None, calls):
            stats.get("bench", "named")

    return [keyword, labelled, by_position, by_name, gauge, timing, timer, get]


def main() -> None:
    """Warm the loops, then run each of them in its regions."""
    calls = int(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="shmstats-bench-") as directory:
        configure(directory)
        region = nothing_module().region
        loops = _loops()
        for loop in loops:
            loop(1000)
        for loop in loops:
            region(loop, 1)
            region(loop, calls)
            region(loop, 2 * calls)
        shmstats.close()


if __name__ == "__main__":
    main()
