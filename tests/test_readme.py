"""The README says what the code does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from helpers import BOUND

from shmstats import cli, config
from shmstats.registry import stats
from shmstats.series import Mode

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

CLIENT = """
from app import app

client = app.test_client()
assert client.post("/login").status_code == 200
assert client.get("/stats").json["simple"]["user_actions"] == {"login": 1}
assert 'login_total{category="user_actions"} 1' in client.get("/stats/prometheus").text
"""


def section(title: str) -> str:
    """The text below a heading."""
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def table(text: str) -> list[list[str]]:
    """The rows of the first table of a text, without its head."""
    lines = text[text.index("\n| ") :].strip().splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[: _end(lines)]]
    return [[cell.strip().replace("\\|", "|") for cell in row] for row in rows[2:]]


def _end(lines: list[str]) -> int:
    return next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))


def yaml_text(value: object) -> str:
    """A default as it would stand in a configuration file."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_the_configuration_table_agrees_with_the_declarations() -> None:
    declared = []
    for each in fields(config.Settings):
        if each.name == "source":
            continue
        keys: Any = each.default_factory
        for key in fields(keys):
            rule: config.Rule = key.metadata["rule"]
            name = f"`{each.name}.{key.name}`"
            declared.append([name, f"`{yaml_text(key.default)}`", rule.allowed, rule.about])
    written = [[*cells, meaning.removesuffix(" *Not yet in effect.*")] for *cells, meaning in _rows()]
    assert written == declared


def _rows() -> list[list[str]]:
    return table(section("Configuration"))


def test_every_call_in_the_api_table_exists() -> None:
    calls = [row[0].strip("`") for row in table(section("Python API"))]
    for call in calls:
        owner, name = re.match(r"(\w+)\.(\w+)\(", call).groups()  # type: ignore[union-attr]
        assert owner in ("stats", "shmstats")
        assert callable(getattr(stats, name)), call


def test_every_command_and_option_is_described_and_no_other() -> None:
    text = section("Commands")
    named = {name.split()[0] for name in re.findall(r"`shmstats ([a-z]+[^`]*)`", text)}
    assert named == set(cli.commands.commands)
    options = [
        option
        for command in cli.commands.commands.values()
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
        if option.startswith("--")
    ]
    assert set(re.findall(r"--[a-z]+", text)) == set(options)


def test_every_endpoint_is_described() -> None:
    from flask import Flask

    from shmstats.web import blueprint

    app = Flask(__name__)
    app.register_blueprint(blueprint)
    rules = {
        rule.rule.replace("<shmstats_below:path>", "")
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith(f"{blueprint.name}.") and "nothing_" not in rule.endpoint
    }
    told = {row[0].strip("`").split()[1].partition("?")[0] for row in table(section("Endpoints"))}
    assert {path.replace("/<path>", "") for path in told} == rules


def test_the_example_application_works(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", section("Quick start"), re.DOTALL)
    assert code is not None
    (tmp_path / "app.py").write_text(code[1])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHMSTATS")}
    environment["PYTHONPATH"] = str(ROOT)
    subprocess.run([sys.executable, "-c", CLIENT], cwd=tmp_path, env=environment, check=True, timeout=BOUND)
    assert (tmp_path / "data/stats/simple.json").exists()


@pytest.mark.parametrize("title", ["Labels", "Declarations"])
def test_the_code_of_a_section_runs_and_does_what_it_asserts(title: str, tmp_path: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", section(title), re.DOTALL)
    assert code
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("SHMSTATS_CONFIG", None)
    for each in code:
        command = [sys.executable, "-W", "error", "-c", each]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=BOUND)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_table_of_modes_has_every_mode() -> None:
    named = {name for row in table(section("Declarations")) for name in re.findall(r"`(\w+)`", row[0])}
    assert named | {"last"} == {mode.name.lower() for mode in Mode}


def test_a_call_on_a_name_of_another_kind_does_what_the_table_says(shmstats: ModuleType, stats: Any) -> None:
    from shmstats.export import render

    stats.declare("c", "declared", kind="counter")
    for metric in ("declared", "risen", "fallen", "float", "negative"):
        stats.incr("c", metric, 3)
    stats.incr("c", "negative", -5)
    stats.incr("c", "true", True)
    stats.gauge("c", "gauge", 1.5)
    stats.incr("c", "gauge", 2)
    stats.decr("c", "gauge")
    stats.gauge("c", "declared", 5)
    stats.gauge("c", "risen", 5)
    stats.absolute("c", "fallen", 2)
    stats.gauge("c", "float", 2.5)
    stats.timing("c", "timing", 1)
    for wrong in (
        lambda: stats.gauge("c", "declared", 2.5),
        lambda: stats.timing("c", "declared", 1),
        lambda: stats.incr("c", "timing"),
        lambda: stats.gauge("c", "timing", 1),
    ):
        with pytest.raises(shmstats.KindError):
            wrong()
    text = render(stats.read()).decode()
    samples = dict(re.findall(r'^(\w+)\{category="c"\} (\S+)$', text, re.MULTILINE))
    assert {name: float(value) for name, value in samples.items() if "timing" not in name} == {
        "declared_total": 5, "risen_total": 5, "true_total": 1, "fallen": 2, "float": 2.5, "negative": -2, "gauge": 2.5,
    }  # fmt: skip
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    assert {name for name, type_ in types.items() if type_ == "gauge"} == {"fallen", "float", "negative", "gauge"}


def test_every_link_within_the_page_leads_to_a_heading() -> None:
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", prose)) <= anchors
