"""What whole processes cost: the command that dumps, and the import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..measure import in_turns
from ..rows import Figure, Measured, Row
from ..subjects import SubjectError, Workshop, package_path

_IMPORT = """
import sys, time
import numpy
start = time.perf_counter_ns()
import shmstats
print(time.perf_counter_ns() - start)
"""

_COUNT = """
import json, sys
import shmstats
from shmstats import stats
shmstats.init({"path": {"data": sys.argv[1]}})
stats.incr("bench", "counted")
stats.counter("bench", "bound").incr()
stats.gauge("bench", "level", 1.5)
stats.timing("bench", "took", 2.5)
print(json.dumps([stats.get("bench", "counted"), sorted({"flask", "gunicorn", "psutil"} & set(sys.modules))]))
shmstats.close()
"""


def _run(command: Sequence[str]) -> tuple[float, str]:
    """Run a program; returns the ns that it took, and what it wrote."""
    environment = os.environ | {"PYTHONPATH": package_path(), "SHMSTATS_PURE": ""}
    # Compiled modules are kept, as they are for everyone who has not turned that off.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.perf_counter_ns()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    taken = time.perf_counter_ns() - start
    if done.returncode:
        raise SubjectError(f"{' '.join(command)} ended with status {done.returncode}")
    return taken, done.stdout.decode()


def dump(shop: Workshop) -> list[Row]:
    """``shmstats-dump``, the whole process, beside the import of numpy."""
    series = shop.effort.of(10_000)
    directory = shop.fresh()
    block = shop.block(directory)
    block.do("register", number=series)
    script = Path(sys.executable).with_name("shmstats-dump")
    command = [str(script)] if script.exists() else [sys.executable, "-P", "-m", "shmstats", "dump"]
    command += ["--data", directory]
    shown = json.loads(_run(command)[1])
    assert sum(len(metrics) for name, metrics in shown.items() if name.startswith("category")) == series
    peer = "import numpy"
    sides = {
        "": lambda: _run(command)[0],
        peer: lambda: _run([sys.executable, "-P", "-c", "import numpy"])[0],
        "python alone": lambda: _run([sys.executable, "-P", "-c", ""])[0],
    }
    times = in_turns(sides, shop.effort.repeats(15))
    figures = {name: Figure.best(found) for name, found in times.items()}
    measured = Measured("dump", f"shmstats-dump of {series:,} series", figures.pop(""), figures)
    return [measured.slower(peer, 2)]


def import_(shop: Workshop) -> list[Row]:
    """``import shmstats`` beyond numpy, and what it must not import."""
    _run([sys.executable, "-P", "-c", _IMPORT])
    times = [float(_run([sys.executable, "-P", "-c", _IMPORT])[1]) for _ in range(shop.effort.repeats(20))]
    counted, found = json.loads(_run([sys.executable, "-P", "-c", _COUNT, shop.fresh()])[1])
    assert counted == 1, counted
    figure = Figure.best(times)
    note = f"imported by code that only counts: {', '.join(found)}" if found else ""
    others = Measured("import", "other modules, by code that only counts", figure, note=note)
    return [
        Measured("import", "import shmstats, numpy being imported", figure).at_most(15e6),
        others.that("neither flask nor gunicorn nor psutil", not found),
    ]


CASES = {"dump": dump, "import": import_}
