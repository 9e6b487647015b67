"""The two text formats: what a page looks like, and that any names make a page that everyone reads."""

import os
import shutil
import subprocess
import threading
from itertools import accumulate

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from shmstats.export import Exposition, Renderer, negotiate, render
from shmstats.series import Distribution, Kind, Name, Snapshot

BOUNDS = (0.1, 0.25, 2.5, 1000.0, 60000.0)

HOSTILE = [
    *("total", "_total", "x", "X", "x_total", "x_total_total", "x_count", "x_sum", "x_bucket", "x_created"),
    *("x_info", "x_value", "x_value_total", "x_value_2", "x_seconds", "x_timestamp", "x_timestamp_seconds"),
    *("x_ms", "latency_ms", "ms", "_ms", "__ms", "a_B", "mile_s", "milli_minutes", "x_hours", "hours", "kb"),
    *("x_kb_total", "seconds", "milliseconds", "x_milliseconds", "kelvins", "millicelsius", "nano_s"),
    *("gauge", "x_gauge", "gauge_histogram", "x_gauge_histogram_y", "counter", "x_counter_total", "summary"),
    *(
        "requestCount",
        "HTTPStatus",
        "HTTP_OK",
        "x.y",
        "x-y",
        "x y",
        "x_y",
        "x:y",
        "x..y",
        "5xx",
        "5",
        "_5",
        "_",
    ),
    *("___", "...", "!", " ", "\t", "\r", "\n", "a\nb", "a\r\nb", "\x1b[31m", "\x7f", "\x85", "\u2028", '"'),
    *(
        "\\",
        'a"b\\',
        "\\n",
        "{}",
        'x{a="b"}',
        "%",
        "%a",
        "%d%%",
        "#",
        "# EOF",
        "é",
        "été",
        "日本語",
        "🙂",
        "ß",
    ),
    *("مرحبا", "\u202ex", "\u0301", "x\u0301", "٣", "½", "uptime_seconds", "uptime", "threads", "workers"),
    *("store_bytes", "system_other", "le", "quantile", "category", "metric", "raw_labels", "nan", "unnamed"),
]
HOSTILE_LABELS = [
    *(
        "category",
        "metric",
        "le",
        "quantile",
        "raw_labels",
        "exported_category",
        "exported_metric",
        "__name__",
    ),
    *(
        "__x",
        "_x",
        "x",
        "x.y",
        "x-y",
        "x_y",
        "x_y_2",
        "xY",
        "5",
        "_5",
        "é",
        "🙂",
        "",
        "job",
        "label",
        "%a",
        "a b",
    ),
]

letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(letters, min_size=1, max_size=12)
words = st.lists(st.sampled_from([*HOSTILE, "_", "s", "_total"]), min_size=1, max_size=3).map("_".join)
metrics = st.sampled_from(HOSTILE) | words | texts
labels = st.dictionaries(
    st.sampled_from(HOSTILE_LABELS) | texts, st.sampled_from(["", "x", '"\\\n']) | texts, max_size=3
).map(lambda pairs: tuple(sorted(pairs.items())))
names = st.builds(
    lambda category, metric, kind, labels, monotonic, unit, help_: Name(
        category,
        metric,
        kind,
        labels,
        monotonic and kind is Kind.COUNTER,
        BOUNDS if kind is Kind.HISTOGRAM else (),
        help_,
        unit,
    ),
    st.sampled_from(["a", "x", "api", "a.b"]) | metrics,
    metrics,
    st.sampled_from(Kind),
    st.just(()) | labels,
    st.booleans(),
    st.sampled_from(["", "", "", "bytes", "seconds", "ms", "total", "count", "kilobytes", "é", "\n"]),
    st.sampled_from(["", "", "Help.", ' "quoted" \\n\\\n% ']) | st.text(letters, max_size=5),
)
name_lists = st.lists(names, max_size=25, unique_by=lambda name: (name.category, name.metric, name.labels))
systems = st.just({}) | st.dictionaries(
    st.sampled_from(["uptime", "cpu", "gc", "other", "a.b", "a-b", "uptime_seconds"]) | texts,
    st.integers(0, 2**62),
    max_size=3,
)


def test_a_page_shows_each_kind_in_its_plain_form():
    snapshot = Snapshot(
        [
            counter("api", "requests"),
            Name("pool", "open", Kind.GAUGE),
            Name("db", "query", Kind.HISTOGRAM, bounds=BOUNDS),
            Name("backup", "last", Kind.TIMESTAMP),
            counter("requests", "total"),
        ],
        [12345, 7, Distribution(12.5, 7.0, (0, 1, 2, 0, 0, 1)), 1_700_000_000_000_001, 5],
        {"memory_usage": 134217728},
    )
    assert render(snapshot).decode() == (
        "# HELP requests_total Total number of requests.\n"
        "# TYPE requests_total counter\n"
        'requests_total{category="api"} 12345\n'
        'requests_total{category="requests"} 5\n'
        "# HELP open Current value of open.\n"
        "# TYPE open gauge\n"
        'open{category="pool"} 7\n'
        "# HELP query_seconds Distribution of query, in seconds.\n"
        "# TYPE query_seconds histogram\n"
        'query_seconds_bucket{category="db",le="0.0001"} 0\n'
        'query_seconds_bucket{category="db",le="0.00025"} 1\n'
        'query_seconds_bucket{category="db",le="0.0025"} 3\n'
        'query_seconds_bucket{category="db",le="1.0"} 3\n'
        'query_seconds_bucket{category="db",le="60.0"} 3\n'
        'query_seconds_bucket{category="db",le="+Inf"} 4\n'
        'query_seconds_sum{category="db"} 0.0125\n'
        'query_seconds_count{category="db"} 4\n'
        "# HELP last_timestamp_seconds Time of last, in seconds since 1970-01-01 UTC.\n"
        "# TYPE last_timestamp_seconds gauge\n"
        'last_timestamp_seconds{category="backup"} 1700000000.000001\n'
        "# HELP memory_usage_bytes Current memory usage in bytes.\n"
        "# TYPE memory_usage_bytes gauge\n"
        "memory_usage_bytes 134217728\n"
    )


def test_openmetrics_names_a_counter_without_its_suffix_and_ends_with_eof():
    snapshot = Snapshot([counter("api", "requests", help='Say "a\\b".\n', unit="bytes")], [1])
    assert render(snapshot, Exposition.OPENMETRICS).decode() == (
        '# HELP requests_bytes Say \\"a\\\\b\\".\n'
        "# TYPE requests_bytes counter\n"
        "# UNIT requests_bytes bytes\n"
        'requests_bytes_total{category="api"} 1\n'
        "# EOF\n"
    )


def test_nothing_makes_an_empty_page():
    assert render(Snapshot([], [])) == b""
    assert render(Snapshot([], []), Exposition.OPENMETRICS) == b"# EOF\n"


def test_system_figures_are_shown_in_base_units_without_labels():
    figures = {
        "uptime": 5,
        "cpu": 12.5,
        "user_in_ms": 1500,
        "sys_in_ms": 250,
        "threads": 3,
        "gc": 9,
        "store": 1,
    }
    page = render(Snapshot([], [], figures)).decode()
    assert [line for line in page.splitlines() if not line.startswith("#")] == [
        "uptime_seconds 5",
        "cpu_usage_ratio 0.125",
        "user_cpu_seconds 1.5",
        "system_cpu_seconds 0.25",
        "threads 3",
        "gc_collections 9",
        "store_bytes 1",
    ]
    assert "# HELP gc_collections Garbage collections of the process that answers.\n" in page


def test_a_histogram_of_something_else_than_time_is_not_scaled():
    name = Name("http", "size", Kind.HISTOGRAM, bounds=(1e3, 1e6, 2.5e7), unit="bytes")
    page = render(Snapshot([name], [Distribution(5e6, 4e6, (1, 0, 1, 0))])).decode()
    assert 'size_bytes_bucket{category="http",le="1e+06"} 1\n' in page
    assert 'size_bytes_bucket{category="http",le="2.5e+07"} 2\n' in page
    assert 'size_bytes_sum{category="http"} 5000000.0\n' in page


def test_bounds_that_are_equal_in_seconds_make_one_bucket():
    bounds = (1.9, 1.9000000000000001, 5.0)
    page = render(
        Snapshot([Name("a", "b", Kind.HISTOGRAM, bounds=bounds)], [Distribution(1.0, 1.0, (1, 2, 4, 8))])
    ).decode()
    values = {sample.labels.get("le"): sample.value for family in parse_text(page) for sample in family.samples}
    assert values["0.0019"] == 3
    assert values["+Inf"] == 15


def test_a_histogram_with_the_wrong_number_of_buckets_is_refused():
    snapshot = Snapshot([Name("a", "b", Kind.HISTOGRAM, bounds=(1.0,))], [Distribution(1.0, 1.0, (1, 2, 3))])
    with pytest.raises(ValueError, match="1 bounds has 3 buckets"):
        render(snapshot)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, Exposition.TEXT),
        ("", Exposition.TEXT),
        ("*/*", Exposition.TEXT),
        ("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", Exposition.TEXT),
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            Exposition.OPENMETRICS,
        ),
        ("application/openmetrics-text", Exposition.OPENMETRICS),
        ("Application/OpenMetrics-Text; Version=1.0.0; charset=utf-8", Exposition.OPENMETRICS),
        ("application/openmetrics-text; version=0.0.1", Exposition.OPENMETRICS),
        ("application/openmetrics-text; version=2.0.0", Exposition.TEXT),
        ("application/openmetrics-text;q=0", Exposition.TEXT),
        ("application/openmetrics-text;q=0.4,text/plain;q=0.5", Exposition.TEXT),
        ("application/openmetrics-text;q=0.4,text/*;q=0.5", Exposition.TEXT),
        ("application/openmetrics-text;q=0.4,text/plain;version=0.0.4;q=0.3,*/*", Exposition.OPENMETRICS),
        ("application/openmetrics-text;q=high", Exposition.TEXT),
        ("application/openmetrics-text;q=7", Exposition.TEXT),
        (";;,,=;q", Exposition.TEXT),
    ],
)
def test_the_format_is_chosen_by_the_accept_header(accept, chosen):
    assert negotiate(accept) is chosen


def test_content_types_name_the_versions():
    assert Exposition.TEXT.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert Exposition.OPENMETRICS.content_type == ("application/openmetrics-text; version=1.0.0; charset=utf-8")


def test_promtool_accepts_every_hostile_name_in_every_kind(promtool):
    everything = [
        Name(category, metric, kind, labels, monotonic, BOUNDS if kind is Kind.HISTOGRAM else (), "", unit)
        for category, kinds in {
            "a": [(Kind.COUNTER, True, ""), (Kind.GAUGE, False, ""), (Kind.HISTOGRAM, False, "")],
            "b": [(Kind.TIMESTAMP, False, ""), (Kind.COUNTER, False, ""), (Kind.COUNTER, True, "kilobytes")],
            "c": [(Kind.GAUGE, False, "bytes"), (Kind.HISTOGRAM, False, "total"), (Kind.COUNTER, True, "ms")],
        }.items()
        for i, (kind, monotonic, unit) in enumerate(kinds)
        for metric in HOSTILE
        for labels in [((HOSTILE_LABELS[i], "x"),)]
    ]
    labelled = [counter("x", "y", labels=((label, "1"),)) for label in HOSTILE_LABELS]
    for series in (everything, everything[::-1], labelled):
        snapshot = snapshot_of(series, {"uptime": 1, "a.b": 2, "a-b": 3, "x_ms": 4, "x_total": 5})
        check_read_back(snapshot)
        promtool(render(snapshot))


@settings(derandomize=True, deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(name_lists, systems)
def test_any_names_are_read_back_with_every_value(series, system):
    check_read_back(snapshot_of(series, system))


@settings(
    derandomize=True,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(series=name_lists, system=systems)
def test_promtool_accepts_any_names(promtool, series, system):
    promtool(render(snapshot_of(series, system)))


@settings(derandomize=True, deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(name_lists, st.integers(0, 25))
@example([Name("a", "x", Kind.GAUGE), Name("b", "x", Kind.COUNTER, (), True)], 1)
def test_no_series_changes_when_another_is_registered_later(series, n):
    growing = Renderer()
    before = growing.render(snapshot_of(series[:n])).decode()
    after = growing.render(snapshot_of(series)).decode()
    assert set(samples(parse_text(before))) <= set(samples(parse_text(after)))
    assert after == Renderer().render(snapshot_of(series)).decode()


def test_names_are_looked_at_again_only_when_they_are_another_object():
    series = [counter("a", "x")]
    renderer = Renderer()
    renderer.render(Snapshot(series, [1]))
    assert renderer.render(Snapshot(series, [2])).endswith(b'x_total{category="a"} 2\n')
    assert renderer.render(Snapshot([counter("b", "y")], [3])).endswith(b'y_total{category="b"} 3\n')
    assert renderer.render(Snapshot([Name("b", "y", Kind.COUNTER)], [3])).endswith(b'y{category="b"} 3\n')
    assert b"uptime_seconds 4\n" in renderer.render(Snapshot(series, [1], {"uptime": 4}))


def test_threads_that_share_a_renderer_each_get_the_page_of_their_snapshot():
    snapshots = [snapshot_of([counter("a", f"m{i}") for i in range(n)], {"uptime": n}) for n in range(1, 40)]
    pages = {n: Renderer().render(snapshot) for n, snapshot in enumerate(snapshots)}
    renderer = Renderer()
    wrong = []

    def scrape(order):
        for n in order:
            if renderer.render(snapshots[n]) != pages[n]:
                wrong.append(n)

    orders = [range(39), range(38, -1, -1), [n * 7 % 39 for n in range(39)]]
    threads = [threading.Thread(target=scrape, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.fixture
def promtool():
    """Checks a page with ``promtool check metrics``, lint rules included."""
    command = shutil.which("promtool")
    if command is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is not there (Debian: apt-get install prometheus)")
        pytest.skip("promtool is not there (Debian: apt-get install prometheus)")

    def check(page):
        done = subprocess.run([command, "check", "metrics"], input=page, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode() + done.stdout.decode() + page.decode()

    return check


def counter(category, metric, labels=(), help="", unit=""):  # noqa: A002
    return Name(category, metric, Kind.COUNTER, labels, True, (), help, unit)


def snapshot_of(series, system=None):
    """A snapshot in which no value occurs twice, and most would be changed by going through a float."""
    return Snapshot(series, [value_of(i, name) for i, name in enumerate(series)], system or {})


def value_of(i, name):
    if name.kind is Kind.HISTOGRAM:
        buckets = (i, 2**53 + 1, *range(i, i + len(name.bounds) - 1))
        return Distribution(0.1 + i, 5.0, buckets)
    if name.kind is Kind.GAUGE and i % 2:
        return -(i + 0.1) * 10.0 ** (i % 40 - 20)
    if name.kind is Kind.TIMESTAMP:
        return 1_700_000_000_123_457 + 1000 * i
    return 2**60 + 2 * i + 1


def check_read_back(snapshot):
    """Both parsers find each value once, where its category and, if it was changed, its metric say so."""
    exposed = [
        (Exposition.TEXT, parse_text),
        (Exposition.OPENMETRICS, parse_openmetrics),
    ]
    both = []
    for exposition, parse in exposed:
        page = render(snapshot, exposition).decode()
        families = list(parse(page))
        assert len({family.name for family in families}) == len(families)
        found = samples(families)
        identities = [(name, frozenset(pair for pair in labels if pair[1])) for name, labels, _ in found]
        assert len(set(identities)) == len(identities)
        assert sorted(map(repr, expected_values(snapshot))) == sorted(repr(value) for _, _, value in found)
        by_value = {repr(value): dict(labels) for _, labels, value in found}
        for name, value in zip(snapshot.names, snapshot.values, strict=True):
            if name.kind is not Kind.HISTOGRAM:
                labels = by_value[repr(expected(name, value)[0])]
                assert labels["category"] == name.category
                assert labels.get("metric", name.metric) == name.metric
                assert {own for _, own in name.labels} <= set(labels.values())
        both.append(found)
    assert both[0] == both[1]


def samples(families):
    return [
        (sample.name, tuple(sorted(sample.labels.items())), sample.value)
        for family in families
        for sample in family.samples
    ]


def expected_values(snapshot):
    values = [
        shown for name, value in zip(snapshot.names, snapshot.values, strict=True) for shown in expected(name, value)
    ]
    divisors = {"cpu": 100}
    return values + [
        value / divisors[metric] if metric in divisors else value for metric, value in snapshot.system.items()
    ]


def expected(name, value):
    if name.kind is Kind.HISTOGRAM:
        total = value.sum if name.unit not in ("", "seconds", "ms") else value.sum / 1000
        return [*accumulate(value.buckets), sum(value.buckets), total]
    if name.kind is Kind.TIMESTAMP:
        return [value / 1_000_000]
    return [value]
