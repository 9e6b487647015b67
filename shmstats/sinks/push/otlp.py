"""OTLP over HTTP (``/v1/metrics``) for OpenTelemetry's collectors, using opentelemetry-proto.

A metric has the same name as on the scraped page, so queries do not depend on the way. Totals are
cumulative since the series was made. Exponential bounds become an exponential histogram. The message is kept and
reused. Source:
https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/metrics/v1/metrics.proto
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from google.protobuf import json_format  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2

from shmstats._version import __version__
from shmstats.bounds import Exponential
from shmstats.export.naming import Type, is_time
from shmstats.export.page import Member, Page, Pages
from shmstats.export.view import View
from shmstats.series import Distribution, Kind, Labels, Name, Snapshot
from shmstats.sinks.push.encoder import Encoder, Stale
from shmstats.sinks.push.http import Answer, one_line

_CUMULATIVE = metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE
_NO_VALUE = metrics_pb2.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK
_RESOURCE = frozenset({"job", "instance"})
_UNITS = {"seconds": "s", "bytes": "By"}
_LEVEL = 1

#: The identity of a series: the name of its family, and its labels.
_Identity = tuple[str, Labels]


class Otlp(Encoder):
    """Encodes snapshots for OTLP.

    Args:
        view: the prefix of names, and the attributes of every point, except ``job`` and ``instance``, which become the
            resource's ``service.name`` and ``service.instance.id``.
        info: further attributes of the resource.
        since: ns since 1970: the start of series whose start is unknown.
    """

    headers: ClassVar[Mapping[str, str]] = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}

    def __init__(self, view: View, info: Mapping[str, str], since: int) -> None:
        labels = dict(view.labels)
        self._resource = {"service.name": labels["job"], "service.instance.id": labels["instance"]}
        self._resource |= {name.replace("_", "."): value for name, value in info.items()}
        self._view = view
        self._since = since
        self._pages = Pages()
        self._page: Page | None = None
        self._request = ExportMetricsServiceRequest()
        self._points: dict[_Identity, _Point] = {}
        self._accepted: dict[_Identity, _Point] = {}
        self._gone: list[Any] = []

    def encode(self, snapshot: Snapshot, at: int, stale: Stale) -> bytes:
        """Return the body of a request."""
        page = self._pages.of(snapshot, self._view, "underscores")
        if page is not self._page:
            self._prepare(page)
        nanoseconds = at * 1_000_000
        numbers = page.numbers(snapshot)
        for point in self._points.values():
            point.set(numbers[point.member.position])
            point.message.time_unix_nano = nanoseconds
            ends = stale is Stale.ALL or (stale is Stale.LIVE and point.member.name.mode.live)
            point.message.flags = _NO_VALUE if ends else 0
        for message in self._gone:
            message.time_unix_nano = nanoseconds
        return gzip.compress(self._request.SerializeToString(), _LEVEL)

    def accept(self) -> None:
        """The last body was accepted: the series that it ended need not be ended again."""
        if self._gone:
            self._page = None  # the next message is made without them
        self._accepted = self._points

    def rejected(self, answer: Answer) -> str:
        """Return as one line what a successful answer reports as rejected; empty if nothing was.

        A message without a number counts too: Mimir sends no number for what it leaves out.
        """
        response = ExportMetricsServiceResponse()
        try:
            if answer.body and answer.content_type == "application/json":
                json_format.Parse(answer.body, response, ignore_unknown_fields=True)
            elif answer.content_type == self.headers["Content-Type"]:
                response.ParseFromString(answer.body)
        except (json_format.Error, DecodeError, ValueError):  # invalid, or too long to be read completely
            return answer.said or "the body is not an OTLP answer"
        count, message = response.partial_success.rejected_data_points, response.partial_success.error_message
        said = [f"{count} data points were rejected"] if count else []
        return one_line(": ".join([*said, message] if message else said))

    def _prepare(self, page: Page) -> None:
        """Make the message of a page."""
        self._page = None
        self._request = ExportMetricsServiceRequest()
        resource_metrics = self._request.resource_metrics.add()
        resource_metrics.resource.attributes.extend(_attributes(self._resource.items()))
        scope = resource_metrics.scope_metrics.add()
        scope.scope.name, scope.scope.version = "shmstats", __version__
        self._points = {}
        lists: dict[tuple[str, bool], Any] = {}
        for member in page.members:
            kind = _kind_of(member.name)
            message = _points_of(member, kind, scope.metrics, lists).add()
            labels = [pair for pair in member.series.labels if pair[1] and pair[0] not in _RESOURCE]
            message.attributes.extend(_attributes(labels))
            message.start_time_unix_nano = member.name.created or self._since
            self._points[member.series.family.exposed_name, member.series.labels] = kind(member, message)
        self._gone = []
        for identity, point in self._accepted.items():
            if identity not in self._points:
                message = _points_of(point.member, type(point), scope.metrics, lists).add()
                message.attributes.extend(point.message.attributes)
                message.flags = _NO_VALUE
                self._gone.append(message)
        self._page = page


class _Point:
    """A point in the message and the source of its value."""

    def __init__(self, member: Member, message: Any) -> None:
        self.member = member
        self.message = message

    def set(self, value: Any) -> None:
        """Set the value."""
        if isinstance(value, int):
            self.message.as_int = value
        else:
            self.message.as_double = value


class _Buckets(_Point):
    def __init__(self, member: Member, message: Any) -> None:
        super().__init__(member, message)
        self._divisor = 1000 if is_time(member.name.unit) else 1
        message.explicit_bounds.extend([bound / self._divisor for bound in member.name.bounds])

    def set(self, value: Distribution) -> None:
        message = self.message
        message.count, message.sum = value.count, value.sum / self._divisor
        message.bucket_counts[:] = value.buckets


class _ExponentialBuckets(_Point):
    """Both formats count buckets by powers of the same base, but OTLP starts with the bucket above 1."""

    def __init__(self, member: Member, message: Any) -> None:
        super().__init__(member, message)
        assert isinstance(member.name.bounds, Exponential)
        self._bounds = member.name.bounds
        message.scale, message.zero_threshold = self._bounds.schema, 2.0**self._bounds.first

    def set(self, value: Distribution) -> None:
        message, divisor = self.message, self._bounds.factor
        message.count, message.sum, message.zero_count = value.count, value.sum / divisor, value.buckets[0]
        if value.count:
            message.min, message.max = value.min / divisor, value.max / divisor
        used = [i for i, count in enumerate(value.buckets) if count and i]
        first, end = (used[0], used[-1] + 1) if used else (1, 1)
        message.positive.offset = (self._bounds.first << self._bounds.schema) + first - 1
        message.positive.bucket_counts[:] = value.buckets[first:end]


def _kind_of(name: Name) -> type[_Point]:
    if name.kind is not Kind.HISTOGRAM:
        return _Point
    return _ExponentialBuckets if isinstance(name.bounds, Exponential) else _Buckets


def _points_of(member: Member, kind: type[_Point], metrics: Any, made: dict[tuple[str, bool], Any]) -> Any:
    """Return the points of a member's family, a new one of the metrics if they are not made yet.

    Exponential histograms have their own.
    """
    family, exponential = member.series.family, kind is _ExponentialBuckets
    key = family.exposed_name, exponential
    if key not in made:
        metric = metrics.add()
        metric.name, metric.description, metric.unit = key[0], family.help, _UNITS.get(family.unit, "")
        histogram = metric.exponential_histogram if exponential else metric.histogram
        data = {Type.COUNTER: metric.sum, Type.HISTOGRAM: histogram}.get(family.type, metric.gauge)
        if family.type in (Type.COUNTER, Type.HISTOGRAM):
            data.aggregation_temporality = _CUMULATIVE
        if family.type is Type.COUNTER:
            data.is_monotonic = True
        made[key] = data.data_points
    return made[key]


def _attributes(pairs: Iterable[tuple[str, str]]) -> list[KeyValue]:
    attributes = []
    for key, value in pairs:
        attribute = KeyValue(key=key)
        attribute.value.string_value = value
        attributes.append(attribute)
    return attributes
