"""The tables of the documents match the code: keys, calls, commands, endpoints, modes."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from documents import DOCS, section, table

from shmstats import cli
from shmstats.checks import make_bounds
from shmstats.config.rules import SECTIONS
from shmstats.export import FORMATS, View
from shmstats.registry import stats
from shmstats.series import Distribution, Kind, Labels, Mode, Name, Snapshot

API = f"{DOCS}/api.md"


def yaml_text(value: object) -> str:
    """A default as it would stand in a configuration file."""
    if value is None:
        return "null"
    if value == "":
        return "''"
    if isinstance(value, tuple):
        return str(list(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_the_configuration_table_agrees_with_the_declarations() -> None:
    declared = []
    for section_name, keys in SECTIONS.items():
        for key, rule in keys.rules.items():
            declared.append([f"`{section_name}.{key}`", f"`{yaml_text(rule.default)}`", rule.allowed])
    assert [cells for *cells, _ in _rows()] == declared
    assert all(meaning.endswith(".") for *_, meaning in _rows())


def _rows() -> list[list[str]]:
    return table(section(f"{DOCS}/configuration.md"))


@pytest.mark.parametrize("document", ["endpoints", "commands"])
def test_every_format_is_in_the_documents(document: str) -> None:
    text = section(f"{DOCS}/{document}.md")
    assert [name for name in FORMATS if f"`{name}`" not in text] == []


def test_the_architecture_lists_every_header_of_the_core() -> None:
    rows = table(section("shmstats/README.md", "The rooms").partition("**Inside")[2])
    headers = {path.name for path in (Path(cli.__file__).parent / "core").glob("*.h")}
    assert {name for row in rows for name in re.findall(r"`(\w+\.h)`", row[0])} == headers


def test_every_call_in_the_api_table_exists() -> None:
    calls = [row[0].strip("`") for row in table(section(API))]
    for call in calls:
        owner, name = re.match(r"(\w+)\.(\w+)\(", call).groups()  # type: ignore[union-attr]
        assert owner in ("stats", "shmstats")
        assert callable(getattr(stats, name)), call


def test_every_command_and_option_is_described_and_no_other() -> None:
    text = section(f"{DOCS}/commands.md")
    named = {name.split()[0] for name in re.findall(r"`shmstats ([a-z]+[^`]*)`", text)}
    assert named == set(cli.COMMANDS)
    options = [
        option
        for command in map(cli.command, cli.COMMANDS)
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
        if option.startswith("--")
    ]
    assert set(re.findall(r"--[a-z]+", text)) == set(options)


def test_each_promise_of_the_threat_model_names_an_existing_test() -> None:
    text = section(f"{DOCS}/security.md", "What is trusted, what is not")
    tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(tests) > 20
    root = Path(__file__).parents[1]
    assert [test for file, test in tests if f"\ndef {test}(" not in (root / file).read_text()] == []


def test_every_endpoint_is_described() -> None:
    from flask import Flask

    from shmstats.web import blueprint

    app = Flask(__name__)
    app.register_blueprint(blueprint)
    rules = {
        re.sub("/?<.*>", "", rule.rule)
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith(f"{blueprint.name}.") and "nothing_" not in rule.endpoint
    }
    told = {row[0].strip("`").split()[1].partition("?")[0] for row in table(section(f"{DOCS}/endpoints.md"))}
    assert {path.replace("/<path>", "") for path in told} == rules


def test_the_table_of_modes_has_every_mode() -> None:
    named = {name for row in table(section(API, "Gauges of each worker")) for name in re.findall(r"`(\w+)`", row[0])}
    assert named | {"last"} == {mode.name.lower() for mode in Mode}


NAMING = f"{DOCS}/metrics-and-names.md"


def test_documented_names_become_the_documented_samples() -> None:
    rows = table(section(NAMING, "What Prometheus gets"))
    assert len(rows) >= 20
    for kind, names, unit, sample in rows:
        category, metric = (name.strip().strip("`") for name in names.split(","))
        assert first_sample(kind.strip(), category, metric, unit.strip("`")) == sample.strip("`"), names


def test_names_are_escaped_in_the_four_documented_ways() -> None:
    for escaping, sample in table(section(NAMING, "Names in other alphabets")):
        how = re.match("`([^`]+)`", escaping)[1]  # type: ignore[index]
        labels = (("http_status", "200"),)
        assert first_sample("counter", "app", "user.login", "", labels, how) == sample.strip("`"), escaping


def first_sample(
    kind: str, category: str, metric: str, unit: str, labels: Labels = (), escaping: str | None = None
) -> str:
    """The first sample that a statistic has on the page, without its value."""
    bounds = make_bounds(kind, unit, None)
    name = Name(category, metric, Kind[kind.upper()], labels, kind == "counter", bounds, "", unit)
    value = Distribution(1.0, 1.0, (1,) + (0,) * len(bounds)) if bounds else 1
    page = FORMATS["prometheus"].render(Snapshot([name], [value]), View(escaping=escaping)).decode()
    return next(line for line in page.splitlines() if not line.startswith("#")).rpartition(" ")[0]


def test_a_call_on_a_name_of_another_kind_behaves_as_the_table_says(shmstats: ModuleType, stats: Any) -> None:
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
