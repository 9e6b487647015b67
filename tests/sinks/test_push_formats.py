"""The formats of the push, decoded by other parsers: they have the content of the scraped page."""

from __future__ import annotations

import bisect
import gzip
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shmstats.bounds import exponential
from shmstats.export import View, render
from shmstats.series import Distribution, Kind, Mode, Name, Snapshot
from shmstats.sinks.push.encoder import Stale
from shmstats.sinks.push.http import Answer
from shmstats.sinks.push.remote_write import RemoteWrite, uncompressed_block
from shmstats.sinks.push.text import TextImport

cramjam = pytest.importorskip("cramjam")
protobuf = pytest.importorskip("google.protobuf")
json_format = pytest.importorskip("google.protobuf.json_format")

COMMON = {"job": "shop", "instance": "one"}
VIEW = View(labels=tuple(COMMON.items()))
INFO = {"host_name": "h"}
AT = 1_700_000_000_123

NAMES = [
    Name("api", "requests", Kind.COUNTER, (("method", "GET"), ("route", "")), True),
    Name("api", "requests", Kind.COUNTER, (("Zone", 'a"\\\nä'), ("method", "PUT")), True),
    Name("api", "job", Kind.COUNTER, (("instance", "mine"), ("job", "theirs")), True),
    Name("db", "query", Kind.HISTOGRAM, (), False, (1.0, 10.0, 1000.0)),
    Name("box", "size", Kind.HISTOGRAM, (("kind", "a"),), False, (1.0, 2.0), "Sizes.", "bytes"),
    Name("pool", "open", Kind.GAUGE, mode=Mode.LIVESUM),
    Name("pool", "load", Kind.GAUGE),
    Name("backup", "last", Kind.TIMESTAMP),
]
VALUES = [
    3, 2**53, 1, Distribution(2055.5, 2000.0, (1, 2, 3, 4)), Distribution(3.5, 3.0, (0, 1, 1)), 7, 0.25,
    1_700_000_000_000_001,
]  # fmt: skip
SNAPSHOT = Snapshot(NAMES, VALUES, {"uptime": 12, "user_in_ms": 500})

Series = tuple[str, tuple[tuple[str, str], ...]]


def page(snapshot: Snapshot) -> dict[Series, float]:
    """The samples of the scraped page, with the labels that a push adds."""
    found = {}
    for family in text_string_to_metric_families(render(snapshot).decode()):
        for sample in family.samples:
            labels = {(f"exported_{k}" if k in COMMON else k): v for k, v in sample.labels.items() if v} | COMMON
            found[sample.name, tuple(sorted(labels.items()))] = sample.value
    found["target_info", tuple(sorted((COMMON | INFO).items()))] = 1.0
    return found


def write_request() -> Any:
    """The class of a WriteRequest, made by protobuf from the definition in the specification."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="prompb.proto", syntax="proto3")
    types = descriptor_pb2.FieldDescriptorProto
    fields = {
        "Label": [("name", types.TYPE_STRING, ""), ("value", types.TYPE_STRING, "")],
        "Sample": [("value", types.TYPE_DOUBLE, ""), ("timestamp", types.TYPE_INT64, "")],
        "TimeSeries": [("labels", types.TYPE_MESSAGE, ".Label"), ("samples", types.TYPE_MESSAGE, ".Sample")],
        "WriteRequest": [("timeseries", types.TYPE_MESSAGE, ".TimeSeries")],
    }
    for name, members in fields.items():
        message = file.message_type.add(name=name)
        for number, (field, kind, of) in enumerate(members, 1):
            label = types.LABEL_REPEATED if of else types.LABEL_OPTIONAL
            message.field.add(name=field, number=number, type=kind, label=label, type_name=of or None)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("WriteRequest"))


WriteRequest = write_request()


def read_body(body: bytes) -> list[tuple[Series, float, int]]:
    """Decode a body of remote write, with times, and check the requirements of the specification."""
    found = []
    for series in WriteRequest.FromString(bytes(cramjam.snappy.decompress_raw(body))).timeseries:
        labels = [(label.name, label.value) for label in series.labels]
        assert labels == sorted(labels)
        assert all(value for _, value in labels)
        [sample] = series.samples
        key = dict(labels)["__name__"], tuple(pair for pair in labels if pair[0] != "__name__")
        found.append((key, sample.value, sample.timestamp))
    assert len({key for key, _, _ in found}) == len(found)
    return found


def read(body: bytes, at: int = AT) -> dict[Series, float]:
    """Read a body, all of whose samples are of one time."""
    found = read_body(body)
    assert {time for _, _, time in found} == {at}
    return {key: value for key, value, _ in found}


def is_stale(value: float) -> bool:
    import struct

    return struct.pack(">d", value) == bytes.fromhex("7ff0000000000002")


def test_remote_write_has_the_content_of_the_page() -> None:
    assert read(RemoteWrite(VIEW, INFO).encode(SNAPSHOT, AT, Stale.NONE)) == page(SNAPSHOT)


def test_remote_write_without_cramjam_is_readable_by_any_snappy() -> None:
    content = bytes(range(256)) * 1000
    assert bytes(cramjam.snappy.decompress_raw(uncompressed_block(content))) == content
    assert bytes(cramjam.snappy.decompress_raw(uncompressed_block(b""))) == b""


def test_added_names_get_the_same_place_as_in_a_new_template() -> None:
    growing = RemoteWrite(VIEW, INFO)
    for n in range(1, len(NAMES) + 1):
        snapshot = Snapshot(NAMES[:n], VALUES[:n], SNAPSHOT.system)
        assert read(growing.encode(snapshot, AT + n, Stale.NONE), AT + n) == page(snapshot)
        growing.accept()


def test_a_removed_series_ends_by_a_marker_that_is_sent_until_accepted() -> None:
    encoder = RemoteWrite(VIEW, INFO)
    encoder.encode(SNAPSHOT, AT, Stale.NONE)
    encoder.accept()
    fewer = Snapshot(NAMES[1:], VALUES[1:], SNAPSHOT.system)
    gone = page(SNAPSHOT).keys() - page(fewer).keys()
    for _ in range(2):  # the first push got no answer
        found = read(encoder.encode(fewer, AT, Stale.NONE))
        assert {series for series, value in found.items() if is_stale(value)} == gone
    encoder.accept()
    assert read(encoder.encode(fewer, AT, Stale.NONE)) == page(fewer)


def test_the_last_push_ends_only_the_live_gauges() -> None:
    found = read(RemoteWrite(VIEW, INFO).encode(SNAPSHOT, AT, Stale.LIVE))
    assert [name for (name, _), value in found.items() if is_stale(value)] == ["open"]
    found = read(RemoteWrite(VIEW, INFO).encode(SNAPSHOT, AT, Stale.ALL))
    assert all(map(is_stale, found.values()))


def test_text_import_has_the_content_of_the_page() -> None:
    body = TextImport(VIEW, INFO).encode(SNAPSHOT, AT, Stale.NONE)
    found = {}
    for family in text_string_to_metric_families(gzip.decompress(body).decode()):
        for sample in family.samples:
            assert sample.timestamp == AT / 1000
            labels = {name: value for name, value in sample.labels.items() if value}  # an empty label is none
            found[sample.name, tuple(sorted(labels.items()))] = sample.value
    assert found == page(SNAPSHOT)


def otlp() -> tuple[Any, Callable[[bytes], Any]]:
    """An encoder, and the official parser of its bodies."""
    service = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
    from shmstats.sinks.push.otlp import Otlp

    def parse(body: bytes) -> Any:
        return service.ExportMetricsServiceRequest.FromString(gzip.decompress(body)).resource_metrics[0]

    return Otlp(VIEW._replace(labels=(*VIEW.labels, ("dc", "eu"))), INFO, since=5), parse


def test_otlp_has_cumulative_sums_and_histograms_of_one_resource() -> None:
    encoder, parse = otlp()
    for at in (AT, AT + 1):
        found = parse(encoder.encode(SNAPSHOT, at, Stale.NONE))
        resource = {each.key: each.value.string_value for each in found.resource.attributes}
        assert resource == {"service.name": "shop", "service.instance.id": "one", "host.name": "h"}
        metrics = {metric.name: metric for metric in found.scope_metrics[0].metrics}
        requests = metrics["requests_total"].sum
        assert requests.is_monotonic
        assert requests.aggregation_temporality == 2
        assert [point.as_int for point in requests.data_points] == [3, 2**53]
        for point in requests.data_points:
            assert (point.start_time_unix_nano, point.time_unix_nano) == (5, at * 10**6)
            assert "dc" in [each.key for each in point.attributes]
        [query] = metrics["query_seconds"].histogram.data_points
        assert (query.count, query.sum, list(query.bucket_counts)) == (10, 2.0555, [1, 2, 3, 4])
        assert list(query.explicit_bounds) == [0.001, 0.01, 1.0]
        assert metrics["query_seconds"].unit == "s"
        assert metrics["load"].gauge.data_points[0].as_double == 0.25
        assert metrics["user_cpu_seconds"].gauge.data_points[0].as_double == 0.5
        assert metrics["last_timestamp_seconds"].gauge.data_points[0].as_double == 1_700_000_000.000001


def test_otlp_ends_series_by_a_flag() -> None:
    encoder, parse = otlp()
    encoder.encode(SNAPSHOT, AT, Stale.NONE)
    encoder.accept()
    fewer = Snapshot(NAMES[1:], VALUES[1:], SNAPSHOT.system)

    def ended(stale: Stale) -> list[str]:
        metrics = parse(encoder.encode(fewer, AT, stale)).scope_metrics[0].metrics
        kinds = [(metric.name, getattr(metric, metric.WhichOneof("data")).data_points) for metric in metrics]
        return [name for name, points in kinds for point in points if point.flags & 1]

    assert ended(Stale.NONE) == ["requests_total"]
    assert sorted(ended(Stale.LIVE)) == ["open", "requests_total"]
    encoder.accept()
    assert ended(Stale.NONE) == []


@pytest.mark.parametrize(
    ("count", "message", "said"),
    [
        (0, "", ""),
        (3, "", "3 data points were rejected"),
        (3, "too\nold", "3 data points were rejected: too old"),
        (0, "one was too old", "one was too old"),
    ],
)
def test_otlp_decodes_the_rejected_points_of_an_answer(count: int, message: str, said: str) -> None:
    encoder, _ = otlp()
    service = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
    response = service.ExportMetricsServiceResponse()
    if said:
        response.partial_success.rejected_data_points, response.partial_success.error_message = count, message
    as_json = json_format.MessageToJson(response).encode()
    assert encoder.rejected(Answer(200, "application/x-protobuf", response.SerializeToString(), 0.0)) == said
    assert encoder.rejected(Answer(200, "application/json", as_json, 0.0)) == said


@pytest.mark.parametrize(
    ("content_type", "body", "said"),
    [
        ("", b"", ""),
        ("text/plain", b"OK", ""),
        ("application/json", b"", ""),
        ("application/json", b'{"status": "success"}', ""),
        ("application/json", b'{"partialSuccess": {"errorMessage": "cut', '{"partialSuccess": {"errorMessage": "cut'),
        ("application/json", b"\xff", "\ufffd"),
        ("application/x-protobuf", b"\n\xff\x04\x12\xfb\x04cut", "cut"),
        ("application/x-protobuf", b"\x00\x01", "the body is not an OTLP answer"),
    ],
)
def test_the_error_for_an_unreadable_otlp_answer_shows_its_bytes(content_type: str, body: bytes, said: str) -> None:
    found = otlp()[0].rejected(Answer(200, content_type, body, 0.0))
    assert found == said if not said.startswith("cut") else found.endswith(said)


@pytest.mark.parametrize(("unit", "factor"), [("", 1000), ("bytes", 1)])
def test_otlp_has_exponential_histograms_in_its_own_type(unit: str, factor: int) -> None:
    encoder, parse = otlp()
    bounds = exponential(3, -2, 4, factor)
    values = [0.0, 0.1, 0.5, 1.0, 1.0905, 2.0, 3.9, 3.99, 4.0, 17.0]
    buckets = [0] * 34
    for value in values:
        buckets[bisect.bisect_left(bounds, value * factor)] += 1
    observed = Distribution(sum(values) * factor, 17.0 * factor, tuple(buckets), 0.0)
    name = Name("c", "h", Kind.HISTOGRAM, bounds=bounds, unit=unit)
    explicit = Name("c", "e", Kind.HISTOGRAM, bounds=(1.0,))
    snapshot = Snapshot([name, explicit], [observed, Distribution(1.0, 1.0, (1, 0))])
    metrics = parse(encoder.encode(snapshot, AT, Stale.NONE)).scope_metrics[0].metrics
    assert [metric.WhichOneof("data") for metric in metrics] == ["exponential_histogram", "histogram"]
    (point,) = metrics[0].exponential_histogram.data_points
    assert (point.count, point.zero_count, point.zero_threshold, point.scale) == (10, 2, 0.25, 3)
    assert (point.sum, point.min, point.max) == (pytest.approx(sum(values)), 0.0, 17.0)
    base, positive = 2.0 ** (2.0**-point.scale), point.positive
    for value in values[2:-1]:  # the last value is above the range, in the bucket behind it
        within = [
            count
            for index, count in enumerate(positive.bucket_counts, positive.offset)
            if base**index * (1 + 1e-12) < value <= base ** (index + 1) * (1 + 1e-12)
        ]
        assert len(within) == 1
        assert within[0] >= 1
    assert sum(positive.bucket_counts) == 8
