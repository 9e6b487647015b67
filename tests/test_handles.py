"""Labels and declarations: their effect, refused values, and how they reach all processes."""

from __future__ import annotations

import itertools
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import PythonRunner, segment_file

GET = {"method": "GET", "status": "200"}
POST = {"status": "500", "method": "POST"}


# Label sets -------------------------------------------------------------------------------------------------


def test_a_snapshot_tells_a_labelled_series_from_a_metric_with_the_same_text(stats: Any) -> None:
    stats.incr("http", "requests", 5, labels={"a": "1"})
    stats.incr("http", 'requests{a="1"}')
    assert stats.snapshot()["http"] == {'requests{a="1"}': 1, 'requests{a="1",}': 5}


def test_a_label_may_be_called_self(stats: Any) -> None:
    parent = stats.counter("http", "requests", labelnames=("self",))
    parent.labels(self="a").incr()
    assert stats.get("http", "requests", labels={"self": "a"}) == 1
    assert parent.remove(self="a") == 1


def test_every_operation_takes_labels(stats: Any) -> None:
    for _ in range(3):
        stats.incr("http", "requests", 2, labels=GET)
        stats.decr("http", "open", labels=GET)
        stats.gauge("http", "size", 1.5, labels=GET)
        stats.absolute("http", "total", 7, labels=GET)
        stats.timing("http", "latency", 3, labels=GET)
        with stats.timer("http", "latency", labels=GET):
            pass
    stats.incr("http", "requests", labels=POST)
    stats.incr("http", "requests")
    stats.timestamp("http", "last", labels=GET)
    assert stats.get("http", "requests", labels=GET) == 6
    assert stats.get("http", "requests", labels=dict(reversed(POST.items()))) == 1
    assert stats.get("http", "requests") == 1
    assert stats.get("http", "open", labels=GET) == -3
    assert stats.get("http", "size", labels=GET) == 1.5
    assert stats.get("http", "total", labels=GET) == 7
    assert stats.get("http", "latency", labels=GET).count == 6
    assert stats.get_timestamp("http", "last", labels=GET) is not None
    assert stats.get_timestamp("http", "last") is None
    assert stats.snapshot()["http"]['requests{method="GET",status="200"}'] == 6


def test_handles_of_label_sets_count_into_the_same_series(stats: Any) -> None:
    handle = stats.counter("http", "requests", labels=GET)
    parent = stats.counter("http", "requests", labelnames=("status", "method"))
    handle.incr()
    parent.labels("200", "GET").incr(2)
    parent.labels(method="GET", status="200").incr(3)
    stats.incr("http", "requests", 4, labels=GET)
    assert handle.value == 10 == parent.labels("200", "GET").value
    assert parent.labels("200", "GET") is parent.labels(status="200", method="GET")
    gauge = stats.gauge("pool", "open", labels={"host": "a"})
    gauge.set(2.5)
    gauge.incr()
    gauge.decr(0.25)
    assert gauge.value == 3.25
    stats.gauge("pool", "open", labelnames=("host",)).labels("a").set(1)
    assert gauge.value == 1
    stats.histogram("db", "query", labelnames=("table",)).labels("users").observe(5)
    stats.timing("db", "query", labels={"table": "users"}).observe(7)
    assert stats.get("db", "query", labels={"table": "users"}).sum == 12


def test_a_gauge_without_labels_has_a_handle_too(stats: Any) -> None:
    gauge = stats.gauge("pool", "open")
    gauge.incr(2)
    gauge.incr(0.5)
    stats.gauge("pool", "open", 10)
    gauge.decr()
    assert gauge.value == 9 == stats.get("pool", "open")


def test_a_label_set_a_metric_and_a_category_can_be_removed(stats: Any) -> None:
    requests = stats.counter("http", "requests", labelnames=("path",))
    for path in "abc":
        requests.labels(path).incr()
    stats.incr("http", "requests")
    stats.incr("http", "other", labels={"path": "a"})
    kept = requests.labels("a")
    assert requests.remove("a") == 1
    assert requests.remove(path="a") == 0
    assert (kept.value, requests.labels("b").value) == (0, 1)
    kept.incr(5)
    assert requests.labels("a").value == 5
    assert stats.reset("http", "requests", labels={"path": "b"}) == 1
    assert (requests.labels("b").value, requests.labels("c").value) == (0, 1)
    assert stats.remove("http", "requests") == 4
    assert set(stats.snapshot()["http"]) == {'other{path="a"}'}
    requests.labels("z").incr()
    assert requests.clear() == 1
    assert stats.remove("http") == 1
    assert "http" not in stats.snapshot()


def test_a_removal_reaches_other_processes_and_their_handles(stats: Any, python: PythonRunner) -> None:
    requests = stats.counter("http", "requests", labelnames=("path",))
    requests.labels("a").incr(3)
    child = python.start(
        """
        from shmstats import stats
        requests = stats.counter("http", "requests", labelnames=("path",))
        requests.labels("a").incr()
        print(requests.labels("a").value, flush=True)
        input()
        requests.labels("a").incr()
        print(requests.labels("a").value, flush=True)
        input()
        """
    )
    assert child.hear() == "4"
    requests.remove("a")
    child.tell()
    assert child.hear() == "1"
    assert requests.labels("a").value == 1
    child.tell()
    child.finish(status=None)


def test_label_sets_beyond_the_bound_share_one_series(
    stats: Any, configure: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    stats.init(configure(max_series_per_metric=3))
    requests = stats.counter("http", "requests", labelnames=("path", "user"))
    with caplog.at_level(logging.ERROR):
        for number in range(50):
            requests.labels(f"/{number}", "u").incr()
            stats.incr("http", "requests", labels={"path": f"/{number}", "user": "__overflow__"})
    found = stats.snapshot()["http"]
    assert len(found) == 4
    assert found['requests{path="__overflow__",user="__overflow__"}'] == 97
    assert sum(found.values()) == 100
    assert [record.message for record in caplog.records if "max_series_per_metric" in record.message] == [
        "metric 'requests' of category 'http' has 3 label sets, as many as stats.max_series_per_metric allows:"
        " further ones are counted together"
    ]
    stats.incr("http", "others", labels={"path": "a"})
    assert stats.get("http", "others", labels={"path": "a"}) == 1
    requests.remove("/0", "u")
    requests.labels("/new", "u").incr()
    assert requests.labels("/new", "u").value == 1


def test_labels_survive_a_restart(shmstats: ModuleType) -> None:
    stats = shmstats.stats
    stats.declare("http", "size", kind="histogram", help="Size of it.", unit="bytes", buckets=(1, 10, 100))
    stats.incr("http", "requests", 3, labels=GET)
    stats.histogram("http", "size", labels=GET).observe(50)
    before = dict(zip(stats.read().names, stats.read().values, strict=True))
    shmstats.close()
    stats = shmstats.Registry()
    after = dict(zip(stats.read().names, stats.read().values, strict=True))
    assert after == before
    assert stats.get("http", "size", labels=GET).buckets == (0, 0, 1, 0)
    stats.close()


@pytest.mark.parametrize(
    ("labels", "error", "what"),
    [
        ({1: "a"}, TypeError, "label name in labels must be a str"),
        ({"": "a"}, ValueError, "label name ''"),
        ({"a-b": "a"}, ValueError, "label name 'a-b'"),
        ({"9a": "a"}, ValueError, "label name '9a'"),
        ({"__a": "a"}, ValueError, "label name '__a'"),
        ({"le": "a"}, ValueError, "'le' in labels is reserved"),
        ({"category": "a"}, ValueError, "'category' in labels is reserved"),
        ({"pid": "a"}, ValueError, "'pid' in labels is reserved"),
        ([("a", "b")], TypeError, "labels must be a mapping"),
        ("ab", TypeError, "labels must be a mapping"),
    ],
)
def test_bad_labels_are_refused_by_name(stats: Any, labels: Any, error: type[Exception], what: str) -> None:
    for operation in (
        lambda: stats.incr("c", "m", labels=labels),
        lambda: stats.gauge("c", "m", 1, labels=labels),
        lambda: stats.timing("c", "m", 1, labels=labels),
        lambda: stats.counter("c", "m", labels=labels),
        lambda: stats.get("c", "m", labels=labels),
        lambda: stats.remove("c", "m", labels=labels),
    ):
        with pytest.raises(error, match=what):
            operation()
    assert "c" not in stats.snapshot()


@pytest.mark.parametrize(
    ("names", "error", "what"),
    [
        ("method", TypeError, "labelnames must be a sequence of str"),
        (5, TypeError, "labelnames must be a sequence of str"),
        ((), ValueError, "must have a label name"),
        (("a", "a"), ValueError, "'a' twice"),
        (("le",), ValueError, "reserved"),
        ((1,), TypeError, "must be a str"),
    ],
)
def test_bad_label_names_are_refused_by_name(stats: Any, names: Any, error: type[Exception], what: str) -> None:
    with pytest.raises(error, match=what):
        stats.counter("c", "m", labelnames=names)


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (200, "200"),
        (True, "True"),
        (None, "None"),
        (1.5, "1.5"),
        ("a\0b\ud800", "a?b?"),
        ("é" * 127 + "x", "é" * 127 + "x"),
        (Unspeakable(), "<Unspeakable>"),
    ],
)
def test_a_label_value_is_counted_as_text(stats: Any, value: object, text: str) -> None:
    parent = stats.counter("http", "seen", labelnames=("what",))
    for _ in range(2):
        stats.incr("http", "seen", labels={"what": value})
        parent.labels(value).incr()
        parent.labels(what=value).incr()
    assert stats.get("http", "seen", labels={"what": text}) == 6
    assert parent.labels(value) is parent.labels(text)
    assert parent.remove(value) == 1


def test_a_label_value_that_is_too_long_ends_in_a_digest(stats: Any) -> None:
    for end in ("a", "b", "b"):
        stats.incr("http", "seen", labels={"path": "é" * 200 + end})
    (first, one), (second, other) = sorted(stats.snapshot()["http"].items(), key=lambda item: item[1])
    assert (one, other) == (1, 2)
    assert first != second
    assert {len(series.partition('"')[2].rpartition('"')[0].encode()) for series in (first, second)} <= {254, 255}
    assert stats.get("http", "seen", labels={"path": "é" * 200 + "b"}) == 2


def test_a_wrong_number_or_name_of_label_values_is_refused_by_name(stats: Any) -> None:
    parent = stats.counter("c", "m", labelnames=("a", "b"))
    with pytest.raises(ValueError, match=r"'m' of category 'c' takes 2 label values \(a, b\), not 1"):
        parent.labels("1")
    with pytest.raises(ValueError, match="takes the labels a, b, not a, c"):
        parent.labels(a="1", c="2")
    with pytest.raises(ValueError, match="takes the labels a, b, not a"):
        parent.labels(a="1")
    with pytest.raises(TypeError, match="by position or by name"):
        parent.labels("1", b="2")
    with pytest.raises(TypeError, match="labels and labelnames"):
        stats.counter("c", "m", labels={"a": "b"}, labelnames=("a",))
    with pytest.raises(TypeError, match="labelnames are only for handles"):
        stats.gauge("c", "m", 1, labelnames=("a",))
    with pytest.raises(TypeError, match="metric must not be None"):
        stats.remove("c", labels={"a": "b"})


# Declarations -----------------------------------------------------------------------------------------------


def exposition(stats: Any) -> str:
    from shmstats.export import render

    return render(stats.read()).decode()


def test_a_declaration_is_shown_on_the_page(stats: Any) -> None:
    stats.declare("http", "requests", kind="counter", help="Requests answered.", labelnames=("method",))
    stats.declare("http", "size", kind="histogram", help="Size of requests.", unit="bytes", buckets=(10, 100))
    stats.declare("pool", "memory", kind="gauge", unit="bytes", help="Memory of the pool.")
    stats.incr("http", "requests", labels={"method": "GET"})
    stats.histogram("http", "size").observe(50)
    stats.gauge("pool", "memory", 5)
    text = exposition(stats)
    assert "# HELP requests_total Requests answered.\n# TYPE requests_total counter\n" in text
    assert 'requests_total{category="http",method="GET"} 1\n' in text
    assert "# HELP size_bytes Size of requests.\n# TYPE size_bytes histogram\n" in text
    assert 'size_bytes_bucket{category="http",le="10.0"} 0\nsize_bytes_bucket{category="http",le="100.0"} 1\n' in text
    assert "# HELP memory_bytes Memory of the pool.\n# TYPE memory_bytes gauge\n" in text


def test_a_declaration_applies_to_a_name_that_was_counted_before(stats: Any) -> None:
    stats.incr("http", "requests", 5)
    stats.timing("db", "query", 5)
    stats.declare("http", "requests", kind="counter", help="Requests answered.")
    stats.declare("db", "query", kind="histogram", help="Queries.")
    assert "# HELP requests_total Requests answered.\n" in exposition(stats)
    assert "# HELP query_seconds Queries.\n" in exposition(stats)
    assert stats.get("http", "requests") == 5


def test_the_newest_declaration_wins_and_a_process_with_the_older_one_counts_on(
    shmstats: ModuleType, python: PythonRunner, caplog: pytest.LogCaptureFixture
) -> None:
    stats = shmstats.stats
    stats.declare("http", "size", kind="histogram", unit="bytes", buckets=(1, 2))
    stats.declare("http", "size", kind="histogram", unit="bytes", buckets=(1, 2))
    handle = stats.histogram("http", "size")
    handle.observe(1)
    assert caplog.text == ""
    child = python.start(
        """
        from shmstats import stats
        stats.declare("http", "size", kind="histogram", unit="bytes", buckets=(1, 3))
        stats.histogram("http", "size").observe(3)
        """
    )
    child.finish(quiet=False)
    assert (
        "'size' of category 'http' is declared as histogram, unit 'bytes', buckets (1.0, 3.0) now; before it was"
        " histogram, unit 'bytes', buckets (1.0, 2.0), and the 1 series of that are not shown any more"
    ) in child.stderr
    handle.observe(1)
    stats.histogram("http", "size").observe(1)
    assert stats.get("http", "size").buckets == (0, 1, 0)


def test_a_process_that_declares_a_metric_again_counts_by_the_new_declaration(
    shmstats: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    stats = shmstats.stats
    requests = stats.counter("http", "requests")
    requests.incr(5)
    stats.declare("http", "requests", kind="gauge", mode="livesum")
    assert "declared as gauge, mode livesum now; before it was used as counter" in caplog.text
    requests.incr(2)
    assert stats.get("http", "requests") == 2
    stats.declare("http", "requests", kind="counter")
    requests.incr()
    assert stats.get("http", "requests") == 1


def test_a_metric_may_be_declared_differently_after_a_restart(
    shmstats: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    stats = shmstats.stats
    stats.declare("http", "size", kind="histogram", unit="bytes", buckets=(1, 2))
    stats.declare("http", "requests", kind="counter", help="Old.")
    stats.histogram("http", "size").observe(1)
    stats.incr("http", "requests", 3)
    shmstats.close()
    other = shmstats.Registry()
    other.declare("http", "requests", kind="counter", help="New.")
    other.declare("http", "size", kind="histogram", unit="bytes", buckets=(1, 2, 3))
    assert (
        "'size' of category 'http' is declared as histogram, unit 'bytes', buckets (1.0, 2.0, 3.0) now" in caplog.text
    )
    assert other.get("http", "requests") == 3
    assert "# HELP requests_total New.\n" in exposition(other)
    other.histogram("http", "size").observe(3)
    assert other.get("http", "size").buckets == (1, 0, 1, 0)  # the saved observations continue in the new buckets
    other.close()


def test_declarations_are_repeated_in_the_next_block(
    shmstats: ModuleType, configure: Callable[..., dict[str, Any]]
) -> None:
    stats = shmstats.stats
    stats.declare("http", "requests", kind="counter", help="Requests answered.")
    stats.init(configure(persist=False))
    stats.incr("http", "requests")
    assert "# HELP requests_total Requests answered.\n" in exposition(stats)


def test_label_names_other_than_the_declared_ones_are_refused(shmstats: ModuleType) -> None:
    stats = shmstats.stats
    stats.declare("http", "requests", kind="counter", labelnames=("method", "status"))
    stats.incr("http", "requests", labels=GET)
    with pytest.raises(shmstats.DeclarationError, match=r"label names \('method', 'status'\), not \('method',\)"):
        stats.incr("http", "requests", labels={"method": "GET"})
    with pytest.raises(shmstats.DeclarationError, match=r"label names \('method', 'status'\), not \(\)"):
        stats.incr("http", "requests")
    with pytest.raises(shmstats.DeclarationError, match=r"label names \('method', 'status'\), not \('path',\)"):
        stats.counter("http", "requests", labelnames=("path",))


def test_a_call_of_another_kind_than_the_declared_one_is_refused(shmstats: ModuleType) -> None:
    stats = shmstats.stats
    stats.declare("c", "counter", kind="counter")
    stats.declare("c", "histogram", kind="histogram")
    with pytest.raises(shmstats.KindError, match="declared as a counter: it takes integers"):
        stats.gauge("c", "counter", 1.5)
    with pytest.raises(shmstats.KindError, match="'histogram' of category 'c' is a histogram and cannot be counted"):
        stats.incr("c", "histogram")


@pytest.mark.parametrize(
    ("arguments", "error", "what"),
    [
        ({"kind": "summary"}, ValueError, "kind must be one of counter, gauge, histogram, info, state, not 'summary'"),
        ({"kind": ["counter"]}, TypeError, "kind must be a str, not list"),
        ({"kind": "gauge", "mode": 5}, TypeError, "mode must be a str or None, not int"),
        ({"kind": "histogram", "buckets": (1, 3, 2)}, ValueError, "ascending order, but 3.0 stands before 2.0"),
        ({"kind": "histogram", "buckets": (1, 1)}, ValueError, "ascending order"),
        ({"kind": "histogram", "buckets": ()}, ValueError, "1 to 250 upper bounds, not 0"),
        ({"kind": "histogram", "buckets": range(251)}, ValueError, "1 to 250 upper bounds, not 251"),
        ({"kind": "histogram", "buckets": (1, float("nan"))}, ValueError, "finite, not nan"),
        ({"kind": "histogram", "buckets": ("1",)}, TypeError, "must be a number, not str"),
        ({"kind": "histogram", "buckets": "12"}, TypeError, "sequence of numbers"),
        ({"kind": "counter", "buckets": (1,)}, ValueError, "a counter has none"),
        ({"kind": "counter", "mode": "sum"}, ValueError, "a counter has none"),
        ({"kind": "gauge", "mode": "average"}, ValueError, "mode must be one of last, all, sum, min"),
        ({"kind": "gauge", "help": 1}, TypeError, "help must be a str"),
        ({"kind": "gauge", "unit": "x" * 101}, ValueError, "unit must be at most 100 characters"),
        ({"kind": "gauge", "unit": "a b"}, ValueError, "unit must have ASCII letters, .* not 'a b'"),
        ({"kind": "gauge", "unit": 5}, TypeError, "unit must be a str"),
        ({"kind": "gauge", "labelnames": ("le",)}, ValueError, "reserved"),
    ],
)
def test_bad_declarations_are_refused_by_name(
    stats: Any, arguments: dict[str, Any], error: type[Exception], what: str
) -> None:
    with pytest.raises(error, match=what):
        stats.declare("c", "m", **arguments)
    with pytest.raises(ValueError, match="reserved"):
        stats.declare("system", "m", kind="counter")


def test_a_bad_gauge_value_is_refused_by_name(stats: Any) -> None:
    stats.declare("c", "m", kind="gauge", mode="livesum")
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="value must be finite"):
            stats.gauge("c", "m", value)
        with pytest.raises(ValueError, match="n must be finite"):
            stats.gauge("c", "m").incr(value)


def test_series_with_undeclared_label_names_are_not_shown(
    shmstats: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    stats = shmstats.stats
    stats.incr("http", "requests", labels={"path": "/"})
    stats.incr("http", "requests", labels={"method": "GET"})
    stats.declare("http", "requests", kind="counter", labelnames=("method",))
    assert "declared as counter, labelnames ('method',) now; before it was used as counter, labelnames" in caplog.text
    assert set(stats.snapshot()["http"]) == {'requests{method="GET"}'}
    shmstats.close()
    other = shmstats.Registry()
    other.declare("http", "requests", kind="counter", labelnames=("path",))
    other.incr("http", "requests", labels={"path": "/"})
    assert other.snapshot()["http"] == {'requests{path="/"}': 1}
    other.close()


# Gauges by worker -------------------------------------------------------------------------------------------

MODES = ("all", "sum", "min", "max", "mostrecent")

WORKER = """
    from shmstats import stats
    for mode in {modes!r}:
        stats.declare("g", mode, kind="gauge", mode=mode)
        stats.declare("g", "live" + mode, kind="gauge", mode="live" + mode)
        stats.gauge("g", mode, {value})
        stats.gauge("g", "live" + mode, {value})
    print("set", flush=True)
    input()
"""


def values(stats: Any) -> dict[str, Any]:
    return dict(stats.snapshot().get("g", {}))


def test_the_gauges_of_workers_are_combined_by_their_mode(stats: Any, python: PythonRunner) -> None:
    one = python.start(WORKER.format(modes=MODES, value=5))
    other = python.start(WORKER.format(modes=MODES, value=2.5))
    for child in (one, other):
        assert child.hear() == "set"
    latest = values(stats)["mostrecent"]
    assert latest in (5, 2.5)
    expected = {"sum": 7.5, "min": 2.5, "max": 5, "mostrecent": latest}
    expected |= {f'all{{pid="{one.pid}"}}': 5, f'all{{pid="{other.pid}"}}': 2.5}
    assert values(stats) == expected | {f"live{key}": value for key, value in expected.items()}
    os.kill(other.pid, signal.SIGKILL)
    other.finish(status=None)
    living = {"livesum": 5, "livemin": 5, "livemax": 5, "livemostrecent": 5, f'liveall{{pid="{one.pid}"}}': 5}
    assert values(stats) == expected | living
    one.tell()
    one.finish()
    assert values(stats) == expected | {"livesum": 0}


def test_workers_that_share_a_row_share_their_gauge(
    stats: Any, python: PythonRunner, configure: Callable[..., dict[str, Any]]
) -> None:
    stats.init(configure(max_workers=1))
    stats.declare("g", "open", kind="gauge", mode="livesum")
    stats.gauge("g", "open").incr(2)
    child = python.start(
        """
        from shmstats import stats
        stats.gauge("g", "open").incr(3)
        print("set", flush=True)
        input()
        """
    )
    assert child.hear() == "set"
    assert stats.get("g", "open") == 5
    stats.gauge("g", "open").incr()
    assert stats.get("g", "open") == 6
    child.tell()
    child.finish(status=None)
    assert stats.get("g", "open") == 6


def test_gauges_by_worker_are_not_saved(shmstats: ModuleType) -> None:
    stats = shmstats.stats
    stats.declare("g", "open", kind="gauge", mode="all")
    stats.declare("g", "total", kind="gauge", mode="sum")
    stats.gauge("g", "open", 3)
    stats.gauge("g", "total", 3)
    stats.incr("c", "m")
    shmstats.close()
    assert set(stats.snapshot()) == {"c"} or values(stats) == {"total": 0}


def test_a_gauge_with_labels_and_mode_all_has_the_label_pid(stats: Any) -> None:
    stats.declare("g", "open", kind="gauge", mode="liveall", labelnames=("host",))
    stats.gauge("g", "open", labelnames=("host",)).labels("a").set(2)
    assert f'open{{category="g",host="a",pid="{os.getpid()}"}} 2\n' in exposition(stats)


@pytest.mark.far_from_core
@pytest.mark.parametrize("recycled", [100, pytest.param(1000, marks=pytest.mark.storm)])
def test_recycled_workers_do_not_enlarge_block_or_exposition(
    shmstats: ModuleType, configure: Callable[..., dict[str, Any]], data: Path, recycled: int
) -> None:
    """Three workers live at a time; a new one replaces the oldest, every second of which ends by SIGKILL."""
    stats = shmstats.stats
    stats.init(configure(max_workers=4))
    stats.declare("g", "open", kind="gauge", mode="livesum", labelnames=("host",))
    stats.declare("g", "seen", kind="gauge", mode="all")
    stats.declare("g", "queued", kind="gauge", mode="liveall", labelnames=("host",))
    alive: list[tuple[int, int, int]] = []
    turns = itertools.count()

    def work(turn: int) -> None:
        stats.gauge("g", "open", labelnames=("host",)).labels("a").incr()
        stats.gauge("g", "seen", 1)
        stats.gauge("g", "queued", 2.5, labels={"host": "a"})
        stats.incr("c", "m", labels={"turn": str(turn % 5)})
        stats.timing("c", "latency", 2, labels={"turn": str(turn % 5)})

    def begin(turn: int) -> None:
        (told, tell), (hears, ends) = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(ends)
                work(turn)
                os.write(tell, b"w")
                os.read(hears, 1)
                shmstats.close()
            finally:
                os._exit(0)
        os.close(tell)
        os.close(hears)
        alive.append((pid, told, ends))
        assert os.read(told, 1) == b"w"

    def end(turn: int) -> None:
        pid, told, ends = alive.pop(0)
        if turn % 2:
            os.kill(pid, signal.SIGKILL)
        else:
            os.write(ends, b"e")
        os.waitpid(pid, 0)
        os.close(told)
        os.close(ends)

    def recycle(number: int) -> None:
        for turn in itertools.islice(turns, number):
            if len(alive) == 3:
                end(turn)
            begin(turn)

    def sizes() -> tuple[int, dict[str, Any], int, Any]:
        usage = stats.shared.attach().reader.usage()
        lines = exposition(stats).splitlines()
        parts = {part: usage[part] for part in ("names", "cells", "heap")}
        return len(lines), parts, segment_file(data).stat().st_blocks, stats.get("g", "open", labels={"host": "a"})

    try:
        recycle(12)
        before = sizes()
        recycle(recycled)
        assert sizes() == before
        assert before[-1] == 3
        assert sum(stats.get("c", "m", labels={"turn": str(turn)}) for turn in range(5)) == 12 + recycled
    finally:
        while alive:
            end(1)


def test_sums_of_gauges_stay_within_their_limits(stats: Any, python: PythonRunner) -> None:
    largest = 1.7976931348623157e308
    limits = {"low": -(2**63), "high": 2**63 - 1, "real": largest, "negative": -largest}
    for metric in limits:
        stats.declare("g", metric, kind="gauge", mode="sum")
    for metric, value in limits.items():
        stats.gauge("g", metric, value)
    child = python.start(
        f"""
        from shmstats import stats
        for metric, value in {limits!r}.items():
            stats.gauge("g", metric, value)
        print("set", flush=True)
        input()
        """
    )
    assert child.hear() == "set"
    assert values(stats) == limits == {metric: stats.get("g", metric) for metric in limits}
    child.kill()


def test_a_breakdown_by_worker_shows_what_each_contributes(stats: Any, python: PythonRunner) -> None:
    one = python.start(WORKER.format(modes=MODES, value=5))
    other = python.start(WORKER.format(modes=MODES, value=2.5))
    for child in (one, other):
        assert child.hear() == "set"

    def broken_down() -> dict[str, dict[int, Any]]:
        read = stats.shared.attach().reader.read(by_worker=True)
        rows = {worker.pid: worker.row for worker in stats.shared.attach().reader.workers.live()}
        found: dict[str, dict[int, Any]] = {}
        for i, name in enumerate(read.names):
            if name.category == "g":
                label = "".join(value for _, value in name.labels)
                found[name.metric + label] = {
                    pid: read.workers[row][i] for pid, row in rows.items() if read.workers[row][i] is not None
                }
        assert all(len(column) == len(read.names) for column in read.workers.values())
        return found

    each = {one.pid: 5, other.pid: 2.5}
    expected = {f"{live}{mode}": each for live in ("", "live") for mode in MODES if mode != "all"}
    expected |= {f"{live}all{pid}": {pid: value} for live in ("", "live") for pid, value in each.items()}
    assert broken_down() == expected
    read = stats.shared.attach().reader.read(by_worker=True)
    position = next(i for i, name in enumerate(read.names) if name.metric == "livesum")
    os.kill(other.pid, signal.SIGKILL)
    other.finish(status=None)
    read = stats.shared.attach().reader.read(by_worker=True)
    assert [column[position] for column in read.workers.values() if column[position] is not None] == [5]
    one.kill()


def test_removed_metrics_with_labels_free_their_memory(stats: Any, configure: Callable[..., dict[str, Any]]) -> None:
    stats.init(configure(capacity=256))
    for turn in range(300):
        stats.incr("users", f"user {turn:03}", labels={"action": "login"})
        stats.incr("users", f"user {turn:03}", labels={"action": "logout"})
        assert stats.remove("users") == 2
    assert stats.get("shmstats", "operations_dropped") == 0


def test_changing_label_names_do_not_fill_the_block(
    stats: Any, configure: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    stats.init(configure(capacity=256, max_series_per_metric=5))
    with caplog.at_level(logging.ERROR):
        for number in range(300):
            stats.incr("http", "requests", labels={f"name{number}": "x"})
        stats.incr("http", "requests", labels={"name0": "x"})
    found = stats.snapshot()["http"]
    dropped = stats.get("shmstats", "operations_dropped")
    assert (len(found), sum(found.values()) + dropped) == (21, 301)
    assert len(caplog.records) == 2
    stats.incr("http", "others", labels={"a": "b"})
    assert stats.get("http", "others", labels={"a": "b"}) == 1


def test_a_new_worker_begins_its_gauge_at_0_in_a_used_row(stats: Any, python: PythonRunner) -> None:
    """A gauge of mode sum continues from the dead worker's value, and one of mode max keeps the largest."""
    stats.gauge("c", "m", 1)
    script = """
        from shmstats import stats
        for mode in {modes!r}:
            for each in (mode, "live" + mode):
                stats.declare("g", each, kind="gauge", mode=each)
                stats.gauge("g", each).incr({value})
                stats.gauge("g", each).incr({value})
        print("set", flush=True)
        input()
    """
    rows = set()
    for value, total in ((5, 10), (2, 14)):
        child = python.start(script.format(modes=MODES, value=value))
        assert child.hear() == "set"
        live = stats.shared.attach().reader.workers.live()
        rows.add(next(worker.row for worker in live if worker.pid == child.pid))
        expected: dict[str, Any] = dict.fromkeys(("min", "max", "mostrecent", f'all{{pid="{child.pid}"}}'), 2 * value)
        expected |= {f"live{mode}": 2 * value for mode in expected}
        assert values(stats) == expected | {"sum": total, "livesum": 2 * value, "max": 10}
        os.kill(child.pid, signal.SIGKILL)
        child.finish(status=None)
    assert len(rows) == 1


def test_a_worker_does_not_reset_a_gauge_that_another_worker_of_its_row_has_begun(
    attach: Callable[..., Any], shmstats: ModuleType
) -> None:
    """Both workers find that the contribution has no owner; the second to write must not begin at 0 again."""
    series = shmstats.series
    block = attach(max_workers=1)
    shmstats.block.declaring.declare(
        block, "g", "open", series.Declaration(series.Kind.GAUGE, mode=series.Mode.LIVESUM)
    )
    record = block.find_or_add(b"g\0open", series.Kind.GAUGE)
    row, cells, generation = block.row_for(record), block.cells, block.cells.generation
    one, other, dead = 11, 12, 13
    assert cells.set_gauge(row, record.cell, 99, generation, (dead, True, False, True))
    assert cells.add_gauge(row, record.cell, 3, generation, (one, True, False, True), dead, True)
    assert not cells.add_gauge(row, record.cell, 4, generation, (other, True, False, True), dead, True)
    assert cells.load_gauge(row, record.cell) == 3
    assert cells.add_gauge(row, record.cell, 4, generation, (other, True, False, True), one, False)
    assert cells.add_gauge(row, record.cell, 1, generation, (other, True, False, True), dead, True)
    assert cells.load_gauge(row, record.cell) == 8
    assert cells.add_gauge(row, record.cell, -0.0, generation, (one, True, False, True), other, True)
    assert repr(cells.load_gauge(row, record.cell)) == "0.0"
