"""Readers and parsers get every input that was once handled wrongly, and random variations of these."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.parametrize("number", [20, pytest.param(2000, marks=pytest.mark.thorough)])
def test_any_bytes_are_answered_or_refused(number: int) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(SCRIPTS), str(SCRIPTS.parent)])}
    command = [sys.executable, "-m", "attacks.fuzzing", "--mutate", str(number)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout) > 7 * number
