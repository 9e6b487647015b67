"""Full shared memory, and blocks without free cells, names or rows.

``tests/test_registry.py``, ``tests/block/test_names.py`` and ``tests/block/test_segment.py`` test the effect of each on
one process, and ``tests/block/test_workers.py`` more processes than rows. Here all of them come together, with the
report of ``/stats``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import PythonRunner
from tortures import judge
from tortures.nursery import SCRIPTS, Nursery

pytestmark = pytest.mark.far_from_core

ROWS = 2
NAMES = 150

#: Each name is counted once by each worker; the counter, the gauge and the histogram have their own widths.
COUNT = """
for number in range(names):
    stats.incr('counters', f'{text}{number}')
    stats.gauge('gauges', f'{text}{worker} {number}', 1)
    stats.timing('timings', f'{text}{number}', 1)
    stats.incr('labelled', 'requests', labels={'path': f'{text}{number}'})
    stats.incr('all', 'together')
shmstats.close()
"""


@pytest.mark.parametrize(("what", "text"), [("cells", "n"), ("heap", "n" * 240)])
def test_the_drops_of_many_workers_in_a_full_block_are_counted(
    nursery: Nursery, tmp_path: Path, what: str, text: str
) -> None:
    """Three workers for each row: every operation is either there, or counted as dropped."""
    data = tmp_path / "data"
    config = {"capacity": 1024 if what == "cells" else 2048, "max_workers": ROWS, "snapshot_interval_ms": 86_400_000}
    first = nursery.run("stats.incr('all', 'together'); shmstats.close()", data, config)
    assert first.wait() == 0
    nursery.crashes.clear()
    workers = [nursery.run(COUNT, data, config, names=NAMES, worker=worker, text=text) for worker in range(3 * ROWS)]
    assert [worker.wait() for worker in workers] == [0] * len(workers)
    found = judge.values(data)
    assert found["all", "together"] == 1 + len(workers) * NAMES
    there = dict.fromkeys(("counters", "gauges", "timings", "labelled"), 0)
    for (category, *_), value in found.items():
        if category in there:
            there[category] += value if isinstance(value, int) else sum(value.buckets)
    dropped = found["shmstats", "operations_dropped"]
    assert dropped > 0
    assert sum(there.values()) + dropped == 4 * len(workers) * NAMES


def can_mount() -> bool:
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/dev/shm"]
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_memory() -> None:
    """Skip if no tmpfs can be mounted; in CI the programs are installed, so only the kernel may forbid it."""
    if os.environ.get("CI") and not (shutil.which("unshare") and shutil.which("mount")):
        pytest.fail("unshare or mount are missing, and CI must test with a small /dev/shm")
    if not can_mount():
        pytest.skip("a small tmpfs cannot be mounted here")


STATS = """
    import json, logging, sys
    from shmstats import stats
    from shmstats.web import create_app
    logged = []
    class List(logging.Handler):
        def emit(self, record):
            logged.append(record)
    logging.getLogger("shmstats").addHandler(List())
    stats.incr("old", "m")
    for _ in range(2):
        for number in range(3000):
            stats.incr("new", f"name {number}")
            stats.incr("old", "m")
    client = create_app().test_client()
    answer = client.get("/stats")
    text = client.get("/stats/prometheus").text
    print(json.dumps([answer.status_code, answer.json, [r.getMessage() for r in logged], text]))
"""


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("size", ["128k", "256k"])
def test_a_full_shared_memory_is_stated_by_stats_and_logged_once(
    python: PythonRunner, configure: Any, size: str
) -> None:
    configure(capacity=8192, max_workers=4, persist=False)
    mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    python.prefix = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    status, document, logged, text = json.loads(python.run(STATS, quiet=False))
    assert status == 200
    counted = document["simple"]["new"]
    assert document["simple"]["old"]["m"] == 6001
    assert 0 < len(counted) < 3000
    assert set(counted.values()) == {2}
    dropped = document["simple"]["shmstats"]["operations_dropped"]
    assert dropped == 2 * (3000 - len(counted))
    assert f'operations_dropped_total{{category="shmstats"}} {dropped}\n' in text
    assert len([line for line in logged if "shared memory is full" in line]) == 1, logged


@pytest.mark.thorough
@pytest.mark.usefixtures("small_memory")
def test_temporarily_full_memory_loses_no_registered_count(core: str) -> None:
    """A bout of ``scripts/torture``, with a separate /dev/shm that is filled repeatedly."""
    command = [sys.executable, "-m", "tortures", "--seed", "6", "--first", "4", "--bouts", "1", "--faults", "15"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(SCRIPTS), str(SCRIPTS.parent)])}
    done = subprocess.run(
        [*command, "--core", core, "--only", "workers"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost: 0, counted twice: 0\n" in done.stdout
    assert "fill memory" in done.stdout
