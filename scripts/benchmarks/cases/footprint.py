"""Memory and import time of a worker beyond those of a Flask application: ours and a peer's."""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import sys

from ..measure import in_turns
from ..rows import BYTES, Figure, Measured, Row
from ..subjects import SubjectError, Workshop, package_path
from .counting import OPENTELEMETRY, PROMETHEUS

_NEITHER = "Flask alone"

#: The worker that creates the block, and one that finds it.
_FIRST, _FURTHER = "the first worker", "a further worker"

#: The imports of a web application.
_WEB = "import flask, gunicorn.app.base"

_OURS = """
import shmstats
shmstats.init({"path": {"data": sys.argv[1]}, "stats": {"persist": False}})
shmstats.stats.counter("bench", "requests").incr()
"""

#: The code of each side.
_SIDES = {
    _NEITHER: "",
    _FIRST: _OURS,
    _FURTHER: _OURS,
    PROMETHEUS: """
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
from prometheus_client import Counter
Counter("requests", "Counted by the benchmark.").inc()
""",
    OPENTELEMETRY: """
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
MeterProvider(metric_readers=[InMemoryMetricReader()]).get_meter("bench").create_counter("requests").add(1)
""",
}

_WORK = """
import json, os, sys, time
{there}
before = time.process_time_ns()
{side}
spent = time.process_time_ns() - before
private = sum(
    int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith(("Private", "Shared_Dirty"))
)
print(json.dumps([spent, 1024 * private]))
"""


def _run(name: str, directory: str, there: str = _WEB) -> tuple[float, float]:
    """Return the ns of processor time and the bytes of private memory that a side adds to the process."""
    work = _WORK.replace("{there}", there).replace("{side}", _SIDES[name])
    command = [sys.executable, "-P", "-c", work, directory]
    done = subprocess.run(command, env={"PYTHONPATH": package_path(), "PATH": ""}, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SubjectError(f"the side {name!r} ended with status {done.returncode}")
    spent, private = json.loads(done.stdout)
    return float(spent), float(private)


def footprint(shop: Workshop) -> list[Row]:
    """Processor time of the import and private memory, beyond those of Flask and gunicorn."""
    sides = dict(_SIDES)
    missing = {}
    if importlib.util.find_spec("opentelemetry") is None or importlib.util.find_spec("opentelemetry.sdk") is None:
        missing[OPENTELEMETRY] = "its SDK is not installed"
        del sides[OPENTELEMETRY]
    sizes: dict[str, list[float]] = {name: [] for name in sides}
    held = shop.fresh(shop.memory)
    shop.block(held).do("register", number=1)

    def one(name: str) -> float:
        spent, private = _run(name, held if name == _FURTHER else shop.fresh(shop.memory))
        sizes[name].append(private)
        return spent

    def plain(name: str) -> float:
        return _run(name, held if name == _FURTHER else shop.fresh(shop.memory), "")[0]

    times = in_turns({name: functools.partial(one, name) for name in sides}, shop.effort.repeats(9))
    plain_times = in_turns(
        {name: functools.partial(plain, name) for name in (_FURTHER, PROMETHEUS)}, shop.effort.repeats(9)
    )
    alone = min(sizes[_NEITHER])
    spent = {name: Figure.best(found) for name, found in times.items()}
    private = {name: Figure(min(found) - alone, BYTES) for name, found in sizes.items()}
    beside = [name for name in sides if name in (PROMETHEUS, OPENTELEMETRY)]
    peers, theirs = ({name: found[name] for name in beside} for found in (spent, private))
    rows: list[Row] = []
    for worker in (_FIRST, _FURTHER):
        work = f"{worker} beyond Flask and gunicorn, one counter"
        rows += [
            Measured(
                "footprint", f"import and first count of {work}: processor time", spent[worker], peers, missing
            ).slower(PROMETHEUS, 1),
            Measured("footprint", f"private memory of {work}", private[worker], theirs, missing).at_most(3 * 2**20),
        ]
    best = {name: Figure.best(found) for name, found in plain_times.items()}
    work = f"import and first count of {_FURTHER} in a process without Flask: processor time"
    return [*rows, Measured("footprint", work, best.pop(_FURTHER), best).slower(PROMETHEUS, 1)]


CASES = {"footprint": footprint}
