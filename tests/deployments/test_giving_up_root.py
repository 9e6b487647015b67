"""Applications loaded by root, whose workers give up root and can no longer read the package."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from helpers import PythonRunner

import shmstats
from shmstats.snapshot.store import load

pytestmark = [
    pytest.mark.far_from_core,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]

NOBODY = 65534

#: The worker counts after root has left the block, so the worker saves.
PRELOADED = """
    import os, sys
    package, data, counted_by_root, no_buffer = sys.argv[1:]
    sys.path.insert(0, package)
    import shmstats
    from shmstats import stats

    assert shmstats.__file__.startswith(package)
    settings = {"path": {"data": data}, "stats": {"no_buffer": no_buffer == "True"}}
    if counted_by_root == "True":
        shmstats.init(settings)
        stats.incr("app", "loaded")
    left, leave = os.pipe()
    if (child := os.fork()) == 0:
        os.close(leave)
        os.read(left, 1)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            os.listdir(package)
            os._exit(2)
        except PermissionError:
            shmstats.init(settings)
        stats.declare("shop", "visits", kind="counter", help="of customers")
        stats.incr("shop", "visits", 7)
        stats.timing("shop", "answer", 3.5)
        stats.flush()
        assert stats.snapshot()["shop"]["visits"] == 7
        shmstats.close()
        sys.exit()
    shmstats.close()
    os.close(leave)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(("counted_by_root", "no_buffer"), [(True, True), (False, False)])
def test_a_worker_that_can_no_longer_read_the_package_counts_reads_and_saves(
    python: PythonRunner, counted_by_root: bool, no_buffer: bool
) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        package, data = place / "package", place / "data"
        package.mkdir(mode=0o700)
        shutil.copytree(
            Path(shmstats.__file__).parent, package / "shmstats", ignore=shutil.ignore_patterns("__pycache__", "docs")
        )
        data.mkdir()
        os.chown(data, NOBODY, NOBODY)
        python.run(PRELOADED, package, data, counted_by_root, no_buffer)
        saved = load(data / "stats" / "simple.json")
    values = {(name.category, name.metric): value for name, value in zip(saved.names, saved.values, strict=True)}
    assert values["shop", "visits"] == 7
    assert values["shop", "answer"].count == 1
    assert values.get(("app", "loaded")) == (1 if counted_by_root else None)


def test_a_failed_import_before_a_fork_is_logged_once_and_the_rest_is_imported(python: PythonRunner) -> None:
    worker = python.start(
        """
        import os, sys
        import shmstats

        sys.modules["shmstats.snapshot"] = None
        for _ in range(2):
            if os.fork() == 0:
                os._exit(0 if "shmstats.reading.reader" in sys.modules else 1)
            assert os.wait()[1] == 0
        """
    )
    worker.finish(quiet=False)
    assert worker.stderr.count("\n") == 1
    assert "may be unable to save or read: user 0 cannot import shmstats.snapshot" in worker.stderr
