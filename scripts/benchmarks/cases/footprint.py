"""What a worker has in memory, and what importing costs it, beyond a Flask application's: ours and a peer's."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

from ..measure import in_turns
from ..rows import BYTES, Figure, Measured, Row
from ..subjects import SubjectError, Workshop, package_path
from .counting import PROMETHEUS

_NEITHER = "Flask alone"

#: What each side does once Flask and gunicorn are there.
_SIDES = {
    _NEITHER: "",
    "": """
import shmstats
shmstats.init({"path": {"data": sys.argv[1]}, "stats": {"persist": False}})
shmstats.stats.counter("bench", "requests").incr()
""",
    PROMETHEUS: """
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
from prometheus_client import Counter
Counter("requests", "Counted by the benchmark.").inc()
""",
}

_WORK = """
import json, os, sys, time
import flask, gunicorn.app.base
before = time.process_time_ns()
{side}
spent = time.process_time_ns() - before
private = sum(
    int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith(("Private", "Shared_Dirty"))
)
print(json.dumps([spent, 1024 * private]))
"""


def _run(shop: Workshop, name: str) -> tuple[float, float]:
    """Return ns of processor time and bytes of private memory of a side."""
    command = [sys.executable, "-P", "-c", _WORK.replace("{side}", _SIDES[name]), shop.fresh(shop.memory)]
    done = subprocess.run(command, env={"PYTHONPATH": package_path(), "PATH": ""}, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SubjectError(f"the side {name or 'ours'!r} ended with status {done.returncode}")
    spent, private = json.loads(done.stdout)
    return float(spent), float(private)


def footprint(shop: Workshop) -> list[Row]:
    """Processor time of the import and private memory, beyond those of Flask and gunicorn."""
    sizes: dict[str, list[float]] = {name: [] for name in _SIDES}

    def one(name: str) -> float:
        spent, private = _run(shop, name)
        sizes[name].append(private)
        return spent

    times = in_turns({name: functools.partial(one, name) for name in _SIDES}, shop.effort.repeats(9))
    spent = {name: Figure.best(found) for name, found in times.items() if name != _NEITHER}
    alone = min(sizes[_NEITHER])
    private = {name: Figure(min(found) - alone, BYTES) for name, found in sizes.items() if name != _NEITHER}
    work = "beyond Flask and gunicorn, one counter"
    return [
        Measured("footprint", f"import and first count {work}: processor time", spent.pop(""), spent).slower(
            PROMETHEUS, 1
        ),
        Measured("footprint", f"private memory of a worker {work}", private.pop(""), private).at_most(3 * 2**20),
    ]


CASES = {"footprint": footprint}
