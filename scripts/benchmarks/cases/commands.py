"""The cost of whole processes: the dump command, and the import."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..measure import in_turns
from ..rows import Figure, Measured, Row
from ..subjects import SubjectError, Workshop, package_path

_IMPORT = """
import time
import numpy
start, before = time.perf_counter_ns(), time.process_time_ns()
import shmstats
print(time.perf_counter_ns() - start, time.process_time_ns() - before)
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


class _Run(NamedTuple):
    """A program that has run.

    Attributes:
        taken: ns from its start to its end.
        spent: ns of processor time.
        said: its output.
    """

    taken: float
    spent: float
    said: str


def _run(command: Sequence[str]) -> _Run:
    """Run a program, which must end with status 0."""
    environment = os.environ | {"PYTHONPATH": package_path(), "SHMSTATS_PURE": ""}
    # Bytecode files are written, as by default.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before, start = os.times(), time.perf_counter_ns()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    taken, after = time.perf_counter_ns() - start, os.times()
    if done.returncode:
        raise SubjectError(f"{' '.join(command)} ended with status {done.returncode}")
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return _Run(taken, spent * 1e9, done.stdout.decode())


def dump(shop: Workshop) -> list[Row]:
    """``shmstats-dump``, the whole process, beside the import of numpy."""
    series = shop.effort.of(10_000)
    directory = shop.fresh()
    block = shop.block(directory)
    block.do("register", number=series)
    script = Path(sys.executable).with_name("shmstats-dump")
    command = [str(script)] if script.exists() else [sys.executable, "-P", "-m", "shmstats", "dump"]
    command += ["--data", directory]
    shown = json.loads(_run(command).said)
    assert sum(len(metrics) for name, metrics in shown.items() if name.startswith("category")) == series
    peer = "import numpy"
    commands = {
        "": command,
        peer: [sys.executable, "-P", "-c", "import numpy"],
        "python alone": [sys.executable, "-P", "-c", ""],
    }
    spent: dict[str, list[float]] = {name: [] for name in commands}

    def one(name: str) -> float:
        done = _run(commands[name])
        spent[name].append(done.spent)
        return done.taken

    times = in_turns({name: functools.partial(one, name) for name in commands}, shop.effort.repeats(15))
    wall = {name: Figure.best(found) for name, found in times.items()}
    processor = {name: Figure.best(found) for name, found in spent.items()}
    work = f"shmstats-dump of {series:,} series"
    return [
        Measured("dump", work, wall.pop(""), wall).slower(peer, 2),
        Measured("dump", f"{work}: processor time", processor.pop(""), processor).only(),
    ]


def import_(shop: Workshop) -> list[Row]:
    """``import shmstats`` without the time of numpy, and the modules that it must not import."""
    command = [sys.executable, "-P", "-c", _IMPORT]
    _run(command)
    runs = [list(map(float, _run(command).said.split())) for _ in range(shop.effort.repeats(20))]
    counted, found = json.loads(_run([sys.executable, "-P", "-c", _COUNT, shop.fresh()]).said)
    assert counted == 1, counted
    taken, spent = (Figure.best(repeats) for repeats in zip(*runs, strict=True))
    note = f"imported by code that only counts: {', '.join(found)}" if found else ""
    others = Measured("import", "other modules, by code that only counts", taken, note=note)
    work = "import shmstats, numpy being imported"
    return [
        Measured("import", work, taken).at_most(15e6),
        Measured("import", f"{work}: processor time", spent).only(),
        others.that("neither flask nor gunicorn nor psutil", not found),
    ]


CASES = {"dump": dump, "import": import_}
