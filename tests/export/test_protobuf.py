"""The protobuf page has the content of the text, native histograms and exemplars."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from export.messages import read
from prometheus_client.parser import text_string_to_metric_families as parse_text

from shmstats.bounds import exponential
from shmstats.export import View, protobuf, render
from shmstats.series import Distribution, Exemplar, Kind, Name, Snapshot

BOUNDS = (0.5, 10.0, 2000.0)


Sample = tuple[str, tuple[tuple[str, str], ...], float]


def samples(families: list[Any]) -> list[Sample]:
    """The samples of the messages, in the form of the text format."""
    return sorted(
        (name, tuple(sorted({**{pair.name: pair.value for pair in metric.label}, **limit}.items())), value)
        for family in families
        for metric in family.metric
        for name, limit, value in figures(family, metric)
    )


def figures(family: Any, metric: Any) -> Iterator[tuple[str, dict[str, str], float]]:
    if family.type != 4:
        yield family.name, {}, metric.counter.value if family.type == 0 else metric.gauge.value
        return
    for bucket in metric.histogram.bucket:
        yield f"{family.name}_bucket", {"le": repr(bucket.upper_bound)}, bucket.cumulative_count
    yield f"{family.name}_bucket", {"le": "+Inf"}, metric.histogram.sample_count
    yield f"{family.name}_count", {}, metric.histogram.sample_count
    yield f"{family.name}_sum", {}, metric.histogram.sample_sum


def samples_of_text(snapshot: Snapshot) -> list[Sample]:
    return sorted(
        (sample.name, tuple(sorted(sample.labels.items())), sample.value)
        for family in parse_text(render(snapshot).decode())
        for sample in family.samples
    )


SNAPSHOT = Snapshot(
    [
        Name("api", "requests", Kind.COUNTER, (("method", "GET"), ("status", 'é"\n')), True, help="All of them."),
        Name("api", "requests", Kind.COUNTER, (), True),
        Name("pool", "open", Kind.GAUGE, unit="connections"),
        Name("db", "query", Kind.HISTOGRAM, bounds=BOUNDS),
        Name("http", "size", Kind.HISTOGRAM, bounds=BOUNDS, unit="bytes"),
        Name("backup", "last", Kind.TIMESTAMP),
        Name("a", "user.login", Kind.COUNTER, (), True),
    ],
    [
        2**53,
        0,
        -1.5,
        Distribution(7.25, 5.0, (1, 300, 0, 2)),
        Distribution(0.0, 0.0, (0,) * 4),
        1_700_000_000_123_456,
        3,
    ],
    {"uptime": 5, "cpu": 12.5},
)


def test_the_messages_have_the_content_of_the_text() -> None:
    families = read(protobuf.render(SNAPSHOT))
    assert samples(families) == samples_of_text(SNAPSHOT)
    helps = {family.name: (family.help, family.unit) for family in families}
    assert helps["requests_total"] == ("All of them.", "")
    assert helps["open_connections"][1] == "connections"


def test_families_may_be_chosen_and_names_are_written_in_utf8() -> None:
    view = View(escaping="allow-utf-8", names=frozenset(["user.login"]))
    [family] = read(protobuf.render(SNAPSHOT, view))
    assert (family.name, len(family.metric), family.metric[0].counter.value) == ("user.login_total", 1, 3)


def test_a_message_has_the_creation_time_of_its_series() -> None:
    made = [SNAPSHOT.names[1]._replace(created=1_700_000_000_000_000_005), SNAPSHOT.names[3]._replace(created=10**9)]
    counted, observed = read(protobuf.render(Snapshot(made, [1, SNAPSHOT.values[3]])))
    created = counted.metric[0].counter.created_timestamp
    assert (created.seconds, created.nanos) == (1_700_000_000, 5)
    assert observed.metric[0].histogram.created_timestamp.seconds == 1


def test_new_names_are_added_to_a_page() -> None:
    for n in range(len(SNAPSHOT.names) + 1):
        part = Snapshot(SNAPSHOT.names[:n], SNAPSHOT.values[:n], SNAPSHOT.system)
        assert samples(read(protobuf.render(part))) == samples_of_text(part)


def test_a_histogram_with_the_wrong_number_of_buckets_is_refused() -> None:
    with pytest.raises(ValueError, match="3 bounds has 2 buckets"):
        protobuf.render(Snapshot([SNAPSHOT.names[3]], [Distribution(1.0, 1.0, (1, 1))]))


def native_buckets(histogram: Any) -> dict[int, int]:
    """The count of each bucket of a native histogram, by its index."""
    found, index, count = {}, 0, 0
    deltas = iter(histogram.positive_delta)
    for span in histogram.positive_span:
        index += span.offset
        for _ in range(span.length):
            count += next(deltas)
            found[index] = count
            index += 1
    assert list(deltas) == []
    return found


@pytest.mark.parametrize(("unit", "factor", "first"), [("", 1000, -3), ("bytes", 1, 4)])
def test_an_exponential_histogram_is_a_native_histogram_with_all_its_buckets(
    unit: str, factor: int, first: int
) -> None:
    bounds = exponential(3, first, 10, factor)
    counts = [0] * 82
    for i, count in {0: 7, 1: 3, 2: 0, 3: 1000, 20: 1, 24: 5, 80: 2, 81: 9}.items():
        counts[i] = count
    name = Name("c", "h", Kind.HISTOGRAM, bounds=bounds, unit=unit)
    snapshot = Snapshot([name], [Distribution(5.0, 1.0, tuple(counts))])
    [family] = read(protobuf.render(snapshot))
    histogram = family.metric[0].histogram
    assert (histogram.schema, histogram.zero_threshold, histogram.zero_count) == (3, 2.0**first, 7)
    assert histogram.sample_count == sum(counts)
    found = native_buckets(histogram)
    assert {index: count for index, count in found.items() if count} == {
        first * 8 + i: count for i, count in enumerate(counts) if count and i
    }
    assert samples([family]) == samples_of_text(snapshot)  # the powers of two, as in text
    assert [bucket.upper_bound for bucket in histogram.bucket] == [2.0 ** (first + i) for i in range(11)]


def test_an_exponential_histogram_without_observations_is_marked_as_native() -> None:
    name = Name("c", "h", Kind.HISTOGRAM, bounds=exponential(3, -14, 20, 1000))
    [family] = read(protobuf.render(Snapshot([name], [Distribution(0.0, 0.0, (0,) * 162)])))
    assert family.metric[0].histogram.zero_threshold > 0
    assert native_buckets(family.metric[0].histogram) == {}


def test_exemplars_of_a_histogram_are_in_their_buckets() -> None:
    name = SNAPSHOT.names[3]
    noted = (name, (Exemplar((("trace", "a"),), 7.5, 1_700_000_000.25), Exemplar((("trace", "b"),), 3000.0, 1.0)))
    [family] = read(protobuf.render(Snapshot([name], [SNAPSHOT.values[3]], exemplars=[noted])))
    marked = [bucket for bucket in family.metric[0].histogram.bucket if bucket.HasField("exemplar")]
    assert [bucket.upper_bound for bucket in marked] == [0.01, float("inf")]
    assert marked[1].cumulative_count == family.metric[0].histogram.sample_count
    assert marked[1].exemplar.label[0].value == "b"
    exemplar = marked[0].exemplar
    assert (exemplar.value, exemplar.label[0].value, exemplar.timestamp.nanos) == (0.0075, "a", 250_000_000)
