"""The wall clock is frozen, stepped, or jumps: uptimes and intervals follow the monotonic clock.

The wall clock is changed for one process, in Python's ``time``. Only moments (``saved`` in a snapshot) may be
wrong then.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import PythonRunner

CLOCKS = {
    "frozen": "lambda real: 1_000_000_000.0",
    "at 1970": "lambda real: real - real + 0.25",
    "going back": "lambda real: 4_000_000_000.0 - 50 * real % 3_000_000_000",
    "leaping": "lambda real: 1_000_000_000.0 + (real * 7919) % 1 * 2_000_000_000",
}

#: The twin uses its own clock only for the time of a flush.
CASES = [*(("C", clock) for clock in CLOCKS), ("Python", "leaping")]

CODE = """
    import json, sys, time
    real, monotonic = time.time, time.monotonic
    wall = eval(sys.argv[1])
    time.time = lambda: wall(real())
    time.time_ns = lambda: int(wall(real()) * 1e9)

    def wait_until(condition):
        end = monotonic() + 30
        while not condition():
            assert monotonic() < end
            time.sleep(0.005)

    from pathlib import Path
    import shmstats
    from shmstats import stats
    from shmstats.web import create_app
    file = Path(sys.argv[2]) / "stats" / "simple.json"
    start = monotonic()
    stats.incr("c", "m")
    with stats.timer("c", "took"):
        inner = monotonic()
        wait_until(lambda: monotonic() > inner + 0.05)
    # Held back, until the interval has passed; then saved, again and again.
    wait_until(lambda: stats.shared.attach().held == 0)
    wait_until(file.exists)
    for _ in range(3):
        before = file.stat().st_ino
        stats.incr("c", "m")
        wait_until(lambda: file.exists() and file.stat().st_ino != before)
    stats.timestamp("c", "noted")
    client = create_app().test_client()
    document = client.get("/stats").json["simple"]
    took = stats.get("c", "took")
    passed = monotonic() - start
    print(json.dumps([document["system"]["uptime"], passed, took.sum, stats.get("c", "m")]))
    shmstats.close()
"""


@pytest.mark.parametrize(("core", "clock"), CASES, indirect=["core"])
@pytest.mark.parametrize("buffered", [False, True], ids=["real-time", "buffered"])
def test_intervals_and_uptimes_do_not_follow_the_wall_clock(
    python: PythonRunner, configure: Callable[..., Any], stats: Any, data: Path, clock: str, buffered: bool
) -> None:
    configure(snapshot_interval_ms=100, no_buffer=not buffered, flush_interval_ms=50)
    uptime, passed, took, counted = json.loads(python.run(CODE, CLOCKS[clock], data))
    assert 0 <= uptime <= passed + 1
    assert 50 <= took <= 1000 * passed
    assert counted == 4
    assert stats.get("c", "m") == 4
