"""Exemplars of counts and observations: in OpenMetrics and protobuf, of all processes, the newest ones."""

from __future__ import annotations

import time
from typing import Any

import pytest
from export.messages import read
from helpers import PythonRunner
from prometheus_client.openmetrics.parser import text_string_to_metric_families

pytestmark = pytest.mark.far_from_core

Found = dict[tuple[str, str], tuple[dict[str, str], float]]


def exemplars(stats: Any) -> Found:
    """Labels and value of the exemplars on the page, by sample and limit."""
    from shmstats.export.renderer import shared

    found = {}
    for family in text_string_to_metric_families(shared.openmetrics(stats.read()).decode()):
        for sample in family.samples:
            if sample.exemplar is not None:
                assert abs(float(sample.exemplar.timestamp) - time.time()) < 60
                found[sample.name, sample.labels.get("le", "")] = sample.exemplar.labels, sample.exemplar.value
    return found


def test_every_call_takes_an_exemplar_and_the_newest_is_shown(stats: Any) -> None:
    stats.incr("api", "calls", exemplar={"trace_id": "old"})
    stats.counter("api", "calls").incr(2, exemplar={"trace_id": "new", "span": 7})
    stats.counter("api", "calls").incr()
    stats.incr("api", "errors", 3, labels={"path": 'a"b'}, exemplar={"trace_id": "e"})
    stats.timing("db", "query", 5, exemplar={"trace_id": "q"})
    query = stats.histogram("db", "query")
    query.observe(700, exemplar={"trace_id": "slow"})
    query.observe(90_000, exemplar={"trace_id": "beyond"})
    query.observe(6, exemplar=None)
    assert exemplars(stats) == {
        ("calls_total", ""): ({"trace_id": "new", "span": "7"}, 2),
        ("errors_total", ""): ({"trace_id": "e"}, 3),
        ("query_seconds_bucket", "0.0078125"): ({"trace_id": "q"}, 0.005),
        ("query_seconds_bucket", "1.0"): ({"trace_id": "slow"}, 0.7),
        ("query_seconds_bucket", "+Inf"): ({"trace_id": "beyond"}, 90),
    }
    assert (stats.get("api", "calls"), stats.get("db", "query").count) == (4, 4)


def test_the_page_has_the_exemplars_of_all_processes(stats: Any, python: PythonRunner) -> None:
    stats.incr("api", "calls", exemplar={"trace_id": "here"})
    python.run("from shmstats import stats\nstats.incr('api', 'calls', 5, exemplar={'trace_id': 'there'})")
    assert exemplars(stats) == {("calls_total", ""): ({"trace_id": "there"}, 5)}


def test_a_series_keeps_a_few_of_different_sizes(stats: Any) -> None:
    observe = stats.histogram("db", "query").observe
    for turn in range(200):
        observe(2.0 ** (turn % 14), exemplar={"turn": turn})
    assert len(exemplars(stats)) == 8
    from shmstats.block.keys import encode_key

    block = stats.shared.attach()
    assert len(block.names.note(block.names.find(encode_key("db", "query")).number)) < 1024


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (3, "exemplar must be a mapping"),
        ({"le": "x"}, "label name"),
        ({"trace": "x" * 200}, "at most 128 characters"),
        ({7: "x"}, "must be a str"),
    ],
)
def test_an_invalid_exemplar_raises_and_nothing_is_counted(stats: Any, wrong: Any, says: str) -> None:
    calls = (
        lambda: stats.incr("api", "calls", exemplar=wrong),
        lambda: stats.counter("api", "calls").incr(1, exemplar=wrong),
        lambda: stats.timing("db", "query", 1, exemplar=wrong),
        lambda: stats.histogram("db", "query").observe(1, exemplar=wrong),
    )
    for call in calls:
        with pytest.raises((TypeError, ValueError), match=says):
            call()
    assert (stats.get("api", "calls"), stats.get("db", "query")) == (0, 0)


def test_an_exemplar_is_at_the_sample_of_its_own_series(stats: Any) -> None:
    """Also for clashing names, names that need cleaning, and a category that is part of a reserved word."""
    from shmstats.export import protobuf
    from shmstats.export.renderer import shared
    from shmstats.export.view import View

    counted = {("c", "hits"): {}, ("c", "hits_total"): {}, ("client", "user.login"): {"kind": "a"}, ("c", "plain"): {}}
    stats.incr("c", "plain", 1)
    stats.incr("c", "hits", 1, labels={"page": "x"})
    for n, ((category, metric), labels) in enumerate(counted.items(), 2):
        stats.incr(category, metric, n, labels=labels, exemplar={"of": metric})
    for escaping in ("underscores", "allow-utf-8", "dots", "values"):
        page = shared.openmetrics(stats.read(), View(escaping=escaping)).decode()
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        marked = {sample.value: sample.exemplar.labels["of"] for sample in samples if sample.exemplar is not None}
        assert marked == {2: "hits", 3: "hits_total", 4: "user.login", 6: "plain"}, escaping
        families = read(protobuf.render(stats.read(), View(escaping=escaping)))
        counters = [metric.counter for family in families for metric in family.metric]
        assert marked == {
            counter.value: counter.exemplar.label[0].value for counter in counters if counter.HasField("exemplar")
        }
        assert {counter.exemplar.value for counter in counters if counter.HasField("exemplar")} == {2, 3, 4, 5}


def test_exemplars_stay_with_their_series_after_another_declaration(stats: Any) -> None:
    stats.incr("api", "sent", labels={"to": "x"}, exemplar={"trace_id": "a"})
    stats.timing("db", "query", 5, labels={"on": "x"}, exemplar={"trace_id": "a"})
    assert len(exemplars(stats)) == 2
    stats.declare("api", "sent", kind="counter", unit="bytes", help="Sent.")
    stats.declare("db", "query", kind="histogram", buckets=(1, 10, 100))
    stats.incr("api", "sent", labels={"to": "x"}, exemplar={"trace_id": "b"})
    stats.timing("db", "query", 50, labels={"on": "x"}, exemplar={"trace_id": "b"})
    assert exemplars(stats) == {
        ("sent_bytes_total", ""): ({"trace_id": "b"}, 1),
        ("query_seconds_bucket", "0.1"): ({"trace_id": "b"}, 0.05),
    }


def test_a_misspelt_keyword_is_named(stats: Any) -> None:
    calls = (
        lambda: stats.incr("api", "calls", examplar={}),
        lambda: stats.counter("api", "calls").incr(examplar={}),
        lambda: stats.counter("api", "calls").incr(1, examplar={}),
        lambda: stats.counter("api", "calls").decr(examplar={}),
        lambda: stats.gauge("api", "open").incr(examplar={}),
        lambda: stats.timing("db", "query", 1, examplar={}),
        lambda: stats.histogram("db", "query").observe(1, examplar={}),
    )
    for call in calls:
        with pytest.raises(TypeError, match="got an unexpected keyword argument 'examplar'"):
            call()


def test_a_gauge_and_a_reset_counter_have_no_exemplar(stats: Any) -> None:
    stats.incr("api", "calls", exemplar={"trace_id": "a"})
    stats.timing("db", "query", 5, exemplar={"trace_id": "a"})
    assert len(exemplars(stats)) == 2
    stats.reset("api")
    stats.reset("db")
    stats.incr("api", "open", -5, exemplar={"trace_id": "a"})
    assert exemplars(stats) == {}
