"""A year of a deployment: events in random order lose no count, no page and no boot."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tortures.deployment import EVENTS

#: The server of the everyday run: gthread workers with ``--preload``, which start fastest.
SEED = 7

SCRIPTS = Path(__file__).parents[2] / "scripts"


def live(events: int, seed: int, bound: float, *options: str) -> str:
    """Run a deployment; return its report."""
    command = [sys.executable, "-m", "tortures", "--only", "deployments", "--bouts", "1", "--core", "C"]
    command += ["--minutes", str(bound / 60), "--events", str(events), "--seed", str(seed), *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(SCRIPTS), str(SCRIPTS.parent)])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=bound + 120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"{events} faults", done.stdout), f"not all within {bound} s: {done.stdout}"
    return done.stdout


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [SEED, 2])
def test_no_event_costs_a_count_a_page_or_a_boot(seed: int) -> None:
    report = live(len(EVENTS), seed, 240)
    assert "lost: 0, counted twice: 0" in report


@pytest.mark.thorough
def test_a_season_of_events_loses_nothing_that_prometheus_has_scraped() -> None:
    live(2 * len(EVENTS), 3, 400, "--prometheus")


@pytest.mark.storm
@pytest.mark.parametrize("seed", [11, 12])
def test_a_year_of_events_loses_nothing_that_prometheus_has_scraped(seed: int) -> None:
    live(200, seed, 3000, "--prometheus")
