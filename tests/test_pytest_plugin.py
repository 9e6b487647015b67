"""The fixture for tests of code that counts: an empty registry each time, and nothing of it afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SHOP = """
from shmstats import stats

stats.declare("shop", "orders", kind="counter", labelnames=("country",))
orders = stats.counter("shop", "orders", labelnames=("country",))

def order(country):
    orders.labels(country).incr()
    stats.incr("shop", "calls")
"""

TESTS = """
import pytest, shop
from shmstats import stats

@pytest.mark.parametrize("n", range(3))
def test_each_begins_with_nothing(shmstats_registry, n):
    assert shmstats_registry is stats
    assert stats.get("shop", "calls") == 0
    shop.order("fr")
    assert stats.get("shop", "orders", labels={"country": "fr"}) == 1
    assert not list(stats.settings.path.data.glob("**/simple.json"))

def test_without_the_fixture_the_configured_registry_is_used():
    shop.order("de")
    assert stats.get("shop", "calls") == 8
"""

CONFTEST = """
import shmstats
shmstats.init({"path": {"data": "data"}})
shmstats.stats.incr("shop", "calls", 7)
"""


def test_the_fixture_gives_each_test_an_empty_registry_and_restores_the_old_one(tmp_path: Path) -> None:
    for name, text in (("shop.py", SHOP), ("test_shop.py", TESTS), ("conftest.py", CONFTEST)):
        (tmp_path / name).write_text(text)
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "shmstats.pytest_plugin",
            "--rootdir",
            str(tmp_path),
            str(tmp_path),
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
