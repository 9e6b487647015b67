"""What a counting call costs, beside calls that do less, in one run.

``inc`` and ``incr`` stand beside a C method that does nothing, ``contended`` (two processes, one name) beside
one process alone, ``buffered`` beside real-time mode.

Every figure is the best of several repeats of a plain ``for`` loop with the call in it, less the empty
loop, so that both sides of a ratio are measured alike. Machines are noisy: compare the ratios of one run,
not the times of two.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import shmstats
from shmstats import stats
from shmstats.block.cells import CORE

CALLS = 500_000
REPEATS = 15


class Row(NamedTuple):
    """One line of the result: nanoseconds a call on both sides, and the largest ratio allowed."""

    case: str
    ours: float
    limit: float
    target: float

    @property
    def ratio(self) -> float:
        """Ours over the limit."""
        return self.ours / self.limit


def build_nothing(directory: Path) -> Any:
    """Compile the C methods that do nothing, and return an object that has them."""
    source = Path(__file__).with_name("_nothing.c")
    target = directory / f"_nothing{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = sysconfig.get_path("include")
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    command = [compiler, "-O3", "-shared", "-fPIC", f"-I{include}", str(source), "-o", str(target)]
    subprocess.run(command, check=True)
    spec = importlib.util.spec_from_file_location("_nothing", target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Nothing()


def loop_empty(calls: int) -> None:
    """The loop alone."""
    for _ in range(calls):
        pass


def measure(ours: Callable[[int], None], limit: Callable[[int], None]) -> tuple[float, float]:
    """Return the least times of two loops, in ns an iteration, less the empty loop.

    The loops take turns, so that a noisy moment does not fall on one side alone.
    """
    least = dict.fromkeys((loop_empty, ours, limit), float("inf"))
    for _ in range(REPEATS):
        for loop in least:
            least[loop] = min(least[loop], _time(loop))
    return least[ours] - least[loop_empty], least[limit] - least[loop_empty]


def _time(loop: Callable[[int], None]) -> float:
    start = time.perf_counter_ns()
    loop(CALLS)
    return (time.perf_counter_ns() - start) / CALLS


def measure_handle(nothing: Any) -> Row:
    """A bound handle's ``incr()`` beside a C method that does nothing."""
    counter = stats.counter("bench", "handle")
    counter.incr()

    def ours(calls: int) -> None:
        for _ in range(calls):
            counter.incr()

    def limit(calls: int) -> None:
        for _ in range(calls):
            nothing.nothing()

    return Row("inc", *measure(ours, limit), 1.6)


def measure_incr(nothing: Any) -> Row:
    """``stats.incr(category, metric, 1)`` beside a C method of three arguments that does nothing."""
    stats.incr("bench", "incr", 1)

    def ours(calls: int) -> None:
        for _ in range(calls):
            stats.incr("bench", "incr", 1)

    def limit(calls: int) -> None:
        for _ in range(calls):
            nothing.nothing("bench", "incr", 1)

    return Row("incr", *measure(ours, limit), 3.0)


def _count_when_told(barrier: Any, results: Any) -> None:
    counter = stats.counter("bench", "contended")
    counter.incr()

    def ours(calls: int) -> None:
        for _ in range(calls):
            counter.incr()

    times = []
    for _ in range(REPEATS):
        barrier.wait()
        times.append(_time(ours))
    results.put(min(times))


def measure_buffered(directory: Path) -> Row:
    """A bound handle's ``incr()`` in buffered mode beside real-time mode."""
    real_time, buffered = (_registry(directory / name, no_buffer=name == "real") for name in ("real", "held"))
    counters = [registry.counter("bench", "mode") for registry in (buffered, real_time)]
    for counter in counters:
        counter.incr()

    def ours(calls: int) -> None:
        counter = counters[0]
        for _ in range(calls):
            counter.incr()

    def limit(calls: int) -> None:
        counter = counters[1]
        for _ in range(calls):
            counter.incr()

    row = Row("buffered", *measure(ours, limit), 1.0)
    for registry in (real_time, buffered):
        registry.close()
    return row


def _registry(directory: Path, *, no_buffer: bool) -> shmstats.Registry:
    registry = shmstats.Registry()
    registry.init({"path": {"data": str(directory)}, "stats": {"persist": False, "no_buffer": no_buffer}})
    return registry


def measure_contended() -> Row:
    """The time of a call while two processes count one name, beside that of one process alone."""
    return Row("contended", _processes(2), _processes(1), 1.3)


def _processes(number: int) -> float:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(number), context.Queue()
    processes = [context.Process(target=_count_when_told, args=(barrier, results)) for _ in range(number)]
    for process in processes:
        process.start()
    times = [results.get(timeout=300) for _ in processes]
    for process in processes:
        process.join(60)
    return max(times)


def main() -> int:
    """Print the table; returns 1 where a target is missed."""
    with tempfile.TemporaryDirectory() as directory:
        shmstats.init({"path": {"data": f"{directory}/data"}, "stats": {"persist": False}})
        nothing = build_nothing(Path(directory))
        rows = [measure_handle(nothing), measure_incr(nothing), measure_contended()]
        rows.append(measure_buffered(Path(directory)))
        shmstats.close()
    print(f"core {CORE}, Python {sys.version.split()[0]}, best of {REPEATS} repeats of {CALLS:,} calls\n")
    print(f"{'case':<12}{'ours, ns':>10}{'limit, ns':>11}{'ratio':>8}{'target':>8}")
    for row in rows:
        met = "met" if row.ratio <= row.target else "missed"
        print(f"{row.case:<12}{row.ours:>10.1f}{row.limit:>11.1f}{row.ratio:>8.2f}{row.target:>8.2f}  {met}")
    return int(any(row.ratio > row.target for row in rows))


if __name__ == "__main__":
    sys.exit(main())
