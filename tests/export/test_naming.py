"""Which family and labels a statistic gets, by example; `shmstats.export.naming` has the rules."""

import pytest

from shmstats.export.naming import Namer, Type
from shmstats.series import Kind, Name, label_text


def place(*names):
    """(name, labels) of the sample of each name, registered in that order."""
    namer = Namer()
    return [(series.family.exposed_name, dict(series.labels)) for series in map(namer.add, names)]


def counter(category, metric, labels=(), unit=""):
    return Name(category, metric, Kind.COUNTER, labels, True, unit=unit)


def gauge(category, metric, labels=(), unit=""):
    return Name(category, metric, Kind.GAUGE, labels, unit=unit)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        (counter("a", "requests"), "requests_total"),
        (counter("a", "requests_total"), "requests_total"),
        (counter("requests", "total"), "requests_total"),
        (counter("my-api", "hits"), "hits_total"),
        (counter("a", "sent", unit="bytes"), "sent_bytes_total"),
        (counter("a", "sent_bytes", unit="bytes"), "sent_bytes_total"),
        (counter("a", "x_count"), "x_count_total"),
        (gauge("a", "HTTP_OK"), "HTTP_OK"),
        (gauge("a", "sent", unit="bytes"), "sent_bytes"),
        (Name("a", "jobs", Kind.COUNTER, monotonic=False), "jobs"),
        (Name("a", "query", Kind.HISTOGRAM), "query_seconds"),
        (Name("a", "query_seconds", Kind.HISTOGRAM), "query_seconds"),
        (Name("a", "size", Kind.HISTOGRAM, unit="bytes"), "size_bytes"),
        (Name("a", "last", Kind.TIMESTAMP), "last_timestamp_seconds"),
        (Name("a", "last_timestamp", Kind.TIMESTAMP), "last_timestamp_seconds"),
        (gauge("a", "latency_ms"), "latency_ms"),
        (gauge("a", "idle_hours"), "idle_hours"),
        (gauge("a", "size_kilobytes"), "size_kilobytes"),
        (gauge("a", "x_gauge"), "x_gauge"),
        (gauge("a", "queue_count"), "queue_count"),
        (gauge("a", "idle", unit="hours"), "idle_hours"),
        (gauge("a", "cache:hits"), "cache:hits"),
        (counter("a", "requestCount"), "requestCount_total"),
        (counter("a", "x_total_total"), "x_total_total"),
        (counter("a", "_total"), "_total_total"),
        (Name("a", "x_total", Kind.COUNTER, monotonic=False), "x_total"),
    ],
)
def test_a_plain_name_has_no_label_but_the_category(name, family):
    assert place(name) == [(family, {"category": name.category})]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        (counter("a", "user.login"), "user_login_total"),
        (counter("a", "my-api.total"), "my_api_total"),
        (counter("a", "5xx"), "_5xx_total"),
        (counter("a", "requêtes reçues"), "requ_tes_re_ues_total"),
        (counter("a", "日本語"), "____total"),
        (Name("a", "query_ms", Kind.HISTOGRAM), "query_seconds"),
        (Name("a", "query_milliseconds", Kind.HISTOGRAM, unit="milliseconds"), "query_seconds"),
    ],
)
def test_a_changed_name_is_kept_in_a_label(name, family):
    assert place(name) == [(family, {"category": "a", "metric": name.metric})]


def test_names_equal_after_cleaning_differ_by_their_metric_in_any_order():
    names = [counter("a", "x.y"), counter("a", "x-y"), counter("a", "x_y")]
    assert sorted(map(repr, place(*names))) == sorted(map(repr, place(*names[::-1])))


def test_the_second_of_two_equal_samples_gets_its_metric_as_label():
    assert place(counter("a", "hits"), counter("a", "hits_total"), counter("b", "hits_total")) == [
        ("hits_total", {"category": "a"}),
        ("hits_total", {"category": "a", "metric": "hits_total"}),
        ("hits_total", {"category": "b"}),
    ]


def test_the_second_of_two_types_gets_its_own_family():
    assert place(counter("a", "open"), gauge("b", "open"), gauge("c", "open"), counter("d", "open_value")) == [
        ("open_total", {"category": "a"}),
        ("open_value", {"category": "b", "metric": "open"}),
        ("open_value", {"category": "c", "metric": "open"}),
        ("open_value_value_total", {"category": "d", "metric": "open_value"}),
    ]


def test_types_clash_as_in_openmetrics():
    assert place(Name("a", "x", Kind.HISTOGRAM), gauge("a", "x_seconds"), gauge("a", "x_seconds_created")) == [
        ("x_seconds", {"category": "a"}),
        ("x_seconds_value", {"category": "a", "metric": "x_seconds"}),
        ("x_seconds_created_value", {"category": "a", "metric": "x_seconds_created"}),
    ]


def test_reserved_label_names_are_exported_under_another_name():
    labels = tuple((name, name) for name in ["category", "exported_category", "le", "metric", "quantile"])
    [(_, got)] = place(counter("a", "x", labels))
    assert got == {
        "category": "a",
        "exported_category": "exported_category",
        "exported_category_2": "category",
        "exported_le": "le",
        "exported_metric": "metric",
        "exported_quantile": "quantile",
    }


def test_cleaned_label_names_stay_different():
    labels = tuple((name, name) for name in ["", "5", "__x", "a-b", "a.b", "a_b", "aB", "日"])
    [(_, got)] = place(counter("c", "x", labels))
    assert got == {
        "category": "c",
        "label": "",
        "_5": "5",
        "_x": "__x",
        "a_b": "a_b",
        "a_b_2": "a-b",
        "a_b_3": "a.b",
        "aB": "aB",
        "label_2": "日",
    }


def test_series_with_equal_labels_after_cleaning_stay_different():
    names = [gauge("c", "x", labels) for labels in [(("a.b", "1"),), (("a-b", "1"),), (("a b", "1"),)]]
    assert place(*names) == [
        ("x", {"category": "c", "a_b": "1"}),
        ("x", {"category": "c", "metric": "x", "a_b": "1"}),
        ("x", {"category": "c", "metric": "x", "a_b": "1", "raw_labels": '{"a b"="1"}'}),
    ]


def test_an_empty_label_counts_as_absent():
    names = [gauge("c", "x", (("a", ""),)), gauge("c", "x", (("b", ""),)), gauge("c", "x")]
    assert place(*names) == [
        ("x", {"category": "c", "a": ""}),
        ("x", {"category": "c", "metric": "x", "b": ""}),
        ("x", {"category": "c", "metric": "x", "raw_labels": "{}"}),
    ]


def test_system_figures_come_before_all_names():
    namer = Namer()
    uptime = namer.figures["uptime"]
    assert (uptime.family.name, uptime.labels) == ("uptime_seconds", ())
    threads = namer.add(counter("pool", "threads"))
    assert (threads.family.name, threads.family.type) == ("threads_value", Type.COUNTER)


def test_the_first_declared_help_and_unit_describe_the_family():
    namer = Namer()
    family = namer.add(gauge("a", "size_bytes")).family
    assert (family.help, family.unit) == ("Current value of size bytes.", "")
    namer.add(gauge("b", "size", unit="bytes")._replace(help=" The size. "))
    namer.add(gauge("c", "size_bytes")._replace(help="Another."))
    assert (family.help, family.unit) == ("The size.", "bytes")


def test_label_text_is_escaped_and_names_that_are_no_identifiers_are_quoted():
    assert label_text([("a", 'x"\\\n'), ("b c", "é")]) == 'a="x\\"\\\\\\n","b c"="é"'


@pytest.mark.parametrize(
    ("escaping", "family", "label"),
    [
        ("underscores", "user_login_total", "http_status"),
        ("allow-utf-8", "user.login_total", "http.status"),
        ("dots", "user_dot_login__total", "http_dot_status"),
        ("values", "U__user_2e_login__total", "U__http_2e_status"),
    ],
)
def test_a_scraper_may_choose_the_escaping_of_utf8_names(escaping, family, label):
    exposed = Namer(escaping=escaping).add(counter("app", "user.login", (("http.status", "200"),)))
    assert exposed.family.exposed_name == family
    altered = {"metric": "user.login"} if escaping == "underscores" else {}
    assert dict(exposed.labels) == {"category": "app", label: "200", **altered}


def test_names_with_the_same_escaped_form_stay_different():
    namer = Namer(escaping="dots")
    first, second = namer.add(gauge("a", "x y")), namer.add(gauge("a", "x_y"))
    assert (first.family.name, dict(first.labels)) == ("x__y", {"category": "a"})
    assert (second.family.name, dict(second.labels)) == ("x__y__value", {"category": "a", "metric": "x_y"})


def test_namespace_and_constant_labels_come_before_everything():
    namer = Namer(namespace="shop", labels=(("region", "eu"),))
    uptime = namer.figures["uptime"]
    assert (uptime.family.name, uptime.labels) == ("shop_uptime_seconds", (("region", "eu"),))
    own = namer.add(counter("web", "hits", (("region", "us"),)))
    assert own.family.exposed_name == "shop_hits_total"
    assert own.labels == (("region", "eu"), ("category", "web"), ("exported_region", "us"))
