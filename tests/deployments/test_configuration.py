"""A wrong configuration stops no application, and is shown by every endpoint and on stderr."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from helpers import BOUND

pytestmark = pytest.mark.far_from_core

WRONGLY_CONFIGURED = """
    import logging.config, sys
    from shmstats import stats
    from shmstats.web import create_app

    exec(sys.argv[1])
    stats.incr("a", "b")
    client = create_app().test_client()
    for path in ("/stats", "/metrics", "/debug/goroutines", "/_local/files/_list", "/stats/history"):
        answer = client.get(path)
        print(answer.status_code, "stats.capcity: found an unknown key" in answer.get_json()["error"])
"""


#: Configurations of logging that applications load after all imports.
LOGGING = {
    "as it is": "",
    "without the existing loggers": "logging.config.dictConfig({'version': 1})",
    "above errors": "logging.getLogger().setLevel(logging.CRITICAL)",
    "into a file": "logging.basicConfig(filename='log')",
}


@pytest.mark.parametrize("logging", LOGGING)
def test_every_endpoint_answers_with_the_error_of_the_configuration(tmp_path: Path, logging: str) -> None:
    (tmp_path / "shmstats.yml").write_text("stats: {capcity: 512}\n")
    done = subprocess.run(
        [sys.executable, "-c", dedent(WRONGLY_CONFIGURED), LOGGING[logging]],
        cwd=tmp_path,
        env={**os.environ, "SHMSTATS_CONFIG": str(tmp_path / "shmstats.yml")},
        capture_output=True,
        text=True,
        timeout=BOUND,
    )
    assert done.stdout.splitlines() == ["503 True"] * 5, done.stderr
    log = tmp_path / "log"
    told = done.stderr + (log.read_text() if log.exists() else "")
    assert told.count("stats.capcity") == 1, told
