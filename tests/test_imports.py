"""Code that only counts imports none but numpy and yaml of what is not Python's own."""

from __future__ import annotations

import pytest
from helpers import PythonRunner

pytestmark = pytest.mark.far_from_core

COUNT = """
    import sys
    import numpy, yaml
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
def test_counting_reading_and_saving_need_numpy_and_yaml_alone(use: str, python: PythonRunner) -> None:
    foreign, heavy = python.run(COUNT.format(use=use, heavy=HEAVY)).splitlines()
    assert set(foreign.split()) - {"__mp_main__"} == {"shmstats"}
    assert not heavy
