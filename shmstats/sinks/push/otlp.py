"""OTLP over HTTP: metrics as OpenTelemetry's collectors take them (``/v1/metrics``), by opentelemetry-proto.

A metric has the name that the scraped page gives it, so that a query does not depend on the way. Totals are
cumulative since the series was made. The message is kept, and only values and times are set anew.

Source: https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/metrics/v1/metrics.proto
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2

from shmstats._version import __version__
from shmstats.export.naming import FOREIGN, SYSTEM_FIGURES, ExposedFamily, Namer, Type, is_time
from shmstats.series import Distribution, Kind, Labels, Name, Snapshot
from shmstats.sinks.push.stale import Stale

_CUMULATIVE = metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE
_NO_VALUE = metrics_pb2.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK
_UNITS = {"seconds": "s", "bytes": "By"}
_LEVEL = 1


class Otlp:
    """Encodes snapshots for OTLP. To be used by one thread.

    Args:
        common: attributes of every point; ``job`` and ``instance`` are the resource's ``service.name`` and
            ``service.instance.id``.
        info: further attributes of the resource.
        since: ns since 1970 when series began of which that is not known.
    """

    headers: Mapping[str, str] = {
        "Content-Type": "application/x-protobuf",
        "Content-Encoding": "gzip",
        "User-Agent": f"shmstats/{__version__}",
    }
    can_forget = True

    def __init__(self, common: Mapping[str, str], info: Mapping[str, str], since: int) -> None:
        self._common = dict(common)
        self._resource = {"service.name": self._common.pop("job"), "service.instance.id": self._common.pop("instance")}
        self._resource |= {name.replace("_", "."): value for name, value in info.items()}
        self._since = since
        self._seen: Sequence[Name] | None = None
        self._system: tuple[str, ...] = ()
        self._request = ExportMetricsServiceRequest()
        self._points: dict[tuple[str, Labels], _Point] = {}
        self._accepted: set[tuple[str, Labels]] = set()
        self._ended: dict[tuple[str, Labels], _Point] = {}
        self._gone: list[Any] = []

    def encode(self, snapshot: Snapshot, at: int, stale: Stale) -> bytes:
        """Return the body of a request.

        Args:
            snapshot: what to push.
            at: ms since 1970, later than that of all bodies before.
            stale: which series end. Those that were accepted, but are not in this snapshot, end in any case.
        """
        if self._seen is not snapshot.names or self._system != tuple(snapshot.system):
            self._prepare(snapshot)
        nanoseconds = at * 1_000_000
        values = (*snapshot.system.values(), *snapshot.values)
        for point in self._points.values():
            point.set(values[point.index], nanoseconds)
            ends = stale is Stale.ALL or (stale is Stale.LIVE and point.live)
            point.message.flags = _NO_VALUE if ends else 0
        for message in self._gone:
            message.time_unix_nano = nanoseconds
        return gzip.compress(self._request.SerializeToString(), _LEVEL)

    def accept(self) -> None:
        """Note that the last body was accepted: what it ended needs not be ended again."""
        if self._gone:
            self._seen = None  # the next message is made without them
        if len(self._accepted) != len(self._points) or self._gone:
            self._accepted = set(self._points)

    def _prepare(self, snapshot: Snapshot) -> None:
        """Make the message for the names of a snapshot."""
        self._ended |= self._points
        self._seen, self._system = None, tuple(snapshot.system)
        self._request = ExportMetricsServiceRequest()
        resource_metrics = self._request.resource_metrics.add()
        resource_metrics.resource.attributes.extend(_attributes(self._resource.items()))
        scope = resource_metrics.scope_metrics.add()
        scope.scope.name, scope.scope.version = "shmstats", __version__
        metrics = _Metrics(scope.metrics.add)
        namer = Namer(snapshot.system)
        self._points = {}
        for i, (series, key) in enumerate(zip(namer.system, snapshot.system, strict=True)):
            divisor = SYSTEM_FIGURES[key].divisor if key in SYSTEM_FIGURES else 1
            self._add(metrics, series.family, series.labels, _Number(i, divisor, live=False))
        for i, name in enumerate(snapshot.names, len(snapshot.system)):
            if name.category in FOREIGN:
                continue
            series = namer.add(name)
            self._add(metrics, series.family, series.labels, _point(i, name))
        gone = self._accepted.difference(self._points)
        self._ended = {identity: point for identity, point in self._ended.items() if identity in gone}
        self._gone = [self._end(metrics, point) for point in self._ended.values()]
        self._seen = snapshot.names

    def _add(self, metrics: _Metrics, family: ExposedFamily, labels: Labels, point: _Point) -> None:
        own = [(f"exported_{name}" if name in self._common else name, value) for name, value in labels if value]
        point.place(metrics.points(family), [*own, *self._common.items()], self._since)
        point.family = family
        self._points[family.exposed_name, labels] = point

    @staticmethod
    def _end(metrics: _Metrics, point: _Point) -> Any:
        """Add a point that says that its series has ended."""
        message = metrics.points(point.family).add()
        message.attributes.extend(point.message.attributes)
        message.flags = _NO_VALUE
        return message


class _Metrics:
    """The metrics of a message by family, made when they are asked for first."""

    def __init__(self, add: Callable[[], Any]) -> None:
        self._add = add
        self._made: dict[str, Any] = {}

    def points(self, family: ExposedFamily) -> Any:
        """Return the list of a family's points."""
        key = family.exposed_name
        if key not in self._made:
            metric = self._add()
            metric.name, metric.description, metric.unit = key, family.help, _UNITS.get(family.unit, "")
            data = {Type.COUNTER: metric.sum, Type.HISTOGRAM: metric.histogram}.get(family.type, metric.gauge)
            if family.type in (Type.COUNTER, Type.HISTOGRAM):
                data.aggregation_temporality = _CUMULATIVE
            if family.type is Type.COUNTER:
                data.is_monotonic = True
            self._made[key] = data.data_points
        return self._made[key]


class _Point:
    """A point in the message and where its value comes from."""

    family: ExposedFamily
    message: Any

    def __init__(self, index: int, *, live: bool) -> None:
        self.index = index
        self.live = live

    def place(self, points: Any, attributes: Iterable[tuple[str, str]], since: int) -> None:
        """Add the point to those of its metric."""
        self.message = points.add()
        self.message.attributes.extend(_attributes(attributes))
        self.message.start_time_unix_nano = since

    def set(self, value: Any, nanoseconds: int) -> None:
        """Set the value and its time."""
        raise NotImplementedError


class _Number(_Point):
    def __init__(self, index: int, divisor: int = 1, *, live: bool) -> None:
        super().__init__(index, live=live)
        self._divisor = divisor

    def set(self, value: Any, nanoseconds: int) -> None:
        self.message.time_unix_nano = nanoseconds
        if self._divisor != 1:
            self.message.as_double = value / self._divisor
        elif isinstance(value, int):
            self.message.as_int = value
        else:
            self.message.as_double = value


class _Buckets(_Point):
    def __init__(self, index: int, name: Name) -> None:
        super().__init__(index, live=False)
        self._divisor = 1000 if is_time(name.unit) else 1
        self._bounds = [bound / self._divisor for bound in name.bounds]

    def place(self, points: Any, attributes: Iterable[tuple[str, str]], since: int) -> None:
        super().place(points, attributes, since)
        self.message.explicit_bounds.extend(self._bounds)

    def set(self, value: Distribution, nanoseconds: int) -> None:
        message = self.message
        message.time_unix_nano = nanoseconds
        message.count, message.sum = value.count, value.sum / self._divisor
        message.bucket_counts[:] = value.buckets


def _point(index: int, name: Name) -> _Point:
    if name.kind is Kind.HISTOGRAM:
        return _Buckets(index, name)
    return _Number(index, 1_000_000 if name.kind is Kind.TIMESTAMP else 1, live=name.mode.live)


def _attributes(pairs: Iterable[tuple[str, str]]) -> list[KeyValue]:
    attributes = []
    for key, value in pairs:
        attribute = KeyValue(key=key)
        attribute.value.string_value = value
        attributes.append(attribute)
    return attributes
