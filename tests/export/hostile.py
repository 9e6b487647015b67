"""Hypothesis strategies of names, labels and values that are hard to render."""

from hypothesis import strategies as st

from shmstats.series import Kind, Name

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
    st.sampled_from(["uptime", "cpu", "gc", "store", "threads"]),
    st.integers(0, 2**62),
    max_size=3,
)
