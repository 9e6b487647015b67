"""What an installation says if it cannot be: to an old Python, and where an old pip brings no setuptools."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[1] / "setup.py"

OLD_PYTHON = "import sys; sys.version_info = (3, 10, 13); sys.version = '3.10.13 (main)'"
NO_SETUPTOOLS = "import sys; sys.modules['setuptools'] = None"


@pytest.mark.parametrize(
    ("circumstance", "told"),
    [
        (OLD_PYTHON, "shmstats needs Python 3.11 or later, this is 3.10.13: use a newer one\n"),
        (
            NO_SETUPTOOLS,
            "to build shmstats takes setuptools, which a newer pip brings: python -m pip install --upgrade pip\n",
        ),
    ],
    ids=["an old Python", "no setuptools"],
)
def test_setup_ends_with_one_sentence(circumstance: str, told: str) -> None:
    code = f"{circumstance}; exec(compile(open({str(SETUP)!r}).read(), 'setup.py', 'exec'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)
