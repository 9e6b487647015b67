"""Infos and states: the last value that any process has set, in every format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import PythonRunner
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

pytestmark = pytest.mark.far_from_core

Shown = dict[tuple[str, tuple[tuple[str, str], ...]], float]

IDLE, RUNNING = "idle", "running"


def openmetrics(stats: Any) -> tuple[dict[str, str], Shown]:
    """Types and samples of the page."""
    from shmstats.export.renderer import shared

    families = list(parse_openmetrics(shared.openmetrics(stats.read()).decode()))
    return {family.name: family.type for family in families}, _samples(families)


def _samples(families: list[Any]) -> Shown:
    return {
        (sample.name, tuple(sorted(pair for pair in sample.labels.items() if pair[0] != "category"))): sample.value
        for family in families
        for sample in family.samples
        if sample.labels.get("category") != "shmstats" and not sample.name.endswith("_created")
    }


def test_an_info_has_its_last_value(stats: Any) -> None:
    stats.info("app", "build", {"version": "1.0", "branch": "main"})
    stats.info("app", "build", {"version": "1.1", "branch": "main"})
    stats.info("app", "library", {"version": 3}, labels={"name": "numpy"})
    stats.info("app", "library", {"version": 4}, labels={"name": "flask"})
    stats.info("app", "library", {"version": 5}, labels={"name": "flask"})
    types, samples = openmetrics(stats)
    assert (types["build"], types["library"]) == ("info", "info")
    assert samples == {
        ("build_info", (("branch", "main"), ("version", "1.1"))): 1,
        ("library_info", (("name", "numpy"), ("version", "3"))): 1,
        ("library_info", (("name", "flask"), ("version", "5"))): 1,
    }


def test_a_state_is_one_of_the_declared_states(stats: Any) -> None:
    stats.declare("job", "phase", kind="state", states=(IDLE, RUNNING), help="What the job does.")
    stats.state("job", "phase", IDLE)
    stats.state("job", "phase", RUNNING)
    stats.state("job", "phase", IDLE, labels={"queue": "mail"})
    types, samples = openmetrics(stats)
    assert types["phase"] == "stateset"
    assert samples == {
        ("phase", (("phase", IDLE),)): 0,
        ("phase", (("phase", RUNNING),)): 1,
        ("phase", (("phase", IDLE), ("queue", "mail"))): 1,
        ("phase", (("phase", RUNNING), ("queue", "mail"))): 0,
    }


def test_infos_and_states_are_gauges_in_text_and_protobuf(stats: Any) -> None:
    from shmstats.export import protobuf, render, to_document, to_structured

    stats.declare("job", "phase", kind="state", states=(IDLE, RUNNING))
    stats.state("job", "phase", RUNNING)
    stats.info("app", "build", {"version": "1.1"})
    families = list(parse_text(render(stats.read()).decode()))
    assert {family.name: family.type for family in families if family.name in ("phase", "build_info")} == {
        "phase": "gauge", "build_info": "gauge",
    }  # fmt: skip
    assert _samples(families) == openmetrics(stats)[1]
    page = protobuf.render(stats.read())
    assert b"build_info" in page
    assert b"phase" in page
    assert to_document(stats.read())["app"] == {'build{version="1.1"}': 1}
    assert {each["kind"] for each in to_structured(stats.read())["series"]} >= {"info", "state"}


def test_the_last_process_to_write_sets_the_state_and_there_is_only_one(stats: Any, python: PythonRunner) -> None:
    stats.declare("job", "phase", kind="state", states=("a", "b", "c"))
    stats.info("app", "build", {"version": "0"})
    code = """
        import sys
        from shmstats import stats
        stats.declare("job", "phase", kind="state", states=("a", "b", "c"))
        for turn in range(60):
            stats.state("job", "phase", "abc"[(turn + int(sys.argv[1])) % 3])
            stats.info("app", "build", {"version": f"{sys.argv[1]}.{turn}"})
    """
    for child in [python.start(code, number) for number in range(3)]:
        child.finish()
    _, samples = openmetrics(stats)
    assert sum(value for (name, _), value in samples.items() if name == "phase") == 1
    (said,) = [dict(labels)["version"] for (name, labels), _ in samples.items() if name == "build_info"]
    assert said in {f"{number}.59" for number in range(3)}


def test_after_a_restart_there_are_no_states_and_others_may_be_declared(stats: Any) -> None:
    stats.declare("job", "phase", kind="state", states=("a", "b"))
    stats.state("job", "phase", "a")
    stats.declare("job", "phase", kind="state", states=("b", "c"))
    stats.state("job", "phase", "c")
    assert {dict(labels)["phase"]: value for (_, labels), value in openmetrics(stats)[1].items()} == {"b": 0, "c": 1}
    stats.close()
    assert openmetrics(stats)[1] == {}


def test_an_invalid_info_or_state_raises(stats: Any) -> None:
    stats.declare("job", "phase", kind="state", states=(IDLE, RUNNING))
    stats.incr("job", "done")
    wrong = {
        "has no states: declare it": lambda: stats.state("job", "other", IDLE),
        "state must be one of idle, running, not 'lost'": lambda: stats.state("job", "phase", "lost"),
        "labels of a state must have neither": lambda: stats.state("job", "phase", IDLE, labels={"state": "x"}),
        "texts must not be empty": lambda: stats.info("app", "build", {}),
        "nor repeat a name of labels": lambda: stats.info("app", "build", {"a": "1"}, labels={"a": "2"}),
        "states must be a sequence": lambda: stats.declare("c", "m", kind="state", states="abc"),
        "no text twice": lambda: stats.declare("c", "m", kind="state", states=("a", "a")),
        'states are for kind="state"': lambda: stats.declare("c", "m", kind="gauge", states=("a",)),
        "an info takes neither unit": lambda: stats.declare("c", "m", kind="info", unit="bytes"),
        "a state has no unit": lambda: stats.declare("c", "m", kind="state", states=("a",), unit="s"),
        "texts must be a mapping": lambda: stats.info("app", "build", None),
        "must not be 'system'": lambda: stats.info("system", "m", {"a": "b"}),
    }
    for says, call in wrong.items():
        with pytest.raises((TypeError, ValueError), match=says):
            call()


def test_the_page_is_valid_with_any_name_of_a_state_or_label(stats: Any) -> None:
    for metric in ("category", "le", "we ird", "a:b", "__x"):
        stats.declare("job", metric, kind="state", states=(IDLE, RUNNING))
        stats.state("job", metric, RUNNING, labels={"we_ird": "x", "exported_we_ird": "y"})
    from shmstats.export.renderer import shared
    from shmstats.export.view import View

    for namespace in ("", "a:b", "__n"):
        for escaping in ("underscores", "allow-utf-8", "dots", "values"):
            page = shared.openmetrics(stats.read(), View(escaping=escaping, namespace=namespace)).decode()
            assert sum(family.type == "stateset" for family in parse_openmetrics(page)) == 5
    found = [labels for (name, labels), value in openmetrics(stats)[1].items() if name == "we_ird" and value]
    assert [dict(labels) for labels in found] == [
        {"metric": "we ird", "we_ird": RUNNING, "exported_exported_we_ird": "x", "exported_we_ird": "y"}
    ]
    for states in (("b", "c"), ("a", "b")):
        stats.declare("job", "phase", kind="state", states=states)
        for host in "xy":
            stats.state("job", "phase", "b", labels={"host": host})
    assert sum(value for (name, _), value in openmetrics(stats)[1].items() if name == "phase") == 2


UNDECLARED = """
    from shmstats import KindError, stats
    calls = (
        lambda: stats.incr("app", "build"),
        lambda: stats.decr("app", "build", labels={"version": "1"}),
        lambda: stats.gauge("job", "phase", 7, labels={"state": "idle"}),
        lambda: stats.gauge("job", "phase", labels={"state": "running"}).incr(2),
        lambda: stats.absolute("job", "phase", 7, labels={"state": "idle"}),
        lambda: stats.counter("app", "build", labelnames=("version",)).labels("2").incr(),
        lambda: stats.timing("app", "build", 1),
        lambda: stats.timestamp("job", "phase"),
    )
    for call in calls:
        try:
            call()
        except KindError as error:
            assert "is its only call" in str(error), error
        else:
            raise AssertionError("something else than its own call has changed it")
"""


def test_other_calls_do_not_change_an_info_or_a_state(stats: Any, python: PythonRunner) -> None:
    stats.declare("job", "phase", kind="state", states=(IDLE, RUNNING))
    stats.info("app", "build", {"version": "1"})
    for call in (
        lambda: stats.gauge("job", "phase", 7, labels={"state": IDLE}),
        lambda: stats.incr("app", "build", labels={"version": "1"}),
        lambda: stats.info("job", "phase", {"a": "b"}),
    ):
        with pytest.raises(ValueError, match="declared"):
            call()
    stats.state("job", "phase", RUNNING)
    before = openmetrics(stats)
    python.run(UNDECLARED)
    assert openmetrics(stats) == before
    assert stats.reset("app") == 1
    assert "build" not in openmetrics(stats)[0]


def test_infos_and_states_are_not_saved(stats: Any) -> None:
    from shmstats.snapshot.decoding import decode
    from shmstats.snapshot.format import encode

    stats.declare("job", "phase", kind="state", states=(IDLE, RUNNING), help="Where it is.")
    stats.state("job", "phase", IDLE)
    stats.info("app", "build", {"version": "1"})
    stats.gauge("app", "open", 3)
    saved = decode(Path("simple.json"), b"".join(encode(stats.read()))).snapshot
    assert {name[:2] for name in saved.names if name.category != "shmstats"} == {("app", "open")}
