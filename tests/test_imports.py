"""What is imported by whom: who counts, scrapes, saves and restores needs neither numpy nor psutil."""

from __future__ import annotations

import pytest
from helpers import PythonRunner

pytestmark = pytest.mark.far_from_core

COUNT = """
    import sys
    import yaml
    before = set(sys.modules)
    import shmstats
    from shmstats import stats

    {use}
    shmstats.close()
    new = set(sys.modules) - before
    print(*sorted({{name.partition(".")[0] for name in new}} - sys.stdlib_module_names))
    print(*sorted({heavy} & new))
"""

#: What is large of Python's own, and has no part in counting.
HEAVY = {"asyncio", "http.client", "http.server", "ssl", "sqlite3", "unittest", "urllib.request", "xml"}


@pytest.mark.parametrize(
    "use",
    [
        "pass",
        "stats.incr('a', 'b')",
        "stats.timing('a', 'b', 1); stats.snapshot()",
        "stats.incr('a', 'b', labels={'c': 'd'})",
    ],
)
def test_counting_reading_and_saving_need_yaml_alone(use: str, python: PythonRunner) -> None:
    foreign, heavy = python.run(COUNT.format(use=use, heavy=HEAVY)).splitlines()
    assert set(foreign.split()) - {"__mp_main__"} == {"shmstats"}
    assert not heavy


WORKER = """
    import sys, time
    import flask.testing  # which brings pdb, and that asyncio from Python 3.14 on
    before = set(sys.modules)
    import shmstats
    from shmstats import stats
    from shmstats.web import create_app

    stats.declare("a", "workers", kind="gauge", mode="sum")
    stats.incr("a", "b", labels={"c": "d"}), stats.timing("a", "t", 3)
    stats.gauge("a", "g", 2.5), stats.gauge("a", "workers", 1)
    page = create_app().test_client()
    formats = ["text/plain", "application/openmetrics-text", "application/vnd.google.protobuf;"
               " proto=io.prometheus.client.MetricFamily; encoding=delimited"]
    for accepted in formats:
        assert page.get("/stats/prometheus", headers={"Accept": accepted}).status_code == 200
    end = time.monotonic() + 20
    while not (stats.settings.path.data / "stats" / "history.ring").exists() and time.monotonic() < end:
        time.sleep(0.05)
    shmstats.close()
    shmstats.init()
    assert stats.get("a", "b", labels={"c": "d"}) == 1
    shmstats.close()
    print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before} & {"numpy", "psutil", "asyncio"}))
    print(*sorted(name for name in sys.modules if name.startswith("multiprocessing.")))
    assert stats.array().shape == (0, 0) or "numpy" in sys.modules
"""


def test_a_worker_that_counts_serves_saves_and_restores_needs_neither_numpy_nor_psutil(python: PythonRunner) -> None:
    foreign, processes = python.run(WORKER).splitlines()
    assert not foreign
    needed = {"context", "process", "reduction", "resource_tracker", "shared_memory", "spawn", "util"}
    assert {name.partition(".")[2] for name in processes.split()} <= needed
