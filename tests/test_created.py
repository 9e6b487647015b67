"""When a series was made: never after its first count, and the same over restarts, kills and new declarations."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest
from export.messages import read
from helpers import PythonRunner

pytestmark = pytest.mark.far_from_core

COUNT = """
    from shmstats import stats
    stats.incr("a", "hits")
    stats.incr("a", "labelled", labels={"x": 1})
    stats.timing("a", "work", 5)
    stats.flush()
"""


def created(stats: Any) -> dict[str, float]:
    """The creation times in OpenMetrics, equal to those in protobuf; without the package's own metrics."""
    from shmstats.export import protobuf
    from shmstats.export.renderer import shared

    snapshot = stats.read()
    lines = [line.split(" ") for line in shared.openmetrics(snapshot).decode().splitlines() if "_created{" in line]
    found = {text.partition("_created")[0]: float(moment) for text, moment in lines if '"shmstats"' not in text}
    for family in read(protobuf.render(snapshot)):
        for metric in family.metric:
            value = metric.counter if metric.HasField("counter") else metric.histogram
            name = family.name.removesuffix("_total")
            if name in found:
                moment = value.created_timestamp.seconds + value.created_timestamp.nanos / 1e9
                assert moment == pytest.approx(found[name], abs=1e-6)
    return found


def test_a_creation_time_precedes_the_first_count_and_survives_restarts(stats: Any, python: PythonRunner) -> None:
    before = time.time()
    python.run(COUNT)
    first = created(stats)
    assert first.keys() == {"hits", "labelled", "work_seconds"}
    assert all(before <= moment <= time.time() for moment in first.values())
    stats.close()
    python.start(f"{COUNT}\n    import os\n    os.kill(os.getpid(), 9)").finish(status=-signal.SIGKILL)
    assert created(stats) == first
    stats.close()
    stats.declare("a", "work", kind="histogram", buckets="exponential", error=0.2)
    stats.declare("a", "hits", kind="counter", help="Hits.", unit="pages")
    python.run(COUNT)
    again = created(stats)
    assert {name.removesuffix("_pages"): moment for name, moment in again.items()} == first
    assert (stats.get("a", "hits"), stats.get("a", "work").count) == (3, 3)
    stats.remove("a", "hits")
    stats.incr("a", "hits")
    assert created(stats)["hits_pages"] > first["work_seconds"]
