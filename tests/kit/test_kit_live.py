"""Every expression of the kit, evaluated by a live Prometheus that scrapes a live gunicorn and gets its pushes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus import Prometheus
from servers import SITE, Gunicorn, Load, wait_until

from shmstats.terminal import kit

pytestmark = pytest.mark.thorough

_SITE = f"""{SITE}

@app.get("/fail")
def fail():
    return "failed", 500
"""

#: The range of the value of an expression, by a part of its text; without an entry from 0 to 1e12.
_BOUNDS = [
    (r"^up", (1, 1)),
    (r"histogram_quantile|p\d\d_rate5m", (0.0001, 60)),
    (r"gunicorn_errors:ratio|status=~\"5..\".*/ sum", (0.0001, 0.9)),
    (r"utilisation|busy_seconds_sum.*/ sum", (0.0001, 1.1)),
    (r"resets|operations_dropped|push_error|locks_taken", (0, 0)),
    (r"backlog", (0, 64)),
    (r"saved_seconds_ago", (0, 60)),
    (r"^sum\(rate\(gunicorn_requests", (0.0001, 1e5)),
]


def expressions(directory: Path) -> Iterator[str]:
    """Every expression: of alerts, without the comparison; of panels, with their variables replaced."""
    rules = yaml.safe_load((directory / "prometheus/rules/shmstats.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            for part in rule["expr"].split(" and "):
                yield re.sub(r" (?:>|==) [\d.]+$", "", part) if "alert" in rule else part
    for file in sorted((directory / "grafana/dashboards").iterdir()):
        dashboard = json.loads(file.read_text())
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", "1m")
                yield expression.replace('"$job"', '".*"').replace('"$instance"', '".*"')


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus with the kit's rules, after some time under load."""
    top = tmp_path_factory.mktemp("kit")
    kit.write(top / "kit")
    (top / "site").mkdir()
    (top / "prometheus").mkdir()
    (top / "push").mkdir()
    hooks = ("--config", "python:shmstats.integrations.gunicorn", "--workers", "3")
    own = yaml.safe_load((top / "kit/prometheus/prometheus.yml").read_text())
    own["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), "1s")
    own["rule_files"] = [str(top / "kit/prometheus/rules/*.yml")]
    own["scrape_configs"][0]["file_sd_configs"] = [{"files": [str(top / "targets/*.yml")]}]
    (top / "targets").mkdir()
    options = ("--web.enable-remote-write-receiver",)
    with Prometheus(top / "prometheus", {}, config=json.dumps(own), options=options) as prometheus:
        config = {
            "path": {"data": "data"},
            "stats": {"snapshot_interval_ms": 1000},
            "push": {"url": f"{prometheus.address}/api/v1/write", "interval_seconds": 1, "labels": {"job": "pushed"}},
        }
        with Gunicorn(top / "site", *hooks, site=_SITE, config=json.dumps(config)) as server:
            targets = [{"targets": [f"127.0.0.1:{server.port}"], "labels": {"job": "web"}}]
            (top / "targets/machines.yml").write_text(json.dumps(targets))
            with Load(server, threads=2) as load, Load(server, "/fail", threads=1):
                wait_until(lambda: prometheus.query("count_over_time(up[1m])").get("web", 0) > 6, "scrapes")
                wait_until(lambda: prometheus.samples("target_info"), "a push")
                load.more(10)
                wait_until(lambda: prometheus.samples("job:gunicorn_errors:ratio_rate5m"), "the rules")
                yield prometheus


def test_every_expression_has_a_plausible_value(engine: Prometheus, tmp_path: Path) -> None:
    kit.write(tmp_path)
    wrong = []
    for expression in dict.fromkeys(expressions(tmp_path)):
        low, high = next((bounds for pattern, bounds in _BOUNDS if re.search(pattern, expression)), (0, 1e12))
        values = [float(sample["value"][1]) for sample in engine.samples(expression)]
        if not values or not all(math.isfinite(value) and low <= value <= high for value in values):
            wrong.append((expression, values))
    assert not wrong, "\n".join(map(str, wrong))
    assert engine.samples('ALERTS{alertstate="firing", alertname!~"GunicornErrorShare"}') == []
