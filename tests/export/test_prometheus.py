"""The two text formats: the form of a page, and that any names make a valid page."""

import os
import shutil
import subprocess
import threading
from itertools import accumulate

import click
import pytest
from click.testing import CliRunner
from hostile import BOUNDS, HOSTILE, HOSTILE_LABELS, name_lists, systems
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from shmstats.export import FORMATS, Format, Renderer, View, negotiate, render
from shmstats.export.renderer import shared
from shmstats.series import Distribution, Kind, Name, Snapshot
from shmstats.snapshot.store import FILE, save
from shmstats.terminal.dump import dump


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
    assert shared.openmetrics(snapshot).decode() == (
        '# HELP requests_bytes Say \\"a\\\\b\\".\n'
        "# TYPE requests_bytes counter\n"
        "# UNIT requests_bytes bytes\n"
        'requests_bytes_total{category="api"} 1\n'
        "# EOF\n"
    )


def test_openmetrics_has_the_creation_times_of_counters_and_histograms():
    names = [
        counter("a", "hits", (("x", "%"),)),
        Name("a", "query", Kind.HISTOGRAM, bounds=BOUNDS),
        Name("a", "open", Kind.GAUGE),
        Name("a", "fallen", Kind.COUNTER),
    ]
    made = [name._replace(created=1_700_000_000_000_000_005 + i) for i, name in enumerate(names)]
    page = shared.openmetrics(Snapshot(made, [1, Distribution(1.0, 1.0, (0, 0, 1, 0, 0, 0)), 2, 3])).decode()
    assert 'hits_created{category="a",x="%"} 1700000000.000000005\n' in page
    created = {
        sample.name: sample.value
        for family in parse_openmetrics(page)
        for sample in family.samples
        if sample.name.endswith("_created")
    }
    assert created == {"hits_created": 1_700_000_000.0, "query_seconds_created": 1_700_000_000.0}
    assert "_created" not in render(Snapshot(made, [1, Distribution(1.0, 1.0, (0, 0, 1, 0, 0, 0)), 2, 3])).decode()


def test_a_page_without_series_is_empty():
    assert render(Snapshot([], [])) == b""
    assert shared.openmetrics(Snapshot([], [])) == b"# EOF\n"


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


def test_a_histogram_without_a_unit_of_time_is_not_scaled():
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
        (None, "prometheus"),
        ("", "prometheus"),
        ("*/*", "prometheus"),
        ("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", "prometheus"),
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "openmetrics",
        ),
        ("application/openmetrics-text", "openmetrics"),
        ("Application/OpenMetrics-Text; Version=1.0.0; charset=utf-8", "openmetrics"),
        ("application/openmetrics-text; version=0.0.1", "openmetrics"),
        ("application/openmetrics-text; version=2.0.0", "prometheus"),
        ("application/openmetrics-text;q=0", "prometheus"),
        ("application/openmetrics-text;q=0.4,text/plain;q=0.5", "prometheus"),
        ("application/openmetrics-text;q=0.4,text/*;q=0.5", "prometheus"),
        ("application/openmetrics-text;q=0.4,text/plain;version=0.0.4;q=0.3,*/*", "openmetrics"),
        ("application/openmetrics-text;q=high", "prometheus"),
        ("application/openmetrics-text;q=7", "prometheus"),
        (";;,,=;q", "prometheus"),
    ],
)
def test_the_format_is_chosen_by_the_accept_header(accept, chosen):
    assert negotiate(accept)[0] is FORMATS[chosen]


TEXT_0 = "text/plain; version=0.0.4; charset=utf-8"
TEXT_1 = "text/plain; version=1.0.0; charset=utf-8"
PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@pytest.mark.parametrize(
    ("scraper", "accept", "content_type"),
    [
        (
            "Prometheus 2.42",
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            OPENMETRICS,
        ),
        (
            "Prometheus 3.5, and an OpenTelemetry collector with its library",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
            "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
            "text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            f"{OPENMETRICS}; escaping=allow-utf-8",
        ),
        (
            "Prometheus 3.5, or a collector with its library, with native histograms or created timestamps",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
            "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
            "text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            PROTOBUF,
        ),
        (
            "Prometheus 3.5 with the text format alone, names in underscores",
            "text/plain;version=1.0.0;escaping=underscores;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            f"{TEXT_1}; escaping=underscores",
        ),
        ("VictoriaMetrics", "text/plain;version=0.0.4;q=1,*/*;q=0.1", TEXT_0),
        (  # its receiver scrapes with the library of Prometheus: 0.118 with that of 2.54, 0.123 with that of 3.0
            "OpenTelemetry collector 0.118",
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
            "text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            OPENMETRICS,
        ),
        (
            "OpenTelemetry collector 0.118 with PrometheusProto as the first of scrape_protocols",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.5,"
            "application/openmetrics-text;version=1.0.0;q=0.4,application/openmetrics-text;version=0.0.1;q=0.3,"
            "text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            PROTOBUF,
        ),
        (
            "OpenTelemetry collector 0.123",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
            "application/openmetrics-text;version=0.0.1;escaping=allow-utf-8;q=0.5,"
            "text/plain;version=1.0.0;escaping=allow-utf-8;escaping=allow-utf-8;q=0.4,"
            "text/plain;version=0.0.4;escaping=allow-utf-8;q=0.3,*/*;q=0.2",
            f"{OPENMETRICS}; escaping=allow-utf-8",
        ),
        (
            "Prometheus 2.42 with native histograms",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
            "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,"
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            PROTOBUF,
        ),
        ("another message", "application/vnd.google.protobuf;proto=x.Y;encoding=delimited,text/plain;q=0.1", TEXT_0),
        ("text in UTF-8", "text/plain;version=1.0.0;escaping=allow-utf-8", f"{TEXT_1}; escaping=allow-utf-8"),
        ("an unknown spelling", "text/plain;version=0.0.4;escaping=rot13", TEXT_0),
        ("a browser", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", TEXT_0),
    ],
)
def test_current_scrapers_get_their_preferred_format(scraper, accept, content_type):
    form, escaping = negotiate(accept)
    assert (form.content_type, escaping or "") == (content_type.partition("; escaping=")[::2])


def test_names_in_utf8_are_quoted():
    view = View(escaping="allow-utf-8")
    snapshot = Snapshot([counter("app", "user.login", (("http.status", '"2"'),)), counter("app", "ok")], [3, 4])
    assert shared.text(snapshot, view).decode() == (
        '# HELP "user.login_total" Total number of user.login.\n'
        '# TYPE "user.login_total" counter\n'
        '{"user.login_total",category="app","http.status"="\\"2\\""} 3\n'
        "# HELP ok_total Total number of ok.\n"
        "# TYPE ok_total counter\n"
        'ok_total{category="app"} 4\n'
    )
    families = {family.name: family for family in parse_openmetrics(shared.openmetrics(snapshot, view).decode())}
    assert families["user.login"].samples[0].value == 3


def test_a_scraper_may_choose_families_by_the_name_of_family_or_sample():
    snapshot = Snapshot(
        [counter("a", "hits"), Name("a", "query", Kind.HISTOGRAM, bounds=BOUNDS), Name("a", "open", Kind.GAUGE)],
        [1, Distribution(1.0, 1.0, (0, 0, 1, 0, 0, 0)), 2],
    )

    def chosen(*wanted):
        return [family.name for family in parse_text(shared.text(snapshot, View(names=frozenset(wanted))).decode())]

    assert chosen("hits_total", "query_seconds_count") == ["hits", "query_seconds"]
    assert chosen("hits", "open") == ["hits", "open"]
    assert chosen("nothing") == []


def test_a_format_is_added_by_one_row(monkeypatch, tmp_path):
    def shout(snapshot, view):
        return "".join(f"{name.metric.upper()}!\n" for name in snapshot.names).encode()

    monkeypatch.setitem(FORMATS, "toy", Format("text/x-toy; version=1", shout, asked_by={"version": ("1", "")}))
    [option] = [each for each in dump.params if each.name == "form"]
    monkeypatch.setattr(option, "type", click.Choice(list(FORMATS)))  # as it is made at the import
    save(tmp_path, Snapshot([counter("a", "hits")], [1]))
    result = CliRunner().invoke(dump, ["--format", "toy", "--from", str(tmp_path / FILE)])
    assert result.output == "HITS!\n"
    assert "toy" in CliRunner().invoke(dump, ["--help"]).output
    assert negotiate("text/x-toy, text/plain;q=0.5") == (FORMATS["toy"], None)


def test_content_types_name_the_versions():
    assert FORMATS["prometheus"].content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert FORMATS["openmetrics"].content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"


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
        snapshot = snapshot_of(series, {"uptime": 1, "threads": 2, "gc": 3})
        check_read_back(snapshot)
        promtool(render(snapshot))


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(name_lists, systems)
def test_pages_with_any_names_are_parsed_back_to_every_value(series, system):
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


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(name_lists, st.integers(0, 25))
@example([Name("a", "x", Kind.GAUGE), Name("b", "x", Kind.COUNTER, (), True)], 1)
def test_no_series_changes_when_another_is_registered_later(series, n):
    growing = Renderer()
    before = growing.text(snapshot_of(series[:n])).decode()
    after = growing.text(snapshot_of(series)).decode()
    assert set(samples(parse_text(before))) <= set(samples(parse_text(after)))
    assert after == Renderer().text(snapshot_of(series)).decode()


def test_names_are_planned_again_only_if_they_are_another_object():
    series = [counter("a", "x")]
    renderer = Renderer()
    renderer.text(Snapshot(series, [1]))
    assert renderer.text(Snapshot(series, [2])).endswith(b'x_total{category="a"} 2\n')
    assert renderer.text(Snapshot([counter("b", "y")], [3])).endswith(b'y_total{category="b"} 3\n')
    assert renderer.text(Snapshot([Name("b", "y", Kind.COUNTER)], [3])).endswith(b'y{category="b"} 3\n')
    assert b"uptime_seconds 4\n" in renderer.text(Snapshot(series, [1], {"uptime": 4}))


def test_threads_that_share_a_renderer_each_get_the_page_of_their_snapshot():
    snapshots = [snapshot_of([counter("a", f"m{i}") for i in range(n)], {"uptime": n}) for n in range(1, 40)]
    pages = {n: Renderer().text(snapshot) for n, snapshot in enumerate(snapshots)}
    renderer = Renderer()
    wrong = []

    def scrape(order):
        for n in order:
            if renderer.text(snapshots[n]) != pages[n]:
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
    """Checks that ``promtool check metrics`` accepts a page; advice about names (exit code 3) is ignored."""
    command = shutil.which("promtool")
    if command is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is not installed (Debian: apt-get install prometheus)")
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")

    def check(page):
        done = subprocess.run([command, "check", "metrics"], input=page, capture_output=True, check=False)
        assert done.returncode in (0, 3), done.stderr.decode() + done.stdout.decode() + page.decode()

    return check


def counter(category, metric, labels=(), help="", unit=""):  # noqa: A002
    return Name(category, metric, Kind.COUNTER, labels, True, (), help, unit)


def snapshot_of(series, system=None):
    """A snapshot in which no value occurs twice, and most are not representable as a float."""
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
    """Both parsers find each value once, under the expected category and, if it was changed, metric."""
    exposed = [
        (shared.text, parse_text),
        (shared.openmetrics, parse_openmetrics),
    ]
    both = []
    for rendered, parse in exposed:
        page = rendered(snapshot).decode()
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
