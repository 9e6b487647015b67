"""JSON, CSV and the table, and the figures that they show of a histogram."""

import csv
import io
import json

import pytest

from shmstats.export import FORMATS, View, to_document
from shmstats.export.figures import histogram_figures, iso_time
from shmstats.series import Distribution, Kind, Name, Snapshot

NAMES = [
    Name("api", "requests", Kind.COUNTER, monotonic=True),
    Name("pool", "open", Kind.GAUGE),
    Name("db", "query", Kind.HISTOGRAM, bounds=(1.0, 10.0)),
    Name("backup", "last", Kind.TIMESTAMP),
    Name("api", "status", Kind.COUNTER, (("code", "200"), ("method", "GET")), monotonic=True),
]
VALUES = [2**62, 2.5, Distribution(22.0, 12.0, (2, 1, 1)), 1_700_000_000_000_001, 3]
WORKERS = {
    1: [2**62 - 1, None, Distribution(10.0, 8.0, (2, 1, 0)), None, 1],
    12: [1, None, None, None, 2],
}
FIGURES = {"count": 4, "sum": 22.0, "mean": 5.5, "p50": 1.0, "p90": 11.2, "p99": 11.92, "max": 12.0}


def to_csv(snapshot, **view):
    return FORMATS["csv"].render(snapshot, View(**view)).decode()


def to_table(snapshot):
    return FORMATS["table"].render(snapshot, View()).decode()


def test_a_document_holds_every_value_by_category_and_metric():
    document = to_document(Snapshot(NAMES, VALUES, {"uptime": 5}))
    assert document["db"]["query"] == pytest.approx(FIGURES)
    del document["db"]
    assert document == {
        "api": {"requests": 2**62, 'status{code="200",method="GET"}': 3},
        "pool": {"open": 2.5},
        "backup": {"last": "2023-11-14T22:13:20.000001+00:00"},
        "system": {"uptime": 5},
    }


def test_without_system_figures_a_document_has_no_category_system():
    assert to_document(Snapshot([], [])) == {}


def test_a_document_can_be_broken_down_by_worker():
    document = to_document(Snapshot(NAMES, VALUES, {"uptime": 5}, WORKERS))
    assert document["api"]["requests"] == {"total": 2**62, "workers": {"1": 2**62 - 1, "12": 1}}
    assert document["pool"]["open"] == {"total": 2.5, "workers": {}}
    assert document["db"]["query"]["workers"]["1"]["count"] == 3
    assert document["system"] == {"uptime": 5}
    assert json.loads(json.dumps(document)) == document


def test_a_metric_named_like_a_labelled_series_keeps_its_name():
    names = [
        Name("a", "x", Kind.COUNTER, (("k", "v"),)),
        Name("a", 'x{k="v"}', Kind.COUNTER),
        Name("a", 'x{k="v",}', Kind.COUNTER),
    ]
    assert to_document(Snapshot(names, [1, 2, 3])) == {"a": {'x{k="v"}': 2, 'x{k="v",}': 3, 'x{k="v",,}': 1}}


@pytest.mark.parametrize(
    ("value", "bounds", "p50", "p99"),
    [
        (Distribution(10.0, 1.0, (10, 0)), (1.0,), 0.5, 0.99),
        (Distribution(5.0, 0.5, (10, 0)), (1.0,), 0.25, 0.495),
        (Distribution(50.0, 5.0, (0, 10)), (1.0,), 3.0, 4.96),
        (Distribution(7.0, 7.0, (0, 0, 1)), (1.0, 7.0), 7.0, 7.0),
        (Distribution(7.0, 7.0, (1,)), (), 3.5, 6.93),
        (Distribution(0.0, 0.0, (4, 0)), (1.0,), 0.0, 0.0),
    ],
)
def test_a_percentile_is_interpolated_and_never_above_the_largest_observation(value, bounds, p50, p99):
    figures = histogram_figures(value, bounds)
    assert figures["p50"] == pytest.approx(p50)
    assert figures["p99"] == pytest.approx(p99)


def test_a_histogram_without_observations_has_no_percentiles():
    assert histogram_figures(Distribution(0.0, 0.0, (0, 0)), (1.0,)) == {
        "count": 0,
        "sum": 0.0,
        "mean": None,
        "p50": None,
        "p90": None,
        "p99": None,
        "max": None,
    }


def test_a_time_is_iso_8601_if_it_is_within_the_calendar():
    assert iso_time(0) == "1970-01-01T00:00:00+00:00"
    assert iso_time(-1) == "1969-12-31T23:59:59.999999+00:00"
    assert iso_time(2**63 - 1) == "9223372036854775807 µs"


def test_csv_has_a_line_for_each_figure():
    lines = list(csv.reader(io.StringIO(to_csv(Snapshot(NAMES, VALUES, {"uptime": 5})), newline="")))
    assert lines[:3] == [
        ["category", "metric", "labels", "kind", "field", "value"],
        ["api", "requests", "", "counter", "value", str(2**62)],
        ["pool", "open", "", "gauge", "value", "2.5"],
    ]
    assert [line[4] for line in lines if line[1] == "query"] == list(FIGURES)
    assert lines[-3:] == [
        ["backup", "last", "", "timestamp", "value", "2023-11-14T22:13:20.000001+00:00"],
        ["api", "status", 'code="200",method="GET"', "counter", "value", "3"],
        ["system", "uptime", "", "gauge", "value", "5"],
    ]


def test_csv_has_a_worker_column_when_broken_down():
    lines = list(csv.reader(io.StringIO(to_csv(Snapshot(NAMES, VALUES, {}, WORKERS)), newline="")))
    assert [line for line in lines if line[1] in ("metric", "status")] == [
        ["category", "metric", "labels", "kind", "worker", "field", "value"],
        ["api", "status", 'code="200",method="GET"', "counter", "total", "value", "3"],
        ["api", "status", 'code="200",method="GET"', "counter", "1", "value", "1"],
        ["api", "status", 'code="200",method="GET"', "counter", "12", "value", "2"],
    ]


@pytest.mark.parametrize("text", ["a,b", 'a"b', "a\nb", "a\r\nb", "a\rb", " a ", "=1+1", "+1", "-1", "@a", "é日🙂"])
def test_raw_csv_loses_nothing_of_any_name(text):
    table = to_csv(Snapshot([Name(text, text, Kind.GAUGE)], [1]), raw=True)
    assert list(csv.reader(io.StringIO(table, newline="")))[1] == [text, text, "", "gauge", "value", "1"]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        *[(text, f"'{text}") for text in ("=1+1", "+1", "-1", "@a")],
        ("\x1b[31m", "\\x1b[31m"),
        ("\x9b2J", "\\x9b2J"),
        ("\u202ex", "\\u202ex"),
        ("\t=1", "'\\t=1"),
        ("a=1", "a=1"),
        ("größe", "größe"),
    ],
)
def test_csv_has_no_formulas_and_no_control_characters(text, cell):
    table = to_csv(Snapshot([Name(text, text, Kind.GAUGE)], [-1]))
    assert list(csv.reader(io.StringIO(table, newline="")))[1] == [cell, cell, "", "gauge", "value", "-1"]


def test_control_characters_are_escaped_in_json():
    obeyed = "\x1b[31m \x7f \x9b2J \u202e \u2066 \u2028 \U000e0041 größe 日"
    text = FORMATS["json"].render(Snapshot([Name(obeyed, obeyed, Kind.GAUGE)], [1]), View()).decode()
    assert json.loads(text) == {obeyed: {obeyed: 1}}
    assert "".join(text.split("\n")).isprintable()
    assert "größe 日" in text


def test_a_table_is_sorted_and_aligned():
    assert to_table(Snapshot(NAMES, VALUES, {"uptime": 5})).splitlines() == [
        "CATEGORY  METRIC    LABELS                   KIND                                  VALUE  DETAIL",
        "api       requests                           counter                 4611686018427387904",
        'api       status    code="200",method="GET"  counter                                   3',
        "backup    last                               timestamp  2023-11-14T22:13:20.000001+00:00",
        "db        query                              histogram                                 4"
        "  mean 5.5 ms, p50 1 ms, p90 11.2 ms, p99 11.9 ms, max 12 ms",
        "pool      open                               gauge                                   2.5",
        "system    uptime                             gauge                                     5",
    ]


@pytest.mark.parametrize(
    ("category", "unit", "shown"),
    [
        ("db", "", "ms"),
        ("db", "seconds", "ms"),
        ("http", "bytes", "B"),
        ("prometheus_client", "seconds", "seconds"),
    ],
)
def test_a_table_shows_the_unit_of_a_histogram(category, unit, shown):
    name = Name(category, "size", Kind.HISTOGRAM, bounds=(10.0,), unit=unit)
    table = to_table(Snapshot([name], [Distribution(6.0, 4.0, (2, 0))]))
    assert table.endswith(f"  2  mean 3 {shown}, p50 2 {shown}, p90 3.6 {shown}, p99 3.96 {shown}, max 4 {shown}\n")


def test_a_table_of_histograms_without_a_unit_shows_none():
    name = Name("prometheus_client", "size", Kind.HISTOGRAM, bounds=(10.0,))
    table = to_table(Snapshot([name], [Distribution(6.0, 4.0, (2, 0))]))
    assert table.endswith("  2  mean 3, p50 2, p90 3.6, p99 3.96, max 4\n")


def test_a_table_has_a_worker_column_when_broken_down():
    assert to_table(Snapshot(NAMES[:1], VALUES[:1], {}, WORKERS)).splitlines() == [
        "CATEGORY  METRIC    KIND     WORKER                VALUE",
        "api       requests  counter  total   4611686018427387904",
        "api       requests  counter  1       4611686018427387903",
        "api       requests  counter  12                        1",
    ]


def test_a_table_without_rows_has_its_titles():
    assert to_table(Snapshot([], [])) == "CATEGORY  METRIC\n"


def test_wide_characters_take_two_columns():
    names = [Name("日本", "x", Kind.GAUGE), Name("e\u0301a", "x", Kind.GAUGE)]
    assert to_table(Snapshot(names, [1, 2])).splitlines()[1:] == [
        "e\u0301a        x       gauge      2",
        "日本      x       gauge      1",
    ]


def test_control_characters_do_not_reach_a_terminal():
    text = "a\x1b[31m\r\n\t\x07\x9b\u202e\u2028\u200b"
    table = to_table(Snapshot([Name(text, text, Kind.GAUGE, ((text, text),))], [1]))
    assert table.replace("\n", "").isprintable()
    assert table.count("\n") == 2
    assert "a\\x1b[31m\\r\\n\\t\\x07\\x9b\\u202e\\u2028\\u200b" in table
