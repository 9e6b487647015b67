"""The errors of an impossible installation: an old Python, no setuptools, an active environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUP = ROOT / "setup.py"

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
def test_an_impossible_installation_ends_with_one_sentence(circumstance: str, told: str) -> None:
    code = f"{circumstance}; exec(compile(open({str(SETUP)!r}).read(), 'setup.py', 'exec'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


def test_a_script_does_not_replace_an_active_environment(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    environment = tmp_path / ".venv"
    (environment / "bin").mkdir(parents=True)
    active = os.environ | {"VIRTUAL_ENV": str(environment)}
    command = [tmp_path / "scripts/test"]
    done = subprocess.run(command, env=active, capture_output=True, text=True, check=False, timeout=60)
    said = f"test: the environment {environment} is active and would be replaced: leave it first, by 'deactivate'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
    assert (environment / "bin").is_dir()
