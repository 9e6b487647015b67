"""The page of the README about prometheus_client, run."""

from __future__ import annotations

import re
from pathlib import Path

from real.servers import Gunicorn, Load

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_example_shows_what_all_workers_have_counted(tmp_path: Path) -> None:
    section = README.partition("\n## From prometheus_client\n")[2].partition("\n## ")[0]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    assert len([line for line in code[1].splitlines() if line.endswith("# new")]) == 2
    with Gunicorn(tmp_path, "--workers", "4", site=code[1]) as server:
        with Load(server, path="/") as load:
            load.more(200)
        assert load.failed == 0
        assert set(load.answered) == {"welcome\n"}
        pages = [server.get("/metrics")[1] for _ in range(12)]
        for page in pages:
            assert f'visits_total{{page="index"}} {float(load.total)}\n' in page
            assert f"visit_duration_seconds_count {float(load.total)}\n" in page
