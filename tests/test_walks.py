"""The number of modules and calls of each operation, with a bound for each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from helpers import BOUND

ROOT = Path(__file__).parents[1]


def test_no_walk_through_the_package_exceeds_its_bound(tmp_path: Path) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT / "scripts"), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHMSTATS")}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "benchmarks.walks"],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": path, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert done.returncode == 0, f"scripts/benchmarks/walks.py says:\n{done.stdout}{done.stderr}"
    assert "new name" in done.stdout
