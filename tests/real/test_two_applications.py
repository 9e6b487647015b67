"""Two applications in one process of mod_wsgi: their interpreters must not share a worker."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from real.hosts import HOSTS, WSGI, Running, remove_block

CORES = {"C": "", "Python": 'import os\nos.environ["SHMSTATS_PURE"] = "1"\n'}


@pytest.mark.thorough
@pytest.mark.parametrize("core", CORES)
def test_the_first_application_counts_and_the_error_of_the_second_says_what_to_do(core: str, tmp_path: Path) -> None:
    host = HOSTS["mod_wsgi, daemon with a sub-interpreter"]
    if not host.is_there:
        pytest.skip(f"{host.needs} is missing")
    site = CORES[core] + WSGI
    both = "WSGIScriptAlias /other {directory}/other_site.py\nWSGIScriptAlias / "
    config = host.config.replace("processes=3", "processes=1").replace("WSGIScriptAlias / ", both)
    (tmp_path / "other_site.py").write_text(site.format(prelude=""))
    with Running(dataclasses.replace(host, site=site, config=config, workers=1), tmp_path) as server:
        server.hit(10)
        for _ in range(2):
            assert server.get("/other/hit")[0] == 500
        server.hit(10)
        assert server.total() == 20
    log = (tmp_path / "apache.log").read_text()
    assert log.count("one interpreter of a process can use shmstats (mod_wsgi: WSGIApplicationGroup %{GLOBAL})") == 2
    remove_block(host, tmp_path)
