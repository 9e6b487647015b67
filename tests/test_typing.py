"""The types of the public calls: a program with every kind of handle, checked by ``mypy --strict``."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

GOOD = """
from typing_extensions import assert_type

from shmstats import Counter, DeclarationError, Gauge, Histogram, KindError, Labelled, stats

stats.declare("a", "x", kind="gauge", mode="livesum", help="It.", unit="bytes", labelnames=("a",), buckets=None)
stats.incr("a", "b", 1, labels={"x": "y"})
stats.decr("a", "b", labels={"x": "y"})
assert_type(stats.counter("a", "b"), Counter)
assert_type(stats.counter("a", "b", labels={"x": "y"}), Counter)
parent = stats.counter("a", "b", labelnames=("x",))
assert_type(parent, Labelled[Counter])
parent.labels("1").incr(2)
parent.labels(x="1").decr()
assert_type(parent.remove("1") + parent.clear(), int)
stats.gauge("a", "g", 1.5)
stats.gauge("a", "g", 1, labels={"x": "y"})
gauge = stats.gauge("a", "g")
assert_type(gauge, Gauge)
gauge.set(1)
gauge.incr(0.5)
assert_type(stats.gauge("a", "g", labelnames=["x"]), Labelled[Gauge])
sizes = stats.histogram("a", "h", labelnames=["x"])
assert_type(sizes, Labelled[Histogram])
sizes.labels("a").observe(1.5)
stats.timing("a", "h", 5)
assert_type(stats.timing("a", "h"), Histogram)
assert_type(stats.timing("a", "h", labels={"a": "b"}), Histogram)
assert_type(stats.timing("a", "h", labelnames=("x",)), Labelled[Histogram])


@stats.timer("a", "h", labels={"a": "b"})
def twice(number: int) -> int:
    return 2 * number


assert_type(twice(1), int)
assert issubclass(DeclarationError, ValueError) and issubclass(KindError, ValueError)
"""

BAD = """
from shmstats import stats
stats.incr("a", "b", 1, {"a": "b"})
stats.counter("a", "b", labels={"a": "b"}, labelnames=("a",))
stats.gauge("a", "b", "c")
stats.counter("a", "b").set(1)
stats.gauge("a", "b", 1, labelnames=("a",))
stats.timing("a", "b").incr()
"""


def test_a_type_checker_knows_the_type_of_each_call(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "good.py").write_text(textwrap.dedent(GOOD))
    (tmp_path / "bad.py").write_text(textwrap.dedent(BAD))
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "good.py", "bad.py"],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    errors = [line.split(":")[:2] for line in checked.stdout.splitlines() if ": error: " in line]
    assert errors == [["bad.py", str(number)] for number in range(3, 9)], checked.stdout + checked.stderr
